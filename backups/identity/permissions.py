"""Permissions: what the groups viewer, operator and restorer may do, and what the scopes of tokens let through.

Groups and permissions are Django's own, in the database of the accounts. They are created after every migration of that
database, and again after a restore, which may have removed them. Permissions that an administrator adds to a group are kept.
"""

from typing import Any

from django.apps import AppConfig, apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.db import router
from django.db.models.signals import post_migrate
from django.dispatch import receiver

from backups.models import ApiToken

VIEWER_PERMISSIONS = (
    "backups.view_backup",
    "backups.view_job",
    "backups.view_plan",
    "backups.view_audit",
    "backups.view_alert",
    "consistency.view_check",
)
"""What a viewer may see. Every other group, and the scope ``read``, includes it."""

GROUPS: dict[str, tuple[str, ...]] = {
    "viewer": VIEWER_PERMISSIONS,
    "operator": (
        *VIEWER_PERMISSIONS,
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
        *VIEWER_PERMISSIONS,
        "backups.restore_backup",
        "backups.download_backup",
        "backups.delete_backup",
        "backups.cancel_job",
        "backups.issue_token",
        "backups.acknowledge_alert",
    ),
}
"""Group -> permissions. An account may be in several groups."""

SCOPES: dict[str, tuple[str, ...]] = {
    "read": VIEWER_PERMISSIONS,
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
"""Scope of a token -> the permissions of its account that the token may use."""


def groups_with(permission: str) -> list[str]:
    """The groups that have *permission* from the start."""
    return [name for name, permissions in GROUPS.items() if permission in permissions]


def may(user: Any, permission: str, token: ApiToken | None = None) -> bool:
    """Whether an account has a permission, and the token, if any, has a scope that includes it."""
    if not user.is_active or not user.has_perm(permission):
        return False
    return token is None or any(permission in SCOPES.get(scope, ()) for scope in token.scopes)


@receiver(post_migrate)
def _after_migration(sender: AppConfig, using: str, **_: Any) -> None:
    if sender.name not in ("backups", "consistency") or using != router.db_for_write(Group):
        return
    create_permissions(sender, verbosity=0, using=using)  # Django's own receiver may run later
    make_groups()


def make_groups() -> None:
    """Create the groups and add missing permissions, except those of apps that are not installed.

    When nothing is missing, nothing is written: a writer that holds the database does not delay this.
    """
    if not apps.is_installed("django.contrib.auth"):
        return
    for name, wanted in GROUPS.items():
        group, _ = Group.objects.get_or_create(name=name)
        present = {
            f"{app}.{codename}" for app, codename in group.permissions.values_list("content_type__app_label", "codename")
        }
        for app, _, codename in (full.partition(".") for full in wanted if full not in present):
            group.permissions.add(*Permission.objects.filter(content_type__app_label=app, codename=codename))
