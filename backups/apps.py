"""The Django app."""

from __future__ import annotations

from django.apps import AppConfig


class BackupsConfig(AppConfig):
    """Backups as an app that any project can install; its tables live where the project's router sends them."""

    name = "backups"
    verbose_name = "Backups"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Connect what listens: system checks, the groups made after each migration, and the audit of logins."""
        from . import access, checks, sign_in  # noqa: F401
