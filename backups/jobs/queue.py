"""The queue is a bell: it wakes a worker, which then looks at the jobs. What it delivers twice or loses does no harm."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django_q.models import Schedule
from django_q.tasks import async_task

from backups.conf import configuration


def install_tick(host: str) -> bool:
    """Have the minute's tick of *host* scheduled. Whether it was not."""
    tick = {
        "func": "backups.worker.tasks.tick",
        "args": repr((host,)),
        "schedule_type": Schedule.MINUTES,
        "minutes": 1,
        "repeats": -1,
        "cluster": host,
    }
    with transaction.atomic(using=configuration().database):
        return bool(Schedule.objects.update_or_create(name=tick_name(host), defaults=tick)[1])


def tick_name(host: str) -> str:
    """What the tick of *host* is called among the schedules."""
    return f"backups: tick of {host}"


def nudge(host: str) -> None:
    """Wake a worker of *host* once the current transaction of the control database is committed.

    A bell that cannot be rung is no error: the job is there, and `tasks.tick` rings again within a minute.
    """
    transaction.on_commit(lambda: ring(host), using=configuration().database, robust=True)


def ring(host: str) -> None:
    """Wake a worker of *host* now. Raises ``DatabaseError`` or ``OSError`` when the queue cannot be reached."""
    async_task("backups.worker.tasks.work", host, q_options={"cluster": host, "task_name": "work", "save": False})


def ring_tick(host: str, broker: Any) -> None:
    """Have what is done every minute done now as well. Raises as `ring`."""
    async_task("backups.worker.tasks.tick", host, q_options={"broker": broker, "task_name": "tick", "save": False})
