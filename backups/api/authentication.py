"""Authenticates a request: by a bearer token, or by the admin's session in a browser."""

from dataclasses import replace
from typing import Any

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request

from backups.identity import admin_site, tokens
from backups.identity.audit import Actor
from backups.identity.second_factor import session_is_strong
from backups.identity.sign_in import actor_of, address_of
from backups.models import ApiToken, Job

from .problems import Refused
from .throttling import BadTokens

REALM = 'Bearer realm="api"'


class Bearer(BaseAuthentication):
    """``Authorization: Bearer SECRET``. An invalid token is refused even if the request has a session."""

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        """The account and its token; None if the request has no token. Raises `Refused`: 401, or 429 for too many."""
        header = get_authorization_header(request).split()
        if not header or header[0].lower() != b"bearer":
            return None
        owner = None
        if len(header) == 2:
            owner = tokens.owner_of(header[1].decode("ascii", "surrogateescape"), address_of(request))
        if owner is None:
            # Counted after the look-up: invalid tokens of others at this address, such as a proxy's, never block a valid one
            BadTokens.count(request)
            raise Refused(
                401,
                "bad_token",
                "The token is unknown, expired or revoked. Nothing was done.",
                "Create one on the page Tokens, or with `manage.py backup_token`.",
                headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
            )
        return owner

    def authenticate_header(self, request: Request) -> str:
        return REALM


class AdminSession(SessionAuthentication):
    """The session of a user of the admin, with the second factor where required, and CSRF protection."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        """The account; None without a session. Raises `Refused` if it may not use the admin, or the CSRF token is missing."""
        django_request: HttpRequest = request._request
        user = getattr(django_request, "user", None)
        if user is None or not user.is_active:
            return None
        if not admin_site.admits(django_request) or not session_is_strong(django_request):
            raise Refused(
                403,
                "session_refused",
                "This session may use neither the admin nor this interface.",
                "Sign in to the admin, with a second factor if required. Programs use a token.",
            )
        self.enforce_csrf(request)
        return user, None

    def enforce_csrf(self, request: Request) -> None:
        try:
            super().enforce_csrf(request)
        except PermissionDenied as problem:
            hint = (
                "Send the value of the cookie csrftoken in the header X-CSRFToken. Programs use a token instead of a session."
            )
            raise Refused(403, "csrf", f"{problem.detail}. Nothing was done.", hint) from None


def actor(request: Request) -> Actor:
    """The account, address and token of a request, for jobs and the audit."""
    token = token_of(request)
    user = request.user  # the owner of the token, if there is one
    return replace(
        actor_of(request._request, Job.Via.API),
        name=user.get_username(),
        id=str(user.pk or ""),
        token=f"{token.name} ({token.hint}…)" if token is not None else "",
    )


def token_of(request: Request) -> ApiToken | None:
    """The token of a request; None for a session."""
    return request.auth if isinstance(request.auth, ApiToken) else None
