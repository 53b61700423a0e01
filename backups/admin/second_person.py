"""Views of a `four_eyes.Subject` ask for a reason, keep the request, and go on with it once somebody else has approved it."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from backups.engine.errors import EngineError, UsageError
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of

from .frame import render, say

REASON, APPROVAL = "approval_reason", "approval"


def fields(request: HttpRequest, left: Sequence[str]) -> list[tuple[str, str]]:
    """The fields of a form without those named in *left*."""
    return [(name, str(value)) for name, values in request.POST.lists() if name not in left for value in values]


def has_approved(request: HttpRequest) -> bool:
    """Whether this request was approved, and is carried out now."""
    return hasattr(request, "approved")


def settle(
    request: HttpRequest, subject: four_eyes.Subject, named: Mapping[str, Any], left: Sequence[str]
) -> HttpResponse | None:
    """None for an approved request, which is used up by this; otherwise the page that asks for a reason, or where it waits.

    Raises `EngineError` for an approval of something else.
    """
    if request.FILES:
        raise UsageError("A file cannot be kept for approval.", hint="Nothing was done. Paste its text into the form.")
    content = fields(request, (*left, REASON, APPROVAL))
    sent = four_eyes.Sent(subject, str(request.method), request.get_full_path(), content, named)
    actor = actor_of(request)
    if key := request.POST.get(APPROVAL):
        request.approved = four_eyes.admit(actor, key, sent)  # type: ignore[attr-defined]
        return None
    problem = ""
    if REASON in request.POST:
        try:
            four_eyes.ask(actor, sent, request.POST[REASON])
        except EngineError as refused:
            problem = f"{refused.message} {refused.hint}"
        else:
            say(request, f"{subject.title}: nothing was done yet. Your request waits for a second person.")
            return redirect("backups:approvals")
    context = {"action": request.get_full_path(), "kept": content, "problem": problem, "field": REASON, "subject": subject}
    return render(request, "backups/second_person.html", "A second person has to approve this", context, status=403)
