"""Request rates, counted in Django's cache (setting ``CACHES``): several web processes need a shared one.

``REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]`` replaces the defaults: a number per ``second``, ``minute``, ``hour`` or ``day``, or
None for no limit.

==================  ==========  ===============================================================================
name                rate        counts
==================  ==========  ===============================================================================
``caller``          600/minute  requests of one token, or of one account's sessions
``changes``         120/minute  those of them that change something
``anonymous``       60/minute   unauthenticated requests from one address
``bad_tokens``      20/minute   invalid tokens from one address
``audit_verify``    6/minute    verifications of the whole audit by one caller
==================  ==========  ===============================================================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rest_framework.request import Request
from rest_framework.settings import api_settings
from rest_framework.throttling import SimpleRateThrottle

from backups.identity.sign_in import address_of
from backups.models import ApiToken

from .problems import Refused

if TYPE_CHECKING:
    from rest_framework.views import APIView

DEFAULTS: dict[str, str | None] = {
    "caller": "600/minute",
    "changes": "120/minute",
    "anonymous": "60/minute",
    "bad_tokens": "20/minute",
    "audit_verify": "6/minute",
}


class _Rate(SimpleRateThrottle):
    def get_rate(self) -> str | None:
        """The configured rate, or the default."""
        scope = str(self.scope)
        configured: dict[str, Any] = api_settings.DEFAULT_THROTTLE_RATES or {}
        rate: str | None = configured.get(scope, DEFAULTS[scope])
        return rate

    def _key(self, subject: str) -> str:
        return f"backups.api.{self.scope}.{subject}"


class CallerRate(_Rate):
    """Requests of one token or account."""

    scope = "caller"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """None: not limited by this rate."""
        subject = caller(request)
        return self._key(subject) if subject else None


class ChangesRate(CallerRate):
    """Requests of one token or account that change something."""

    scope = "changes"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """None: not limited by this rate."""
        return None if request.method in ("GET", "HEAD") else super().get_cache_key(request, view)


class AnonymousRate(_Rate):
    """Requests from one address with neither token nor session."""

    scope = "anonymous"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """None: not limited by this rate."""
        return None if caller(request) else self._key(address_of(request._request))


class AuditVerifyRate(CallerRate):
    """Verifications of the whole audit."""

    scope = "audit_verify"


class BadTokens(_Rate):
    """Invalid tokens from one address."""

    scope = "bad_tokens"

    @classmethod
    def count(cls, request: Request) -> None:
        """Count an invalid token. Raises `Refused` with 429 if there were too many."""
        rate = cls()
        if not rate.allow_request(request, None):  # type: ignore[arg-type]  # the key does not depend on the view
            wait = max(1, int(rate.wait() or 1))
            raise Refused(
                429,
                "too_many_requests",
                "Too many invalid tokens came from this address. Nothing was done.",
                f"Wait {wait} s, then send a valid token.",
                headers={"Retry-After": str(wait)},
            )

    def get_cache_key(self, request: Request, view: Any) -> str:
        """The key of the client's address."""
        return self._key(address_of(request._request))


def caller(request: Request) -> str:
    """Identifies the token or account of a request; empty for an anonymous one."""
    if isinstance(request.auth, ApiToken):
        return f"token:{request.auth.pk}"
    return f"account:{request.user.pk}" if request.user and request.user.is_authenticated else ""
