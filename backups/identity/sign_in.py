"""Signing in: the form, confirming the password, and the audit of both."""

from importlib import import_module
from typing import Any

from django.apps import apps
from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth import authenticate
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.exceptions import ValidationError
from django.dispatch import receiver
from django.http import HttpRequest

from backups import moments
from backups.models import Job

from . import audit
from .audit import Actor


def address_of(request: HttpRequest | None) -> str:
    """The client's address from the web server; headers that a client could forge are ignored."""
    return str(request.META.get("REMOTE_ADDR", "")) if request is not None else ""


def actor_of(request: HttpRequest, via: Job.Via = Job.Via.PAGES) -> Actor:
    """The actor of a request."""
    user = request.user
    return Actor(name=user.get_username(), id=str(user.pk or ""), via=via, address=address_of(request))


def password_problem(request: HttpRequest, password: str) -> str:
    """Check the password of the signed-in account. Returns an error message, or "" for the correct password.

    Wrong passwords are audited and throttled as at signing in.
    """
    username = request.user.get_username()
    user = authenticate(request=request, username=username, password=password)
    if user is not None and user.pk == request.user.pk:
        if throttling := _throttling():
            throttling.forget(username, address_of(request))
        return ""
    return _wait_sentence(request, username) or "That is not your password. Nothing was done."


class SignInForm(AdminAuthenticationForm):
    """The admin's form with a message about throttling: ``admin.site.login_form = SignInForm``."""

    def get_invalid_login_error(self) -> ValidationError:
        sentence = _wait_sentence(self.request, self.cleaned_data.get("username") or "") if self.request is not None else ""
        return ValidationError(sentence, code="wait") if sentence else super().get_invalid_login_error()


def _throttling() -> Any:
    return import_module("backups.identity.login_throttling") if apps.is_installed("axes") else None


def _wait_sentence(request: HttpRequest, username: str) -> str:
    throttling = _throttling()
    seconds = throttling.seconds_left(username, address_of(request), moments.now()) if throttling else 0
    return str(throttling.sentence(seconds)) if seconds else ""


@receiver(user_logged_in)
def _signed_in(sender: Any, request: HttpRequest | None, user: Any, **_: Any) -> None:
    audit.record(_person(request, user), "account.signed_in")


@receiver(user_logged_out)
def _signed_out(sender: Any, request: HttpRequest | None, user: Any, **_: Any) -> None:
    if user is not None:
        audit.record(_person(request, user), "account.signed_out")


@receiver(user_login_failed)
def _refused(sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    if getattr(request, "axes_locked_out", False):
        return  # refused unchecked: the audit has an entry from the beginning of the wait
    name = str(credentials.get("username", ""))[:150]
    audit.record(Actor(name=name, via=Job.Via.PAGES, address=address_of(request)), "account.refused")


def _person(request: HttpRequest | None, user: Any) -> Actor:
    return Actor(name=user.get_username(), id=str(user.pk), via=Job.Via.PAGES, address=address_of(request))
