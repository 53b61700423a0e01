"""What Django-Q calls. Both are safe to call at any time, twice, and at the same time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.db import DatabaseError
from django.utils import timezone

from backups.alerts.evaluation import evaluate_rules
from backups.conf import configuration
from backups.engine.runtime import processes
from backups.jobs import heartbeat, interruption, lifecycle, logs, queue, runner
from backups.jobs.reconcile import reconcile
from backups.plans import scheduling

from .housekeeping import tidy

_log = logging.getLogger(__name__)


def work(host: str) -> int:
    """Run jobs of *host* until there is none to run, or this worker is to end. Returns how many were run here."""
    if host != configuration().host:
        return 0
    heartbeat.touch_heartbeat()
    count = 0
    try:
        reconcile(host)
        while not interruption.stopping() and _work_once(host):
            count += 1
    except DatabaseError as problem:
        _log.warning("The jobs cannot be looked at: %s. This is tried again within a minute", problem)
    return count


def _work_once(host: str) -> bool:
    """Run the job whose turn it is; False when there is none."""
    with interruption.unhurried():
        job = lifecycle.claim(host, processes.current())
        if job is None:
            return False
        try:
            with logs.about(job.pk):
                runner.run(job)
        except Exception:
            if not interruption.in_worker():
                raise
            # The job still says that it runs. With its worker gone, the next look brings it to a true state
            _log.exception("Job %s could not be brought to an end here", job.pk)
            raise SystemExit(1) from None
    return True


def tick(host: str) -> None:
    """Every minute: give a sign of life, end what died, queue what is due, ring for what waits, tell what is wrong.

    Each of these is done also when one before it failed. A database or a disk that does not answer is told in one line and
    asked again in a minute; what nobody foresaw is raised at the end.
    """
    if host != configuration().host:
        return
    now = timezone.now()
    steps: tuple[tuple[str, Callable[[], object]], ...] = (
        ("give a sign of life", heartbeat.beat),
        ("end what died", lambda: reconcile(host)),
        ("queue what is due", lambda: scheduling.queue_due(host, now)),
        ("ring for what waits", lambda: _ring_for_waiting(host)),
        ("tidy", lambda: tidy(now)),
        ("look for what is wrong", lambda: evaluate_rules(host, now)),
    )
    failures: list[Exception] = []
    for what, step in steps:
        try:
            step()
        except (DatabaseError, OSError) as problem:
            _log.warning("This minute it was not possible to %s: %s", what, problem)
        except Exception as problem:  # noqa: BLE001 - raised below, with the others
            failures.append(problem)
    if failures:
        raise ExceptionGroup(f"The minute's tick of {host}", failures)


def _ring_for_waiting(host: str) -> None:
    if lifecycle.runnable(host, timezone.now()).exists():
        queue.ring(host)
