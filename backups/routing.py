"""Which database holds which app: ``DATABASE_ROUTERS = ["backups.routing.ControlRouter", *those of the project]``.

The control database holds what must survive a restore: the tables of the apps that run the backups, their queue, and those of
``BACKUPS["CONTROL_APPS"]``, such as ``sessions``. About all other apps this router says nothing.
"""

from typing import Any

from django.conf import settings
from django.db.models import Model

from .conf import control_database

OWN_APPS = frozenset({"backups", "consistency"})
QUEUE = "django_q"


class ControlRouter:
    """Sends the apps of the control database there, and keeps all others out of it. List it first.

    A project with a Django-Q cluster of its own (``Q_CLUSTER``) keeps that cluster's tables where they are; the control
    database has the same tables, for the queue of the backups.
    """

    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return _database_of(model._meta.app_label)

    def db_for_write(self, model: type[Model], **hints: Any) -> str | None:
        return _database_of(model._meta.app_label)

    def allow_relation(self, left: Model, right: Model, **hints: Any) -> bool | None:
        """Refuse relations out of the control database: SQLite cannot follow a key into another file."""
        sides = _database_of(left._meta.app_label), _database_of(right._meta.app_label)
        return None if sides == (None, None) else sides[0] == sides[1]

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Create the tables of the control database there, and no others."""
        control = control_database()
        if db == control:
            return control == "default" or app_label == QUEUE or _database_of(app_label) == control
        return None if _database_of(app_label) is None else False


def own_cluster() -> bool:
    """Whether the project runs a Django-Q cluster of its own."""
    return hasattr(settings, "Q_CLUSTER")


def _database_of(app_label: str) -> str | None:
    here = app_label in OWN_APPS or (app_label == QUEUE and not own_cluster())
    return control_database() if here or app_label in getattr(settings, "BACKUPS", {}).get("CONTROL_APPS", ()) else None
