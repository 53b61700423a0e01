"""Django-Q's database broker, kept to its own database.

Its own version calls ``close_old_connections()``, which also closes connections that are inside a transaction of *another*
database: ``async_task`` inside ``atomic()`` on ``default`` lost what that transaction had written. Tried with django-q2 1.11.
"""

from __future__ import annotations

from typing import Any

from django.db import connections, transaction
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.models import OrmQ


class DatabaseBroker(ORM):  # type: ignore[misc]  # django-q has no types
    """Closes a stale connection of the queue's database only, and never inside a transaction."""

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        """The rows of the queue."""
        if transaction.get_autocommit(using=Conf.ORM):
            connections[Conf.ORM].close_if_unusable_or_obsolete()
        return OrmQ.objects.using(Conf.ORM)
