"""How often one may ask. Counted in Django's cache (setting ``CACHES``): with several web processes, give them one in common.

Rates are the REST framework's: ``REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]``, a number and ``second``, ``minute``, ``hour`` or
``day``; None for no limit.

==================  ==========  ===============================================================================
name                rate        of what
==================  ==========  ===============================================================================
``caller``          600/minute  requests with one token, or of one account's sessions
``changes``         120/minute  of these, requests that change something
``anonymous``       60/minute   requests from one address by nobody in particular
``bad_tokens``      20/minute   wrong tokens from one address
``audit_verify``    6/minute    readings of the whole audit by one caller
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
        """The rate of the settings, or the default."""
        scope = str(self.scope)
        given: dict[str, Any] = api_settings.DEFAULT_THROTTLE_RATES or {}
        rate: str | None = given.get(scope, DEFAULTS[scope])
        return rate

    def _named(self, who: str) -> str:
        return f"backups.api.{self.scope}.{who}"


class CallerRate(_Rate):
    """Of a token or an account."""

    scope = "caller"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """None: not limited by this rate."""
        who = caller(request)
        return self._named(who) if who else None


class ChangesRate(CallerRate):
    """Of those, what changes something."""

    scope = "changes"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """None: not limited by this rate."""
        return None if request.method in ("GET", "HEAD") else super().get_cache_key(request, view)


class AnonymousRate(_Rate):
    """Of an address, without token or session."""

    scope = "anonymous"

    def get_cache_key(self, request: Request, view: APIView) -> str | None:
        """None: not limited by this rate."""
        return None if caller(request) else self._named(address_of(request._request))


class AuditVerifyRate(CallerRate):
    """Of readings of the whole audit."""

    scope = "audit_verify"


class BadTokens(_Rate):
    """Of wrong tokens from an address."""

    scope = "bad_tokens"

    @classmethod
    def count(cls, request: Request) -> None:
        """Note a wrong token. Raises `Refused` with 429 when there were too many."""
        rate = cls()
        if not rate.allow_request(request, None):  # type: ignore[arg-type]  # the view is not looked at
            wait = max(1, int(rate.wait() or 1))
            raise Refused(
                429,
                "too_many_requests",
                "Too many wrong tokens came from this address. Nothing was done.",
                f"Wait {wait} s, and send a good one.",
                headers={"Retry-After": str(wait)},
            )

    def get_cache_key(self, request: Request, view: Any) -> str:
        """By address."""
        return self._named(address_of(request._request))


def caller(request: Request) -> str:
    """The token, or the account, that a request is from; empty for nobody."""
    if isinstance(request.auth, ApiToken):
        return f"token:{request.auth.pk}"
    return f"account:{request.user.pk}" if request.user and request.user.is_authenticated else ""
