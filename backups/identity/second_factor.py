"""The second factor: codes of an authenticator app, and recovery codes for a lost phone.

A session is strong (`session_is_strong`) when its account's code was given in it, or when the account has no device and the
setting ``BACKUPS_SECOND_FACTOR`` is ``"optional"`` (the default) instead of ``"required"``. A session that is not strong can
only sign out, give its code or enrol: `Gate` refuses every other page and the API. Tokens of the API need no code.

Devices are in the database of the accounts, and are restored with it. Only a hash of each recovery code is stored.
"""

import hashlib
import secrets
from base64 import b32encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode

import django_otp
from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import AbstractBaseUser
from django.db import router, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from . import audit
from .sign_in import actor_of

CODES = 10
"""Recovery codes per account."""

OPEN = frozenset(
    {"admin:login", "admin:logout", "admin:jsi18n", "backups:second_factor", "backups:second_factor_code", "healthz", "favicon"}
)
"""URL names that a session that is not strong can access."""

_TOTP, _STATIC, _TOKEN = "otp_totp.TOTPDevice", "otp_static.StaticDevice", "otp_static.StaticToken"


def _rows(model: str) -> Any:
    return apps.get_model(model)._default_manager  # only here: the apps may not be installed


def required() -> bool:
    """Whether every account must have a second factor."""
    return str(getattr(settings, "BACKUPS_SECOND_FACTOR", "optional")) == "required"


def session_is_strong(request: HttpRequest) -> bool:
    """Whether the session's code was given, or none is needed. True for anonymous requests."""
    user: Any = request.user
    if not user.is_authenticated or not apps.is_installed("django_otp.plugins.otp_totp"):
        return True
    if getattr(user, "otp_device", None) is not None:
        return True
    return not required() and device_of(user) is None


def device_of(user: AbstractBaseUser) -> Any:
    """The confirmed authenticator app of an account (a ``TOTPDevice``), or None."""
    return _rows(_TOTP).filter(user=user, confirmed=True).order_by("pk").first()


def pending_of(user: AbstractBaseUser) -> Any:
    """The device of an account that is not yet confirmed, or None."""
    return _rows(_TOTP).filter(user=user, confirmed=False).order_by("-pk").first()


def codes_left(user: AbstractBaseUser) -> int:
    """The number of unused recovery codes of an account."""
    return int(_rows(_TOKEN).filter(device__user=user).count())


def begin(request: HttpRequest) -> Any:
    """Create an unconfirmed device with a new key; replaces an earlier unconfirmed one."""
    user: Any = request.user
    _rows(_TOTP).filter(user=user, confirmed=False).delete()
    return _rows(_TOTP).create(user=user, name="Authenticator app", confirmed=False)


def confirm(request: HttpRequest, code: str) -> tuple[str, ...]:
    """Confirm the new device with its code. Returns the recovery codes; empty when the code is wrong."""
    user: Any = request.user
    device = pending_of(user)
    if device is None or django_otp.verify_token(user, device.persistent_id, _digits(code)) is None:
        return ()
    with transaction.atomic(using=router.db_for_write(type(device))):
        type(device).objects.filter(user=user, confirmed=True).delete()
        type(device).objects.filter(pk=device.pk).update(confirmed=True)
        codes = _make_codes(user)
    device.refresh_from_db()
    _strengthen_session(request, device)
    audit.record(actor_of(request), "second_factor.enrolled", f"account:{user.get_username()}", after={"recovery_codes": CODES})
    return codes


def renew_codes(request: HttpRequest) -> tuple[str, ...]:
    """Replace the recovery codes."""
    user: Any = request.user
    codes = _make_codes(user)
    audit.record(
        actor_of(request), "second_factor.codes_renewed", f"account:{user.get_username()}", after={"recovery_codes": CODES}
    )
    return codes


