"""Who may do what: groups, scopes of tokens, and the permissions behind both.

Groups and permissions are Django's own and live where accounts live. They are made after every migration of that database, and
again after a restore, which may have brought back a state without them. What an administrator added to a group stays.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.apps import AppConfig, apps
from django.contrib.auth import get_user_model
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import AbstractUser, Group, Permission
from django.db import router
from django.db.models.signals import post_migrate
from django.dispatch import receiver
from django.utils import timezone

from .models import ApiToken

_SEE = (
    "backups.view_backup",
    "backups.view_job",
    "backups.view_plan",
    "backups.view_audit",
    "backups.view_alert",
    "consistency.view_check",
)
GROUPS: dict[str, tuple[str, ...]] = {
    "viewer": _SEE,
    "operator": (
        *_SEE,
        "backups.create_backup",
        "backups.verify_backup",
        "backups.hold_backup",
        "backups.cancel_job",
        "backups.change_plan",
        "backups.run_plan",
        "backups.issue_token",
        "backups.acknowledge_alert",
        "backups.change_alert",
        "consistency.run_check",
        "consistency.repair_finding",
    ),
    "restorer": (
        *_SEE,
        "backups.restore_backup",
        "backups.download_backup",
        "backups.delete_backup",
        "backups.cancel_job",
        "backups.issue_token",
        "backups.acknowledge_alert",
    ),
}
"""Group -> permissions. A person may be in several."""

SCOPES: dict[str, tuple[str, ...]] = {
    "read": _SEE,
    "backup": ("backups.create_backup",),
    "verify": ("backups.verify_backup",),
    "hold": ("backups.hold_backup",),
    "restore": ("backups.restore_backup",),
    "download": ("backups.download_backup",),
    "delete": ("backups.delete_backup",),
    "jobs": ("backups.cancel_job",),
    "plans": ("backups.change_plan", "backups.run_plan"),
    "alerts": ("backups.acknowledge_alert", "backups.change_alert"),
    "consistency": ("consistency.run_check", "consistency.repair_finding"),
    "tokens": ("backups.view_token", "backups.issue_token", "backups.revoke_token"),
    "metrics": (),
}
"""Scope of a token -> the permissions that it lets through, of those that the account has."""

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A new token, and its secret, which is nowhere else."""

    token: ApiToken
    secret: str


def may(user: Any, permission: str, token: ApiToken | None = None) -> bool:
    """Whether an account, by way of *token* where there is one, has a permission."""
    if not user.is_active or not user.has_perm(permission):
        return False
    return token is None or any(permission in SCOPES.get(scope, ()) for scope in token.scopes)


def issue(user: AbstractUser, name: str, scopes: Iterable[str], expires: datetime | None) -> Issued:
    """Make a token for *user*. Raises `ValueError` for an unknown scope or none."""
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown or not wanted:
        raise ValueError(f"Choose scopes among {', '.join(SCOPES)}" + (f", not {', '.join(unknown)}." if unknown else "."))
    secret = "rsb_" + secrets.token_urlsafe(SECRET_BYTES)
    token = ApiToken.objects.create(
        name=name,
        user_id=str(user.pk),
        username=user.get_username(),
        digest=digest(secret),
        hint=secret[:8],
        scopes=wanted,
        expires=expires,
    )
    return Issued(token=token, secret=secret)


def digest(secret: str) -> str:
    """What is kept of a secret. It is random and long, so a plain hash cannot be turned back."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def owner_of(secret: str, address: str) -> tuple[AbstractUser, ApiToken] | None:
    """The account and the token that a secret belongs to, if both are still good; its use is noted, to the minute."""
    token = ApiToken.objects.filter(digest=digest(secret)).first()
    if token is None or not token.usable:
        return None
    user: Any = get_user_model()._default_manager.filter(pk=token.user_id, is_active=True).first()
    if user is None or user.get_username() != token.username:  # a restore may have given the number to somebody else
        return None
    now = timezone.now().replace(second=0, microsecond=0)
    if token.used != now or token.used_from != address:
        ApiToken.objects.filter(pk=token.pk).update(used=now, used_from=address or None)
    return user, token


@receiver(post_migrate)
def _after_migration(sender: AppConfig, using: str, **_: Any) -> None:
    if sender.name not in ("backups", "consistency") or using != router.db_for_write(Group):
        return
    create_permissions(sender, verbosity=0, using=using)  # Django's own receiver may come later
    make_groups()


def make_groups() -> None:
    """Make the groups, and give them the permissions that they lack; those of apps that are not installed are left out."""
    if not apps.is_installed("django.contrib.auth"):
        return
    for name, wanted in GROUPS.items():
        group, _ = Group.objects.get_or_create(name=name)
        for full in wanted:
            app, _, codename = full.partition(".")
            for permission in Permission.objects.filter(content_type__app_label=app, codename=codename):
                group.permissions.add(permission)
