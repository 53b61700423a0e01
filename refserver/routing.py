"""Which database holds what.

`default` is the application's data: it is backed up and restored. `control` holds what must survive a
restore: sessions, the job queue, and the tables of the apps that run the backups. Each app lives in one of
them, whole.
"""

from __future__ import annotations

from typing import Any

from django.db.models import Model

CONTROL = "control"
CONTROL_APPS = frozenset({"sessions", "django_q", "axes", "backups", "consistency"})


class ControlRouter:
    """Sends the apps of `CONTROL_APPS` to the database `control` and all others to `default`."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        """Return the database that *model* is read from."""
        return _home(model._meta.app_label)

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        """Return the database that *model* is written to."""
        return _home(model._meta.app_label)

    def allow_relation(self, left: Model, right: Model, **hints: Any) -> bool:
        """Allow relations inside one database only: SQLite cannot follow a key into another file."""
        return _home(left._meta.app_label) == _home(right._meta.app_label)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Create an app's tables in its own database only."""
        return db == _home(app_label)


def _home(app_label: str) -> str:
    return CONTROL if app_label in CONTROL_APPS else "default"
