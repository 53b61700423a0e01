"""Throttling of password guesses: a handler for django-axes, which counts failures in the control database.

::

    AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
    MIDDLEWARE = [..., "axes.middleware.AxesMiddleware"]
    AXES_HANDLER = "backups.identity.login_throttling.Handler"
    AXES_LOCKOUT_CALLABLE = "backups.identity.login_throttling.answer"

After five wrong passwords for an account from one address, the next is checked only after half a minute, then a minute, two,
four, up to an hour. No account is locked permanently, and other addresses do not wait. An address that tries many accounts
waits too. A correct password resets the count, and so does a day without a wrong one.
"""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.helpers import get_client_username
from axes.models import AccessAttempt
from axes.utils import reset
from django.db import router, transaction
from django.db.models import F, Max, Sum
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from backups.models import Job

from . import audit
from .audit import Actor

FREE = 5
"""Wrong passwords for an account from one address before the first wait."""

FREE_OF_ADDRESS = 100
"""The same for all accounts together."""

FIRST, LONGEST = timedelta(seconds=30), timedelta(hours=1)
REMEMBERED = timedelta(days=1)
"""How long a wrong password counts (``AXES_COOLOFF_TIME``)."""


def wait_after(failures: int) -> timedelta:
    """The wait after *failures* wrong passwords: none, 30 s, 1 min, 2 min …, an hour."""
    if failures < FREE:
        return timedelta(0)
    return min(LONGEST, FIRST * float(2 ** min(failures - FREE, 20)))


def seconds_left(username: str, address: str, now: datetime) -> int:
    """Whole seconds until the next password for *username* from *address* is checked; 0: it is checked now."""
    recent = AccessAttempt.objects.filter(ip_address=address or None, attempt_time__gt=now - REMEMBERED)
    of_account = _until(recent.filter(username=username), wait_after)
    of_address = _until(recent, lambda failures: FIRST if failures >= FREE_OF_ADDRESS else timedelta(0))
    return max(0, math.ceil((max(of_account or now, of_address or now) - now).total_seconds()))


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
        get_client_username(request, credentials) or "", str(request.META.get("REMOTE_ADDR", "")), timezone.now()
    )
    if response is None:
        response = HttpResponse(sentence(left), content_type="text/plain; charset=utf-8")
    response.status_code = 429
    response.headers["Retry-After"] = str(max(1, left))
    return response


class Handler(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """Counts as axes does, and delays an account instead of locking it."""

    def is_locked(self, request: Any, credentials: dict[str, Any] | None = None) -> bool:
        """Whether a password is refused unchecked now."""
        username = get_client_username(request, credentials) or ""
        return seconds_left(username, request.axes_ip_address or "", timezone.now()) > 0

    def user_login_failed(self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
        """Count a wrong password, unless it was refused unchecked, and audit the wait that follows.

        Unlike axes' handler, it stores nothing of the request, and one row for all browsers.
        """
        if request is None:
            return
        request.axes_credentials = credentials
        if request.axes_locked_out:
            return
        self.clean_expired_user_attempts(request, credentials)
        username, address = get_client_username(request, credentials) or "", request.axes_ip_address or ""
        now = timezone.now()
        with transaction.atomic(using=router.db_for_write(AccessAttempt)):
            attempt, made = AccessAttempt.objects.select_for_update().get_or_create(
                username=username[:255], ip_address=address or None, user_agent="", defaults={"failures_since_start": 1}
            )
            if not made:
                AccessAttempt.objects.filter(pk=attempt.pk).update(
                    failures_since_start=F("failures_since_start") + 1, attempt_time=now
                )
            left = seconds_left(username, address, now)
            if left:
                request.axes_locked_out = True
                actor = Actor(name=username[:150], via=Job.Via.PAGES, address=address)
                audit.record(actor, "account.slowed", f"account:{username[:150]}", after={"seconds": left})


def _until(attempts: Any, rule: Callable[[int], timedelta]) -> datetime | None:
    total = attempts.aggregate(failures=Sum("failures_since_start"), last=Max("attempt_time"))
    wait = rule(total["failures"] or 0)
    return total["last"] + wait if wait else None
