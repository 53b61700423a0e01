"""What the workers run: three functions of this project, and nothing else that the queue names.

An attacker who can write to the queue, or to a backup of the control database that is then restored, can name any function in a
message or in a schedule, and Django-Q imports and calls it. So each message and each schedule is compared with a list before
Django-Q sees it.
"""

import logging
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django_q.conf import Conf
from django_q.models import Schedule
from django_q.scheduler import scheduler

from backups.conf import configuration
from backups.identity import audit
from backups.jobs import queue

_log = logging.getLogger(__name__)

FUNCTIONS = frozenset({queue.WORK, queue.TICK, "backups.alerts.tasks.deliver"})
"""Each takes the name of a host, and does nothing for another host than its own."""

_KEYS = frozenset({"id", "name", "func", "args", "kwargs", "started", "group", "save", "cluster", "ack_id", "ack_failure"})
"""What a message may hold. Django-Q knows more, which name further functions: ``hook``, ``chain``, ``iter_count``."""

_MOST_SHOWN = 200


def is_allowed(message: Any) -> bool:
    """Whether *message*, as Django-Q unpacks it, is a call of one of `FUNCTIONS`, and nothing more."""
    if not isinstance(message, dict) or not message.keys() <= _KEYS:
        return False
    function, arguments = message.get("func"), message.get("args")
    if not isinstance(function, str) or function not in FUNCTIONS:
        return False
    return isinstance(arguments, tuple) and [type(one) for one in arguments] == [str] and not message.get("kwargs")


def refuse(message: Any) -> None:
    """Record in the log and in the audit that *message* was dropped."""
    function = message.get("func") if isinstance(message, dict) else message
    _record("queue.message_refused", function)


def run_schedules(broker: Any) -> None:
    """Queue what is due among the schedules of this host, as Django-Q's scheduler does, after disabling all but the tick."""
    host = configuration().host
    with transaction.atomic(using=configuration().database):
        for schedule in _due(host).exclude(name=queue.tick_name(host), **queue.tick_fields(host)):
            Schedule.objects.using(configuration().database).filter(pk=schedule.pk).update(repeats=0)
            _record("queue.schedule_refused", schedule.func)
    scheduler(broker=broker)


def _due(host: str) -> QuerySet[Schedule]:
    mine = Q(cluster=host) | (Q(cluster__isnull=True) if Conf.CLUSTER_NAME == Conf.PREFIX else Q(pk__in=[]))
    rows: QuerySet[Schedule] = Schedule.objects.using(configuration().database).select_for_update()
    return rows.filter(mine).exclude(repeats=0)


def _record(action: str, function: object) -> None:
    called = str(function)[:_MOST_SHOWN]
    _log.error("Refused to run %r, which the queue names: workers run this project's own functions only", called)
    audit.record(audit.SYSTEM, action, f"host:{configuration().host}", after={"function": called})
