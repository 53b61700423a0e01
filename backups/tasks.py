"""What Django-Q calls. Both are safe to call at any time, twice, and at the same time."""

from __future__ import annotations

from . import jobs, processes, queue, runner, schedules, watch
from .conf import configuration
from .housekeeping import tidy
from .reconcile import reconcile


def work(host: str) -> int:
    """Run jobs of *host* until there is none to run. Returns how many were run here."""
    watch.touch_heartbeat()
    count = 0
    while host == configuration().host and (job := jobs.claim(host, processes.current())) is not None:
        runner.run(job)
        count += 1
    return count


def tick(host: str) -> None:
    """Every minute: give a sign of life, end what died, queue what is due, ring for what waits."""
    from django.utils import timezone

    if host != configuration().host:
        return
    watch.beat()
    reconcile(host)
    now = timezone.now()
    schedules.queue_due(host, now)
    tidy(now)
    if jobs.runnable(host, now).exists():
        queue.ring(host)
