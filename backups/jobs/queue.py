"""The queue only wakes workers, which then look for jobs in the control database. Lost or repeated messages do no harm."""

from typing import Any

from django.db import transaction
from django_q.conf import Conf
from django_q.models import OrmQ, Schedule
from django_q.tasks import async_task

from backups.conf import configuration

WORK, TICK = "backups.worker.tasks.work", "backups.worker.tasks.tick"


def install_tick(host: str) -> bool:
    """Schedule the tick of *host*, once a minute. Returns whether it was missing."""
    with transaction.atomic(using=configuration().database):
        return bool(Schedule.objects.update_or_create(name=tick_name(host), defaults=tick_fields(host))[1])


def tick_fields(host: str) -> dict[str, Any]:
    """The fields of the schedule of *host*, besides its name."""
    return {
        "func": TICK,
        "hook": None,
        "args": repr((host,)),
        "kwargs": None,
        "schedule_type": Schedule.MINUTES,
        "minutes": 1,
        "repeats": -1,
        "cluster": host,
        "intended_date_kwarg": None,
    }


def clear(host: str) -> None:
    """Remove the messages for *host* from a queue in the database, which may have come back in a restore.

    Nothing is lost: jobs are in the control database, and a worker that starts looks for them.
    """
    if Conf.ORM is not None:
        OrmQ.objects.using(Conf.ORM).filter(key=host).delete()


def tick_name(host: str) -> str:
    """The name of the tick of *host* among Django-Q's schedules."""
    return f"backups: tick of {host}"


def nudge(host: str) -> None:
    """Wake a worker of *host* once the current transaction of the control database is committed.

    Errors are ignored: the job is in the database, and `tasks.tick` wakes a worker within a minute.
    """
    transaction.on_commit(lambda: wake(host), using=configuration().database, robust=True)


def wake(host: str) -> None:
    """Wake a worker of *host* now. Raises ``DatabaseError`` or ``OSError`` when the queue cannot be reached."""
    async_task(WORK, host, q_options={"cluster": host, "task_name": "work", "save": False})


def request_tick(host: str, broker: Any) -> None:
    """Run the tick of *host* now, besides its schedule. Raises as `wake`."""
    async_task(TICK, host, q_options={"broker": broker, "task_name": "tick", "save": False})