def remove(user: AbstractBaseUser, actor: audit.Actor) -> bool:
    """Remove an account's device and recovery codes. False when it had no device."""
    had = device_of(user) is not None
    with transaction.atomic(using=router.db_for_write(_rows(_TOTP).model)):
        _rows(_TOTP).filter(user=user).delete()
        _rows(_STATIC).filter(user=user).delete()
    if had:
        audit.record(actor, "second_factor.removed", f"account:{user.get_username()}")
    return had


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The result of a code: its kind (``""`` when wrong), seconds to wait, and recovery codes left."""

    by: Literal["", "app", "recovery code"]
    wait: int = 0
    left: int = 0


def check(request: HttpRequest, code: str) -> Checked:
    """Check a code of the app, or a recovery code, which is then used up. A correct code makes the session strong.

    After wrong codes, the next is checked only after one second, two, four …
    """
    user: Any = request.user
    device, method = device_of(user), "app"
    given = _digits(code)
    if len(given) != 6 or not given.isascii() or not given.isdigit():
        device, method, given = _static_of(user), "recovery code", _code_hash(code)
    if device is None:
        return Checked(by="")
    allowed, why = device.verify_is_allowed()
    if not allowed:
        return Checked(by="", wait=_seconds_until(why))
    verified = django_otp.verify_token(user, device.persistent_id, given)
    target = f"account:{user.get_username()}"
    if verified is None:
        audit.record(actor_of(request), "second_factor.refused", target, after={"by": method})
        device.refresh_from_db()
        return Checked(by="", wait=_seconds_until(device.verify_is_allowed()[1]))
    _strengthen_session(request, verified)
    left = codes_left(user)
    audit.record(actor_of(request), "second_factor.accepted", target, after={"by": method, "recovery_codes": left})
    return Checked(by="app" if method == "app" else "recovery code", left=left)


class Gate:
    """Middleware, after ``OTPMiddleware``: refuses sessions that are not strong everything but `OPEN`."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)  # `process_view` decides once the URL is resolved

    def process_view(self, request: HttpRequest, view: object, args: object, kwargs: object) -> HttpResponse | None:
        match = request.resolver_match
        name = ":".join([*match.app_names, match.url_name or ""]) if match is not None else ""  # of any admin site
        if name in OPEN or session_is_strong(request):
            return None
        return refuse(request)


def refuse(request: HttpRequest) -> HttpResponse:
    """The answer to a session that is not strong: a redirect for browsers, a problem as JSON for programs."""
    page = reverse("backups:second_factor_code" if device_of(request.user) is not None else "backups:second_factor")  # type: ignore[arg-type]
    if request.headers.get("HX-Request"):
        return HttpResponse(status=204, headers={"HX-Redirect": page})
    if "text/html" in request.headers.get("Accept", ""):
        back = f"?{urlencode({'next': request.get_full_path()})}" if request.method == "GET" else ""
        return redirect(page + back)
    problem = {
        "type": "about:blank",
        "title": "Second factor required",
        "status": 403,
        "code": "second_factor",
        "detail": "This session has not given the code of its second factor. Nothing was done.",
        "hint": f"Sign in at {page}, or use a token.",
    }
    return JsonResponse(problem, status=403, content_type="application/problem+json")


def _strengthen_session(request: HttpRequest, device: Any) -> None:
    django_otp.login(request, device)
    request.session.cycle_key()


def _static_of(user: AbstractBaseUser) -> Any:
    return _rows(_STATIC).filter(user=user, confirmed=True).order_by("pk").first()


def _make_codes(user: AbstractBaseUser) -> tuple[str, ...]:
    """Ten codes of 80 random bits; 64 bits of each hash are stored, as the column has 16 characters."""
    codes = tuple(b32encode(secrets.token_bytes(10)).decode("ascii").lower() for _ in range(CODES))
    with transaction.atomic(using=router.db_for_write(_rows(_STATIC).model)):
        # Keep the device, so that sessions bound to it stay strong
        device = _static_of(user) or _rows(_STATIC).create(user=user, name="Recovery codes")
        device.token_set.all().delete()
        _rows(_TOKEN).bulk_create(_rows(_TOKEN).model(device=device, token=_code_hash(code)) for code in codes)
    return tuple("-".join(code[start : start + 4] for start in range(0, 16, 4)) for code in codes)


def _code_hash(code: str) -> str:
    plain = "".join(letter for letter in code.lower() if letter.isalnum())
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _digits(code: str) -> str:
    return "".join(code.split())


def _seconds_until(why: dict[str, Any] | None) -> int:
    until = (why or {}).get("locked_until")
    return max(1, round((until - timezone.now()).total_seconds())) if until is not None else 0
