"""Which database holds which app.

`default` holds the application's data, which is backed up and restored. `control` holds what must survive a restore: sessions,
the job queue, and the tables of the apps that run the backups.
"""

from typing import Any

from django.db.models import Model

CONTROL = "control"
CONTROL_APPS = frozenset({"sessions", "django_q", "axes", "backups", "consistency"})


class ControlRouter:
    """Sends the apps of `CONTROL_APPS` to the database `control` and all others to `default`."""

    def db_for_read(self, model: type[Model], **hints: Any) -> str:
        return _database_of(model._meta.app_label)

    def db_for_write(self, model: type[Model], **hints: Any) -> str:
        return _database_of(model._meta.app_label)

    def allow_relation(self, left: Model, right: Model, **hints: Any) -> bool:
        """Allow relations inside one database only: SQLite cannot follow a key into another file."""
        return _database_of(left._meta.app_label) == _database_of(right._meta.app_label)

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Create an app's tables in its own database only."""
        return db == _database_of(app_label)


def _database_of(app_label: str) -> str:
    return CONTROL if app_label in CONTROL_APPS else "default"
