"""The queue only wakes workers, which then look for jobs in the control database. Lost or repeated messages do no harm.

It is a queue of its own, beside that of a Django-Q cluster that the project may run: messages and schedules are in the control
database or on the Redis server of ``BACKUPS["QUEUE"]``, under the name of the host, whatever ``Q_CLUSTER`` says.
"""

import uuid
from importlib import import_module
from typing import Any

from django.db import transaction
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.signing import SignedPackage

from backups.conf import configuration

WORK, TICK = "backups.worker.tasks.work", "backups.worker.tasks.tick"


def install_tick(host: str) -> bool:
    """Schedule the tick of *host*, once a minute. Returns whether it was missing."""
    alias = configuration().database
    with transaction.atomic(using=alias):
        return bool(Schedule.objects.using(alias).update_or_create(name=tick_name(host), defaults=tick_fields(host))[1])


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
    OrmQ.objects.using(configuration().database).filter(key=host).delete()


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
    send(WORK, host)


def request_tick(host: str, to: Any) -> None:
    """Run the tick of *host* now, besides its schedule. Raises as `wake`."""
    send(TICK, host, to)


def broker(host: str) -> Any:
    """Django-Q's connection to the queue of *host*."""
    kind = ("redis_broker", "RedisBroker") if configuration().queue else ("database_broker", "DatabaseBroker")
    return getattr(import_module(f"backups.jobs.{kind[0]}"), kind[1])(list_key=host)  # redis is installed only where it is used


def send(function: str, host: str, to: Any = None) -> None:
    """Have a worker of *host* call *function* with its name. Raises as `wake`.

    Not by Django-Q's ``async_task``, which reads ``Q_CLUSTER``: with ``sync`` it would call the function here.
    """
    message = {
        "id": uuid.uuid4().hex,
        "name": function.rpartition(".")[2],
        "func": function,
        "args": (host,),
        "kwargs": {},
        "cluster": host,
        "save": False,
        "ack_failure": True,
        "started": timezone.now(),
    }
    (to or broker(host)).enqueue(SignedPackage.dumps(message))
