"""Who may use the API?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django import forms
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from backups.identity import tokens
from backups.identity.permissions import SCOPES
from backups.identity.sign_in import actor_of
from backups.models import ApiToken

from .frame import page, render, say

SOON = timedelta(days=7)
_MOST = 500

EXPLAINED = {
    "read": "See backups, jobs, plans, the audit and what was checked. Changes nothing.",
    "backup": "Make backups.",
    "verify": "Prove backups, and restore them for a test.",
    "hold": "Hold backups against retention, and release them.",
    "restore": "Restore into a folder, or over the live data.",
    "download": "Download backups: all data of the application.",
    "delete": "Delete and prune backups.",
    "jobs": "Cancel jobs.",
    "plans": "Add, change, pause and run plans.",
    "alerts": "Acknowledge alerts, and change who hears of them.",
    "consistency": "Check the stores against each other, and repair.",
    "tokens": "See, make and revoke tokens.",
    "metrics": "Read the metrics for Prometheus. Nothing else.",
}
"""What a scope lets a token do, for people."""


class NewToken(forms.Form):
    """A token to be made."""

    name = forms.CharField(max_length=120, label="What is it for?")
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in SCOPES], error_messages={"required": "Choose one or more."}
    )
    days = forms.TypedChoiceField(
        coerce=int,
        initial=90,
        choices=[(7, "7 days"), (30, "30 days"), (90, "90 days"), (365, "a year"), (0, "never expires")],
        label="Expires after",
    )
    forever = forms.BooleanField(required=False, label="I know that a token without an end is good until somebody revokes it")

    def clean(self) -> dict[str, Any]:
        """No token without an end by accident."""
        found = super().clean() or self.cleaned_data
        if found.get("days") == 0 and not found.get("forever"):
            self.add_error("days", "Choose a time, or confirm below that it shall never expire.")
        return found


@dataclass(frozen=True, slots=True)
class Scope:
    """A scope as the form shows it."""

    name: str
    text: str
    empty: bool
    chosen: bool


@page("backups.issue_token", methods=("GET", "POST"))
@sensitive_variables("issued")
def overview(request: HttpRequest) -> HttpResponse:
    """Who may use the API? The secret of a new token is in the answer to the form that made it, and nowhere else."""
    form = NewToken(request.POST or None)
    issued = None
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        expires = timezone.now() + timedelta(days=days) if days else None
        user: Any = request.user
        wanted = form.cleaned_data
        issued = tokens.issue_token(actor_of(request), user, wanted["name"], wanted["scopes"], expires)
        form = NewToken()
    rows = list(_visible(request).order_by("-created", "-pk")[:_MOST])
    usable = [row for row in rows if row.usable]
    now = timezone.now()
    context = {
        "form": form,
        "issued": issued,
        "scopes": list(_scopes(request, form)),
        "rows": [(row, _may_revoke(request, row), bool(row.expires and row.expires - now < SOON)) for row in rows],
        "usable": len(usable),
        "endless": sum(row.expires is None for row in usable),
        "soon": sum(bool(row.expires and row.expires - now < SOON) for row in usable),
        "everybody": request.user.has_perm("backups.view_token"),
        "more": len(rows) == _MOST,
    }
    return render(request, "backups/tokens.html", "Tokens", context, status=400 if form.errors else 200)


@page("backups.issue_token", methods=("POST",))
def revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """Let a token be good for nothing."""
    token = _visible(request).filter(pk=token_id).first()
    if token is None or not _may_revoke(request, token):
        raise Http404
    tokens.revoke_token(actor_of(request), token)
    say(request, f"The token {token.name} is revoked: what uses it is refused from now on.")
    return redirect("backups:tokens")


def _visible(request: HttpRequest) -> QuerySet[ApiToken]:
    rows = ApiToken.objects.all()
    return rows if request.user.has_perm("backups.view_token") else rows.filter(_own(request))


def _own(request: HttpRequest) -> Q:
    return Q(user_id=str(request.user.pk), username=request.user.get_username())


def _may_revoke(request: HttpRequest, token: ApiToken) -> bool:
    mine = (token.user_id, token.username) == (str(request.user.pk), request.user.get_username())
    return mine or request.user.has_perm("backups.revoke_token")


def _scopes(request: HttpRequest, form: NewToken) -> Iterable[Scope]:
    """The scopes; one of which this account has no permission would open nothing."""
    chosen = form["scopes"].value() or []
    for name, permissions in SCOPES.items():
        empty = bool(permissions) and not any(request.user.has_perm(permission) for permission in permissions)
        yield Scope(name, EXPLAINED.get(name, ""), empty, name in chosen)


urlpatterns: list[URLPattern] = [
    path("tokens/", overview, name="tokens"),
    path("tokens/<int:token_id>/revoke/", revoke, name="token_revoke"),
]
