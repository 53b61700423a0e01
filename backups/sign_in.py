"""The audit of signing in and out."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest

from . import audit
from .audit import Actor
from .models import Job


def address_of(request: HttpRequest | None) -> str:
    """Where a request came from, as the web server says. A header that a client could write is not believed."""
    return str(request.META.get("REMOTE_ADDR", "")) if request is not None else ""


def actor_of(request: HttpRequest, via: Job.Via = Job.Via.PAGES) -> Actor:
    """On whose behalf a request is answered."""
    user = request.user
    return Actor(name=user.get_username(), id=str(user.pk or ""), via=via, address=address_of(request))


@receiver(user_logged_in)
def _signed_in(sender: Any, request: HttpRequest | None, user: Any, **_: Any) -> None:
    audit.record(_person(request, user), "account.signed_in")


@receiver(user_logged_out)
def _signed_out(sender: Any, request: HttpRequest | None, user: Any, **_: Any) -> None:
    if user is not None:
        audit.record(_person(request, user), "account.signed_out")


@receiver(user_login_failed)
def _refused(sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    name = str(credentials.get("username", ""))[:150]
    audit.record(Actor(name=name, via=Job.Via.PAGES, address=address_of(request)), "account.refused")


def _person(request: HttpRequest | None, user: Any) -> Actor:
    return Actor(name=user.get_username(), id=str(user.pk), via=Job.Via.PAGES, address=address_of(request))
