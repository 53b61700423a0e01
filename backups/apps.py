"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig, apps


class BackupsConfig(AppConfig):
    """Backups as an app that any project can install; its tables live where the project's router sends them."""

    name = "backups"
    verbose_name = "Backups"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import the receivers of signals and the system checks."""
        from backups.alerts import switches  # noqa: F401
        from backups.identity import permissions, sign_in  # noqa: F401

        from . import checks  # noqa: F401

        if apps.is_installed("django.contrib.admin"):
            _hide_the_queue()


def _hide_the_queue() -> None:
    """Take Django-Q's pages out of the admin: they show bells that look like jobs, and let one remove the minute's tick.

    Jobs, plans and the workers' signs of life have pages of their own.
    """
    from django.contrib import admin
    from django_q import admin as queue_admin  # registers its models now, and not after this

    for model in (queue_admin.Schedule, queue_admin.Success, queue_admin.Failure, queue_admin.OrmQ):
        if admin.site.is_registered(model):
            admin.site.unregister(model)
