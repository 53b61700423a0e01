"""Request rates, counted in Django's cache (setting ``CACHES``): several web processes need a shared one.

``BACKUPS["API_RATES"]`` replaces a default, by its scope: a number per ``second``, ``minute``, ``hour`` or
``day``, or None for no limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rest_framework.request import Request
from rest_framework.throttling import SimpleRateThrottle

from backups.conf import configuration
from backups.identity.sign_in import address_of
from backups.models import ApiToken

from .problems import Refused

if TYPE_CHECKING:
    from rest_framework.views import APIView


class Rate(SimpleRateThrottle):
    """A rate with its *default*, counted for each subject."""

    default = ""

    def get_rate(self) -> str | None:
        return configuration().api_rates.get(str(self.scope), self.default)

    def get_cache_key(self, request: Request, view: APIView | None) -> str | None:
        """The key of the counter; None if the rate does not apply."""
        subject = self.subject(request)
        return f"backups.api.{self.scope}.{subject}" if subject else None

    def subject(self, request: Request) -> str:
        """The caller for whom a request counts; empty if the rate does not apply."""
        return caller(request)


class CallerRate(Rate):
    """Requests of one token, or of one account's sessions."""

    scope = "caller"
    default = "600/minute"


class ChangesRate(Rate):
    """Requests of one token or account that change something."""

    scope = "changes"
    default = "120/minute"

    def subject(self, request: Request) -> str:
        return "" if request.method in ("GET", "HEAD") else caller(request)


class AnonymousRate(Rate):
    """Unauthenticated requests from one address."""

    scope = "anonymous"
    default = "60/minute"

    def subject(self, request: Request) -> str:
        return "" if caller(request) else address_of(request._request)


class BadTokens(Rate):
    """Invalid tokens from one address."""

    scope = "bad_tokens"
    default = "20/minute"

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

    def subject(self, request: Request) -> str:
        return address_of(request._request)


class AuditVerifyRate(Rate):
    """Verifications of the whole audit by one caller."""

    scope = "audit_verify"
    default = "6/minute"


RATES: tuple[type[Rate], ...] = (CallerRate, ChangesRate, AnonymousRate, BadTokens, AuditVerifyRate)


def caller(request: Request) -> str:
    """Identifies the token or account of a request; empty for an anonymous one."""
    if isinstance(request.auth, ApiToken):
        return f"token:{request.auth.pk}"
    return f"account:{request.user.pk}" if request.user and request.user.is_authenticated else ""
