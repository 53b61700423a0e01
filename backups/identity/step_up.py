"""Step-up authentication: a dangerous operation takes a session whose account has lately shown that it is still there.

Signing in shows it, and so does `confirm`, for ``BACKUPS_STEP_UP_MINUTES`` (10). With 0, each operation takes a confirmation of
its own. Time and method are in the session, which is on the server. Tokens are limited by their scopes instead.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth.signals import user_logged_in
from django.dispatch import receiver
from django.http import HttpRequest

from backups import moments

from . import audit, second_factor
from .sign_in import actor_of, password_problem

Condition = Callable[..., bool]
"""Whether a request to a dangerous view is dangerous, by the arguments of the view."""

LONGEST_ANSWER = 4096
ONE_USE = timedelta(minutes=2)
"""How long a confirmation waits for its operation where each takes its own."""

_KEY = "_confirmed"


class Method(StrEnum):
    """How an account has shown that it is there."""

    SIGN_IN = "sign_in"
    PASSWORD = "password"  # noqa: S105
    CODE = "code"


def always(*_: Any, **__: Any) -> bool:
    """A `Condition`: every request."""
    return True


def method_for(request: HttpRequest) -> Method:
    """What `confirm` takes: a code of the second factor if the account has one, otherwise its password."""
    user: Any = request.user
    enrolled = apps.is_installed("django_otp.plugins.otp_totp") and second_factor.device_of(user) is not None
    return Method.CODE if enrolled else Method.PASSWORD


def confirm(request: HttpRequest, answer: str) -> str:
    """Check the password or code of the account, and note it in the session. Returns an error message, or "" if it is right.

    Wrong answers are audited and throttled as at signing in.
    """
    method = method_for(request)
    if len(answer) > LONGEST_ANSWER:
        return "That is too long. Nothing was done."
    if method is Method.PASSWORD:
        if problem := password_problem(request, answer):
            return problem
    else:
        checked = second_factor.check(request, answer)
        if not checked.by:
            return "That code is wrong. Nothing was done." + (f" Try again in {checked.wait} s." if checked.wait else "")
    note(request, method)
    audit.record(actor_of(request), "account.confirmed", f"account:{request.user.get_username()}", after={"by": method.value})
    return ""


def admit(request: HttpRequest) -> bool:
    """Whether the session may do something dangerous now. Where each operation takes its own confirmation, this uses it up."""
    kept = request.session.get(_KEY)
    if not isinstance(kept, dict) or not isinstance(kept.get("at"), int | float):
        return False
    now = moments.now()
    age = now - datetime.fromtimestamp(kept["at"], tz=now.tzinfo)
    limit = timedelta(minutes=float(getattr(settings, "BACKUPS_STEP_UP_MINUTES", 10)))
    if limit:
        return timedelta(0) <= age <= limit  # a negative age: the clock was set back
    if kept.get("by") == Method.SIGN_IN.value:
        return False
    del request.session[_KEY]
    return timedelta(0) <= age <= ONE_USE


def note(request: HttpRequest, method: Method) -> None:
    """Note in the session that its account has just shown that it is there."""
    request.session[_KEY] = {"at": moments.now().timestamp(), "by": method.value}


@receiver(user_logged_in)
def _signed_in(sender: Any, request: HttpRequest | None, **_: Any) -> None:
    if request is not None and hasattr(request, "session"):
        note(request, Method.SIGN_IN)
