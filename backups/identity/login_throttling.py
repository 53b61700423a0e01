"""Guesses of passwords are slowed down: a handler for django-axes, which counts them in the control database.

::

    AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
    MIDDLEWARE = [..., "axes.middleware.AxesMiddleware"]
    AXES_HANDLER = "backups.identity.login_throttling.Handler"
    AXES_LOCKOUT_CALLABLE = "backups.identity.login_throttling.answer"

Five wrong passwords of an account from one address: the next one is looked at half a minute later, then a minute, two, four, up
to an hour. Nobody is locked out for good, and nobody elsewhere is kept waiting. Who tries many accounts from one address waits
too. A right password starts the count anew, and so does a day without a wrong one.
"""

from __future__ import annotations

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
"""Wrong passwords of one account from one address before there is a wait."""

FREE_OF_ADDRESS = 100
"""The same of one address for all accounts together."""

FIRST, LONGEST = timedelta(seconds=30), timedelta(hours=1)
REMEMBERED = timedelta(days=1)
"""How long a wrong password counts after the last one (``AXES_COOLOFF_TIME``)."""


def wait_after(failures: int) -> timedelta:
    """How long the next guess waits after *failures* wrong ones: nothing, 30 s, 1 min, 2 min …, an hour."""
    if failures < FREE:
        return timedelta(0)
    return min(LONGEST, FIRST * float(2 ** min(failures - FREE, 20)))


def seconds_left(username: str, address: str, now: datetime) -> int:
    """How long the next password for *username* from *address* must wait, in whole seconds; 0: it is looked at now."""
    recent = AccessAttempt.objects.filter(ip_address=address or None, attempt_time__gt=now - REMEMBERED)
    mine = _until(recent.filter(username=username), wait_after)
    everybody = _until(recent, lambda failures: FIRST if failures >= FREE_OF_ADDRESS else timedelta(0))
    return max(0, math.ceil((max(mine or now, everybody or now) - now).total_seconds()))


def forget(username: str, address: str) -> None:
    """Start the count of an account at an address anew: its password was given."""
    reset(ip=address or None, username=username)


def sentence(seconds: int) -> str:
    """What a person is told who must wait."""
    how_long = f"{seconds} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"
    return f"Too many wrong passwords from here. The next one is looked at in {how_long}; wait, then try again."


def answer(request: HttpRequest, response: HttpResponse | None, credentials: dict[str, Any] | None) -> HttpResponse:
    """The page that was going to be the answer, with the status of somebody who must wait."""
    left = seconds_left(
        get_client_username(request, credentials) or "", str(request.META.get("REMOTE_ADDR", "")), timezone.now()
    )
    if response is None:
        response = HttpResponse(sentence(left), content_type="text/plain; charset=utf-8")
    response.status_code = 429
    response.headers["Retry-After"] = str(max(1, left))
    return response


class Handler(AxesDatabaseHandler):  # type: ignore[misc]  # axes has no types
    """Counts as axes does, and lets an account wait rather than locking it."""

    def is_locked(self, request: Any, credentials: dict[str, Any] | None = None) -> bool:
        """Whether a password is not even looked at now."""
        username = get_client_username(request, credentials) or ""
        return seconds_left(username, request.axes_ip_address or "", timezone.now()) > 0

    def user_login_failed(self, sender: Any, credentials: dict[str, Any], request: Any = None, **kwargs: Any) -> None:
        """Count a wrong password; one that was not looked at does not count. The audit is told of each wait with its length.

        Unlike axes' own, it keeps nothing of what was posted, and one row for all browsers.
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
    """When the wait is over that *attempts* add up to; None: there is none."""
    found = attempts.aggregate(failures=Sum("failures_since_start"), last=Max("attempt_time"))
    wait = rule(found["failures"] or 0)
    return found["last"] + wait if wait else None
