"""The functions that Django-Q calls, `work` and `tick`. Both may be called at any time, twice, and at the same time."""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.db import DatabaseError
from django_q.models import Task

from backups import moments
from backups.alerts.evaluation import evaluate_rules
from backups.catalog import index
from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.engine.runtime import processes
from backups.identity import accounts, known_accounts
from backups.jobs import heartbeat, interruption, lifecycle, logs, queue, restored_accounts, runner
from backups.jobs.database_broker import forget_lost
from backups.jobs.reconcile import reconcile
from backups.jobs.types import RESTORE_IN_PLACE
from backups.models import IdempotencyKey, Job, JobLog
from backups.plans import scheduling

_AT_ONCE = 5_000
"""Rows removed per call: a long transaction would delay the progress of running jobs."""

_OBSERVED_EACH = 10
"""Minutes between two observations of the accounts."""

_QUEUE_DAYS = timedelta(days=30)
"""How long Django-Q's records of failed tasks are kept."""

_log = logging.getLogger(__name__)


def work(host: str) -> int:
    """Run jobs of *host* until none is runnable, or this worker is to end. Returns the number of jobs run."""
    if host != configuration().host:
        return 0
    heartbeat.touch_heartbeat()
    count = 0
    try:
        reconcile(host)
        while not interruption.stopping() and _run_next(host):
            count += 1
    except DatabaseError as problem:
        _log.warning("The control database cannot be read: %s. Retrying within a minute", problem)
    return count


def _run_next(host: str) -> bool:
    with interruption.defer_termination():
        job = lifecycle.claim(host, processes.current())
        if job is None:
            return False
        try:
            with logs.about(job.pk):
                runner.run(job)
        except Exception:
            if not interruption.in_worker():
                raise
            # Its row still says that it runs; once this worker is gone, the reconciler ends it
            _log.exception("Job %s could not be ended here", job.pk)
            raise SystemExit(1) from None
    return True


def tick(host: str) -> None:
    """The work of each minute: heartbeat, dead jobs, due plans, waiting jobs, housekeeping, missing backups, alerts.

    Each step is done even if an earlier one failed. Errors of the database or the disk are logged, and the step is retried in a
    minute; other exceptions are raised at the end as an ``ExceptionGroup``.
    """
    if host != configuration().host:
        return
    now = moments.now()
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("write the heartbeat", heartbeat.beat),
        ("end jobs without a worker", lambda: reconcile(host)),
        ("queue due plans", lambda: scheduling.queue_due(host, now)),
        ("wake workers for waiting jobs", lambda: _wake_for_waiting(host)),
        ("remove old records", lambda: remove_old_records(now)),
        ("settle restored accounts", restored_accounts.settle_later),
        ("observe the accounts", lambda: _observe_accounts(now)),
        ("look for missing backups", index.refresh_all),
        ("evaluate alert rules", lambda: evaluate_rules(host, now)),
    )
    failures: list[Exception] = []
    for what, step in steps:
        try:
            step()
        except (DatabaseError, EngineError, OSError) as problem:
            _log.warning("Could not %s this minute: %s", what, problem)
        except Exception as problem:  # noqa: BLE001 - raised below with the others
            failures.append(problem)
    if failures:
        raise ExceptionGroup(f"The minute's tick of {host}", failures)


def _wake_for_waiting(host: str) -> None:
    if lifecycle.runnable(host, moments.now()).exists():
        queue.wake(host)


def _observe_accounts(now: datetime) -> None:
    """Not while a restore in place may have brought back earlier ones: it observes them itself."""
    restoring = Job.objects.filter(state=Job.State.RUNNING, kind=RESTORE_IN_PLACE.name).exists()
    if now.minute % _OBSERVED_EACH == 0 and not restoring and not restored_accounts.is_unsettled():
        known_accounts.observe(accounts.read_live())


def remove_old_records(now: datetime) -> int:
    """Remove a portion of the records past their retention, and return the number of rows."""
    config = configuration()
    logs = JobLog.objects.filter(time__lt=now - timedelta(days=config.keep_logs_days))
    removed = logs.filter(pk__in=list(logs.values_list("pk", flat=True)[:_AT_ONCE])).delete()[0]
    ended = Job.objects.filter(state__in=Job.ENDED, finished__lt=now - timedelta(days=config.keep_jobs_days))
    removed += Job.objects.filter(pk__in=list(ended.values_list("pk", flat=True)[:500])).delete()[0]
    removed += IdempotencyKey.objects.filter(created__lt=now - timedelta(days=1)).delete()[0]
    removed += int(Task.objects.using(config.database).filter(stopped__lt=moments.of_project(now - _QUEUE_DAYS)).delete()[0])
    restored_accounts.remove_orphans()
    return removed + forget_lost(now)
