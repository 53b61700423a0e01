"""Requests that wait for a second person: the list, and deciding about one."""

import uuid
from collections.abc import Iterator
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone

from backups.engine.errors import EngineError, UsageError
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.models import Approval

from .frame import found_or_404, page, render, say
from .step_up import dangerous

_MOST = 100
_SECRET = frozenset({"key", "password"})


@page("backups.view_audit")
def overview(request: HttpRequest) -> HttpResponse:
    """The open requests with what each will do, and the last ended ones."""
    rows = list(Approval.objects.all()[:_MOST])
    context = {
        "open": list(_described(request, [row for row in rows if row.is_open])),
        "ended": [(row, four_eyes.SUBJECTS[row.subject], four_eyes.state_of(row)) for row in rows if not row.is_open],
        "required": four_eyes.is_required(),
    }
    return render(request, "backups/approvals.html", "Approvals", context)


def _described(request: HttpRequest, rows: list[Approval]) -> Iterator[dict[str, Any]]:
    for row in rows:
        subject = four_eyes.SUBJECTS[row.subject]
        mine = (row.user_id, row.username) == (str(request.user.pk), request.user.get_username())
        shown = mine or request.user.has_perm(subject.permission)
        fields = [(name, "(hidden)" if name in _SECRET else value) for name, value in row.content if value]
        yield {
            "row": row,
            "subject": subject,
            "fields": fields if shown else [],
            "shown": shown,
            "mine": mine,
            "why_not": "" if mine else four_eyes.why_not(request.user, row),
            "ready": four_eyes.may_go_ahead(row),
            "alone_from": row.emergency + four_eyes.ALONE_AFTER if row.emergency else None,
            "by_page": not row.address.startswith("/api/"),
            "now": timezone.now(),
        }


@page("backups.view_audit", methods=("POST",))
@dangerous()
def decide(request: HttpRequest, key: uuid.UUID) -> HttpResponse:
    """Approve or reject a request, or declare an emergency."""
    row = found_or_404(Approval.objects.all(), "request", pk=key)
    title, actor, what = four_eyes.SUBJECTS[row.subject].title, actor_of(request), request.POST.get("do", "")
    try:
        if what == "approve":
            four_eyes.approve(actor, request.user, row)
            say(request, f"{title}: approved. {row.username} can carry it out once, within four hours.")
        elif what == "reject":
            four_eyes.reject(actor, request.user, row, request.POST.get("reason", ""))
            say(request, f"{title}: rejected. Nothing was done.")
        elif what == "emergency":
            four_eyes.declare_emergency(actor, row)
            say(request, f"{title}: emergency declared. You can carry it out alone in an hour, unless somebody rejects it.")
        else:
            raise UsageError(f"Unknown action {what!r}.", hint="Nothing was changed.")
    except EngineError as problem:
        say(request, f"{problem.message} {problem.hint}", level=messages.ERROR)
    return redirect("backups:approvals")
