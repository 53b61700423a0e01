"""Removes records past their retention: log lines, ended jobs, idempotency keys, the queue's leftovers."""

from __future__ import annotations

from datetime import datetime, timedelta

from django_q.models import Task

from backups.conf import configuration
from backups.jobs.database_broker import forget_lost
from backups.models import IdempotencyKey, Job, JobLog

_AT_ONCE = 5_000
"""Rows removed per call: a long transaction would delay the progress of running jobs."""

_QUEUE_DAYS = timedelta(days=30)
"""How long Django-Q's records of failed tasks are kept."""


def remove_old_records(now: datetime) -> int:
    """Remove a portion of the old records, and return the number of rows. Called every minute."""
    config = configuration()
    logs = JobLog.objects.filter(time__lt=now - timedelta(days=config.keep_logs_days))
    removed = logs.filter(pk__in=list(logs.values_list("pk", flat=True)[:_AT_ONCE])).delete()[0]
    ended = Job.objects.filter(state__in=Job.ENDED, finished__lt=now - timedelta(days=config.keep_jobs_days))
    removed += Job.objects.filter(pk__in=list(ended.values_list("pk", flat=True)[:500])).delete()[0]
    removed += IdempotencyKey.objects.filter(created__lt=now - timedelta(days=1)).delete()[0]
    removed += int(Task.objects.filter(stopped__lt=now - _QUEUE_DAYS).delete()[0])
    return removed + forget_lost(now)
