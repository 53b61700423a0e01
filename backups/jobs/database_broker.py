"""Django-Q's database broker, kept to its own database (`redis_broker` is the other one)."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, connections, transaction
from django_q.brokers.orm import ORM
from django_q.conf import Conf
from django_q.models import OrmQ

_log = logging.getLogger(__name__)

_PAUSE = 2.0
_FORGOTTEN_AFTER = timedelta(days=1)


class DatabaseBroker(ORM):  # type: ignore[misc]  # django-q has no types
    """The database broker, kept to its own database.

    Django-Q's version calls ``close_old_connections()``, which also closes connections that are inside a transaction of
    *another* database: ``async_task`` inside ``atomic()`` on ``default`` lost what that transaction had written.
    """

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        """The rows of the queue; a stale connection is closed, and never inside a transaction."""
        if transaction.get_autocommit(using=Conf.ORM):
            connections[Conf.ORM].close_if_unusable_or_obsolete()
        return OrmQ.objects.using(Conf.ORM)

    def dequeue(self) -> Any:
        """What is to be delivered next, or None after a pause. A database that is locked or away is asked again."""
        try:
            return super().dequeue()
        except DatabaseError as problem:
            _log.warning("The queue cannot be read: %s. It is tried again", problem)
            connections[Conf.ORM].close()
            time.sleep(_PAUSE)
            return None

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Nobody reads Django-Q's own statistics: `watch` has the signs of life."""


def forget_lost(now: datetime) -> int:
    """Remove deliveries that were taken a day ago, whose worker died: Django-Q would repeat them after ``retry``, in a month.

    What waits has the time at which it was asked for as its lock, what is taken the time at which it is to be repeated.
    """
    if Conf.ORM is None:
        return 0
    repeated_until = now + timedelta(seconds=Conf.RETRY) - _FORGOTTEN_AFTER
    taken = OrmQ.objects.using(Conf.ORM).filter(lock__gt=now + _FORGOTTEN_AFTER, lock__lte=repeated_until)
    return int(taken.delete()[0])
