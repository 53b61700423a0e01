"""Who may do what: groups, scopes of tokens, and the permissions behind both.

Groups and permissions are Django's own and live where accounts live. They are made after every migration of that database, and
again after a restore, which may have brought back a state without them. What an administrator added to a group stays.
"""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.db import router
from django.db.models.signals import post_migrate
from django.dispatch import receiver

from backups.models import ApiToken

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


def may(user: Any, permission: str, token: ApiToken | None = None) -> bool:
    """Whether an account, by way of *token* where there is one, has a permission."""
    if not user.is_active or not user.has_perm(permission):
        return False
    return token is None or any(permission in SCOPES.get(scope, ()) for scope in token.scopes)


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
