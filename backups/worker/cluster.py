"""Makes Django-Q in the processes of a worker pool use the queue of the backups.

Django-Q reads ``Q_CLUSTER`` into a class when it is imported. That setting belongs to the project, which may run a cluster of
its own; and with most values that it may have, jobs would be delivered twice or killed (docs/adr/0018-guard-of-workers.md). A
pool runs in a process that does nothing else, and so it replaces what was read there.
"""

from typing import Any

from django.db import router
from django.db.models import Model
from django_q.conf import Conf

from backups.conf import configuration
from backups.jobs.database_broker import POLL, RETRY

LONGEST_TASK = 30 * 24 * 3600
"""Seconds. Jobs have time limits of their own, so no worker is killed for the time that a message takes."""


def values() -> dict[str, Any]:
    """The attributes of Django-Q's `Conf` in a worker's process.

    Two workers more than jobs: one for the tick of each minute, and one for alert messages, whose receivers may hang.
    """
    config = configuration()
    return {
        "ORM": config.database,
        "CLUSTER_NAME": config.host,
        "WORKERS": config.jobs_at_once + 2,
        "TIMEOUT": LONGEST_TASK,
        "RETRY": RETRY,
        "QUEUE_LIMIT": 1,
        "BULK": 1,
        "POLL": POLL,
        "GUARD_CYCLE": 0.5,
        "ACK_FAILURES": True,
        "MAX_ATTEMPTS": 1,
        "CATCH_UP": False,
        "SAVE_LIMIT": -1,
        "SAVE_LIMIT_PER": None,
        "SYNC": False,
        "CACHED": False,
        "RECYCLE": 500,
        "MAX_RSS": None,
    }


def take_over() -> None:
    """Replace the settings, and send Django-Q's tables to the control database."""
    for name, value in values().items():
        setattr(Conf, name, value)
    router.routers.insert(0, _QueueRouter())


class _QueueRouter:
    def db_for_read(self, model: type[Model], **hints: Any) -> str | None:
        return configuration().database if model._meta.app_label == "django_q" else None

    db_for_write = db_for_read
