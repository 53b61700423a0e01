"""API tokens: the list, a form for a new one, and revocation."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django import forms
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.debug import sensitive_variables

from backups import moments
from backups.identity import known_accounts, tokens
from backups.identity.permissions import SCOPES
from backups.identity.sign_in import actor_of
from backups.models import ApiToken

from .frame import page, render, say
from .step_up import dangerous

SOON = timedelta(days=7)
_MOST = 500

EXPLAINED = {
    "read": "View backups, jobs, plans, alerts, the audit log and consistency checks.",
    "backup": "Back up.",
    "verify": "Verify and drill.",
    "hold": "Hold and release backups.",
    "restore": "Restore into a folder or in place.",
    "download": "Download backups, which contain all data of the application.",
    "delete": "Delete and prune backups.",
    "jobs": "Cancel jobs.",
    "plans": "Add, change, pause and run plans.",
    "alerts": "Acknowledge alerts; change rules and channels.",
    "consistency": "Run consistency checks and repairs.",
    "tokens": "View, create and revoke tokens.",
    "metrics": "Read the Prometheus metrics only.",
}
"""What each scope permits, for the form."""


class NewToken(forms.Form):
    """The form for a new token."""

    name = forms.CharField(max_length=120, label="Name")
    scopes = forms.MultipleChoiceField(
        choices=[(scope, scope) for scope in SCOPES], error_messages={"required": "Select at least one scope."}
    )
    days = forms.TypedChoiceField(
        coerce=int,
        initial=90,
        choices=[(7, "7 days"), (30, "30 days"), (90, "90 days"), (365, "1 year"), (0, "Never")],
        label="Expires after",
    )
    forever = forms.BooleanField(
        required=False, label="I understand that a token without an expiry is valid until it is revoked"
    )

    def clean(self) -> dict[str, Any]:
        found = super().clean() or self.cleaned_data
        if found.get("days") == 0 and not found.get("forever"):
            self.add_error("days", "Choose an expiry, or confirm below that the token never expires.")
        return found


@dataclass(frozen=True, slots=True)
class Scope:
    """A scope as the form shows it."""

    name: str
    text: str
    empty: bool
    chosen: bool


@page("backups.issue_token", methods=("GET", "POST"))
@dangerous()
@sensitive_variables("issued")
def overview(request: HttpRequest) -> HttpResponse:
    """The tokens. The secret of a new token is only in the response to the form that created it."""
    form = NewToken(request.POST or None)
    issued = None
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["days"]
        expires = moments.now() + timedelta(days=days) if days else None
        user: Any = request.user
        wanted = form.cleaned_data
        issued = tokens.issue_token(actor_of(request), user, wanted["name"], wanted["scopes"], expires)
        form = NewToken()
    rows = list(_visible_tokens(request).order_by("-created", "-pk")[:_MOST])
    usable = [row for row in rows if row.usable]
    now = moments.now()
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
    """Revoke a token."""
    token = _visible_tokens(request).filter(pk=token_id).first()
    if token is None or not _may_revoke(request, token):
        raise Http404(f"There is no token {token_id} that you may revoke.")
    tokens.revoke_token(actor_of(request), token)
    say(request, f"Token {token.name} revoked. Requests with it are refused from now on.")
    return redirect("backups:tokens")


@page("backups.issue_token", methods=("POST",))
@dangerous()
def resume(request: HttpRequest, token_id: int) -> HttpResponse:
    """Resume a token that a restore suspended. As a token acts for its account, nobody resumes another's."""
    token = _visible_tokens(request).filter(_own(request), pk=token_id).first()
    if token is None:
        raise Http404(f"You have no token {token_id}.")
    if known_accounts.is_bound(token):
        tokens.resume_token(actor_of(request), token)
        say(request, f"Token {token.name} resumed.")
    else:
        say(request, f"Token {token.name} belonged to an earlier account of your name, and cannot be resumed. Create another.")
    return redirect("backups:tokens")


def _visible_tokens(request: HttpRequest) -> QuerySet[ApiToken]:
    rows = ApiToken.objects.all()
    return rows if request.user.has_perm("backups.view_token") else rows.filter(_own(request))


def _own(request: HttpRequest) -> Q:
    return Q(user_id=str(request.user.pk), username=request.user.get_username())


def _may_revoke(request: HttpRequest, token: ApiToken) -> bool:
    mine = (token.user_id, token.username) == (str(request.user.pk), request.user.get_username())
    return mine or request.user.has_perm("backups.revoke_token")


def _scopes(request: HttpRequest, form: NewToken) -> Iterable[Scope]:
    """The scopes; ``empty`` if the account has none of the permissions of the scope."""
    chosen = form["scopes"].value() or []
    for name, permissions in SCOPES.items():
        empty = bool(permissions) and not any(request.user.has_perm(permission) for permission in permissions)
        yield Scope(name, EXPLAINED.get(name, ""), empty, name in chosen)
