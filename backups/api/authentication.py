"""Who asks: whoever bears a token, or the admin's session in a browser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request

from backups.identity import tokens
from backups.identity.audit import Actor
from backups.identity.second_factor import session_is_strong
from backups.identity.sign_in import actor_of, address_of
from backups.models import ApiToken, Job

from .problems import Refused
from .throttling import BadTokens

REALM = 'Bearer realm="api"'


class Bearer(BaseAuthentication):
    """``Authorization: Bearer SECRET``. A wrong one is refused, whatever else the request carries."""

    def authenticate(self, request: Request) -> tuple[Any, ApiToken] | None:
        """The account and its token; None when the request carries none. Raises `Refused`: 401, or 429 for too many wrong."""
        given = get_authorization_header(request).split()
        if not given or given[0].lower() != b"bearer":
            return None
        found = None
        if len(given) == 2:
            found = tokens.owner_of(given[1].decode("ascii", "surrogateescape"), address_of(request))
        if found is None:
            # Counted only now: a good token gets through whatever others at the same address, such as a proxy's, have sent
            BadTokens.count(request)
            raise Refused(
                401,
                "bad_token",
                "The token is not known, has expired, or was revoked. Nothing was done.",
                "Make a new one on the page Tokens, or with `manage.py create_token`.",
                headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'},
            )
        return found

    def authenticate_header(self, request: Request) -> str:
        """For answers with 401."""
        return REALM


class AdminSession(SessionAuthentication):
    """The session of somebody who may use the admin, with CSRF for all that changes something.

    Here, and only here, it is decided whether a session is good enough: as for the pages, and with its second factor.
    """

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        """The account; None for nobody. Raises `Refused` for a session that may not use the admin, or without CSRF token."""
        plain: HttpRequest = request._request
        user = getattr(plain, "user", None)
        if user is None or not user.is_active:
            return None
        if not admin.site.has_permission(plain) or not session_is_strong(plain):
            raise Refused(
                403,
                "session_refused",
                "This session may not use the admin, nor this interface.",
                "Sign in to the admin, with the second factor where it is asked for; programs use a token.",
            )
        self.enforce_csrf(request)
        return user, None

    def enforce_csrf(self, request: Request) -> None:
        """Raises `Refused` for a change without the CSRF token."""
        try:
            super().enforce_csrf(request)
        except PermissionDenied as problem:
            hint = "Send the cookie csrftoken's value in the header X-CSRFToken; programs use a token instead of a session."
            raise Refused(403, "csrf", f"{problem.detail}. Nothing was done.", hint) from None


def actor(request: Request) -> Actor:
    """On whose behalf a request is answered; names the token."""
    token = token_of(request)
    known = actor_of(request._request, Job.Via.API)
    user = request.user  # of the token, where there is one
    return replace(
        known,
        name=user.get_username(),
        id=str(user.pk or ""),
        token=f"{token.name} ({token.hint}…)" if token is not None else "",
    )


def token_of(request: Request) -> ApiToken | None:
    """The token that a request came with; None for a session."""
    return request.auth if isinstance(request.auth, ApiToken) else None
