"""Throttling of password guesses: a handler for django-axes, which counts failures in the control database.

::

    AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
    MIDDLEWARE = [..., "axes.middleware.AxesMiddleware"]
    AXES_HANDLER = "backups.identity.login_throttling.Handler"
    AXES_LOCKOUT_CALLABLE = "backups.identity.login_throttling.answer"

After five wrong passwords for an account from one address, the next is checked only after half a minute, then a minute, two,
four, up to an hour. An address that tries many accounts waits too. A correct password resets the count, and so does a day
without a wrong one.

Wrong passwords from all addresses together count too: after fifty, the wait grows to five minutes. No account is locked by
that for its owner: an address from which the account has signed in during the last 90 days is judged by its own count.

A password counts as wrong before it is checked, in one step with the decision whether it is: of many at once, no more are
checked than of as many one after the other.
"""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.helpers import get_client_username
from axes.models import AccessAttempt, AccessLog
from axes.utils import reset
from django.db import connections, router, transaction
from django.db.models import F, Max, Sum
from django.http import HttpRequest, HttpResponse

from backups import moments
from backups.models import Job

from . import audit
from .audit import Actor

FREE = 5
"""Wrong passwords for an account from one address before the first wait."""

FREE_OF_ADDRESS = 100
"""The same for all accounts together."""

FREE_EVERYWHERE = 50
"""Wrong passwords for an account from all addresses from which it has not signed in."""

FIRST, LONGEST, LONGEST_EVERYWHERE = timedelta(seconds=30), timedelta(hours=1), timedelta(minutes=5)
REMEMBERED = timedelta(days=1)
"""How long a wrong password counts (``AXES_COOLOFF_TIME``)."""

KNOWN = timedelta(days=90)
"""How long an address is known to be one of the account's."""


def wait_after(failures: int) -> timedelta:
    """The wait after *failures* wrong passwords: none, 30 s, 1 min, 2 min …, an hour."""
    return _growing(failures - FREE, LONGEST)


def seconds_left(username: str, address: str, now: datetime) -> int:
    """Whole seconds until the next password for *username* from *address* is checked; 0: it is checked now."""
    recent = AccessAttempt.objects.filter(attempt_time__gt=now - REMEMBERED)
    here, of_account = recent.filter(ip_address=address or None), recent.filter(username=username[:255])
    own = AccessLog.objects.filter(username=username[:255], attempt_time__gt=now - KNOWN)
    ends = [
        _until(here.filter(username=username[:255]), wait_after),
        _until(here, lambda failures: FIRST if failures >= FREE_OF_ADDRESS else timedelta(0)),
    ]
    if not (address and own.filter(ip_address=address).exists()):
        elsewhere = of_account.exclude(ip_address__in=own.values("ip_address"))
        ends.append(_until(elsewhere, lambda failures: _growing(failures - FREE_EVERYWHERE, LONGEST_EVERYWHERE)))
    return max(0, math.ceil((max(end or now for end in ends) - now).total_seconds()))


def claim(username: str, address: str, now: datetime) -> bool:
    """Count a password that is about to be checked; False, and not counted, if it must wait."""
    database = router.db_for_write(AccessAttempt)
    with transaction.atomic(using=database):
        if connections[database].vendor == "postgresql":  # SQLite has one writer at a time
            with connections[database].cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"sign-in:{username[:255]}"])
        if seconds_left(username, address, now):
            return False
        attempt, made = AccessAttempt.objects.get_or_create(
            username=username[:255], ip_address=address or None, user_agent="", defaults={"failures_since_start": 1}
        )
        if not made:
            AccessAttempt.objects.filter(pk=attempt.pk).update(
                failures_since_start=F("failures_since_start") + 1, attempt_time=now
            )
    return True


def remember(username: str, address: str, now: datetime) -> None:
    """Note that *username* has signed in from *address*; addresses that were not used for long are forgotten."""
    with transaction.atomic(using=router.db_for_write(AccessLog)):
        AccessLog.objects.filter(attempt_time__lte=now - KNOWN).delete()
        if not AccessLog.objects.filter(username=username, ip_address=address).update(attempt_time=now):
            AccessLog.objects.create(username=username, ip_address=address)


def forget(username: str, address: str) -> None:
    """Reset the count of an account at an address, after its correct password."""
    reset(ip=address or None, username=username)


def sentence(seconds: int) -> str:
    """The message to a person who must wait."""
    how_long = f"{seconds} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
    return f"Too many wrong passwords from here. Wait {how_long}, then try again."


def answer(request: HttpRequest, response: HttpResponse | None, credentials: dict[str, Any] | None) -> HttpResponse:
    """*response*, or a short text, with status 429 and ``Retry-After``."""
    left = seconds_left(
        get_client_username(request, credentials) or "", str(request.META.get("REMOTE_ADDR", "")), moments.now()
    )
    if response is None:
        response = HttpResponse(sentence(left), content_type="text/plain; charset=utf-8")
    response.status_code = 429
    response.headers["Retry-After"] = str(max(1, left))
    return response


class Handler(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """Counts as axes does, and delays an account instead of locking it."""

    def is_allowed(self, request: Any, credentials: dict[str, Any] | None = None) -> bool:
        """Whether the password is checked, which counts it (`claim`)."""
        self.clean_expired_user_attempts(request, credentials)
        username = get_client_username(request, credentials) or ""
        return claim(username, request.axes_ip_address or "", moments.now())

    def is_locked(self, request: Any, credentials: dict[str, Any] | None = None) -> bool:
        """Whether a password is refused unchecked now."""
        username = get_client_username(request, credentials) or ""
        return seconds_left(username, request.axes_ip_address or "", moments.now()) > 0

    def user_login_failed(self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
        """Audit the wait that follows a wrong password, unless that was refused unchecked. It has been counted (`claim`).

        Unlike axes' handler, it stores nothing of the request, and one row for all browsers.
        """
        if request is None:
            return
        request.axes_credentials = credentials
        if request.axes_locked_out:
            return
        username, address = get_client_username(request, credentials) or "", request.axes_ip_address or ""
        if left := seconds_left(username, address, moments.now()):
            request.axes_locked_out = True
            actor = Actor(name=username[:150], via=Job.Via.PAGES, address=address)
            audit.record(actor, "account.slowed", f"account:{username[:150]}", after={"seconds": left})

    def user_logged_in(self, sender: Any, request: Any, user: Any, **kwargs: Any) -> None:
        """Reset the count of the account at its address, and remember the address."""
        username, address = user.get_username(), request.axes_ip_address or ""
        forget(username, address)
        if address:
            remember(username, address, moments.now())


def _growing(over: int, longest: timedelta) -> timedelta:
    return min(longest, FIRST * float(2 ** min(over, 20))) if over >= 0 else timedelta(0)


def _until(attempts: Any, rule: Callable[[int], timedelta]) -> datetime | None:
    total = attempts.aggregate(failures=Sum("failures_since_start"), last=Max("attempt_time"))
    wait = rule(total["failures"] or 0)
    return total["last"] + wait if wait else None
