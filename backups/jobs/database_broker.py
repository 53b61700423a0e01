"""Django-Q's database broker, limited to its own database (the alternative is `redis_broker`)."""

import logging
import time
from datetime import datetime, timedelta
from typing import Any

from django.db import DatabaseError, connections, transaction
from django.utils import timezone
from django_q.brokers.orm import ORM
from django_q.models import OrmQ

from backups import moments
from backups.conf import configuration

_log = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between two looks at an empty queue."""

RETRY = 31 * 24 * 3600
"""Seconds after which Django-Q delivers a taken message again: later than any job takes."""

_PAUSE = 2.0
_LOST_AFTER = timedelta(days=1)


class DatabaseBroker(ORM):  # type: ignore[misc]  # django-q has no types
    """The database broker, limited to its own database.

    Django-Q's version calls ``close_old_connections()``, which also closes connections that are inside a transaction of
    *another* database: ``async_task`` inside ``atomic()`` on ``default`` lost what the transaction had written.
    """

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        """The queue's rows. Closes a stale connection, but never inside a transaction."""
        alias = configuration().database
        if transaction.get_autocommit(using=alias):
            connections[alias].close_if_unusable_or_obsolete()
        return OrmQ.objects.using(alias)

    def timeout(self, task: Any) -> datetime:
        return timezone.now() + timedelta(seconds=RETRY)

    def dequeue(self) -> Any:
        """The next message, or None after a pause, also when the database is locked or cannot be reached."""
        try:
            return super().dequeue()
        except DatabaseError as problem:
            _log.warning("The queue cannot be read: %s. Retrying", problem)
            connections[configuration().database].close()
            time.sleep(_PAUSE)
            return None

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Drop Django-Q's statistics: `heartbeat` replaces them."""


def forget_lost(now: datetime) -> int:
    """Remove messages that were taken a day ago by a worker that died, and return how many.

    Django-Q would deliver them again after ``retry``, in a month. The lock of a waiting message is the time at which it was
    queued; that of a taken one is the time at which it will be delivered again.
    """
    repeated_until = now + timedelta(seconds=RETRY) - _LOST_AFTER
    taken = OrmQ.objects.using(configuration().database).filter(
        lock__gt=moments.of_project(now + _LOST_AFTER), lock__lte=moments.of_project(repeated_until)
    )
    return int(taken.delete()[0])
