"""Removes what is kept for a time only: log lines, ended jobs, answers to repeated requests, what the queue left."""

from __future__ import annotations

from datetime import datetime, timedelta

from django_q.models import Task

from backups.conf import configuration
from backups.jobs.database_broker import forget_lost
from backups.models import IdempotencyKey, Job, JobLog

_AT_ONCE = 5_000
"""Rows removed at a time: a transaction that takes the write lock for long would hold up progress of running jobs."""

_QUEUE_DAYS = timedelta(days=30)
"""How long Django-Q's own notes of what failed stay."""


def tidy(now: datetime) -> int:
    """Remove a portion of what has outlived its time, and return how many rows went. Called every minute."""
    found = configuration()
    logs = JobLog.objects.filter(time__lt=now - timedelta(days=found.keep_logs_days))
    removed = logs.filter(pk__in=list(logs.values_list("pk", flat=True)[:_AT_ONCE])).delete()[0]
    ended = Job.objects.filter(state__in=Job.ENDED, finished__lt=now - timedelta(days=found.keep_jobs_days))
    removed += Job.objects.filter(pk__in=list(ended.values_list("pk", flat=True)[:500])).delete()[0]
    removed += IdempotencyKey.objects.filter(created__lt=now - timedelta(days=1)).delete()[0]
    removed += int(Task.objects.filter(stopped__lt=now - _QUEUE_DAYS).delete()[0])
    return removed + forget_lost(now)
