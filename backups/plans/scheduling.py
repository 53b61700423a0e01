"""Queue jobs of plans that are due.

A due time of a plan is called a slot. Each slot is served by at most one job, even when clocks or time zones change. Of the
slots that passed during a downtime, only the last is served.
"""

import itertools
import logging
from datetime import datetime, timedelta

from django.db import transaction

from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.identity import audit
from backups.identity.audit import Actor
from backups.jobs import lifecycle
from backups.jobs.types import job_type
from backups.models import Job, Plan

from .cron import latest_slot, slots

_log = logging.getLogger(__name__)


CLOCK_JUMP = timedelta(minutes=5)
"""A plan that was last served further in the future than this was served by a wrong clock."""

MOST_MISSED = 1_000
"""How many missed runs are counted."""

_logged: set[tuple[int, str, str]] = set()


def queue_due(host: str, now: datetime) -> list[Job]:
    """Queue a job for each due plan of *host*, and return the jobs. An invalid plan does not affect the others."""
    queued = []
    for plan in Plan.objects.filter(enabled=True, host__in=("", host)):
        job = _queue(plan, host, now)
        if job is not None:
            queued.append(job)
    return queued


def _queue(plan: Plan, host: str, now: datetime) -> Job | None:
    if plan.served - now > CLOCK_JUMP:
        _log.warning("Plan %s was served at %s, which is in the future: the clock had jumped", plan.name, plan.served)
        Plan.objects.filter(pk=plan.pk, served=plan.served).update(served=now)
        return None
    try:
        slot = latest_slot(plan.cron, plan.time_zone, plan.served, now)
    except ValueError as problem:
        _log_once(plan, str(problem))
        return None
    if slot is None:
        return None
    actor = Actor(name=plan.name, via=Job.Via.PLAN)
    with transaction.atomic(using=configuration().database):
        if not Plan.objects.filter(pk=plan.pk, enabled=True, served=plan.served).update(served=slot):
            return None  # another host was faster
        if plan.jobs.filter(slot=slot).exists():
            return None  # served before a clock was set back
        _note_missed(plan, actor, slot)
        if plan.jobs.filter(state__in=(Job.State.QUEUED, Job.State.RUNNING)).exists():
            return None  # the previous job is still queued or running: skip this slot
        try:
            with transaction.atomic(using=configuration().database):
                return run(plan, actor, slot=slot, host=host)
        except EngineError as problem:
            _log.error("Plan %s cannot run: %s %s", plan.name, problem.message, problem.hint)
            audit.record(actor, "plan.refused", f"plan:{plan.name}", after={"slot": slot, "error": problem.message})
            return None


def _note_missed(plan: Plan, actor: Actor, slot: datetime) -> None:
    """Record the runs before *slot* that no worker was there for; only the last slot of a downtime is served."""
    passed = itertools.takewhile(lambda time: time < slot, slots(plan.cron, plan.time_zone, plan.served))
    missed = list(itertools.islice(passed, MOST_MISSED))
    if missed:
        after = {"count": len(missed), "from": missed[0], "until": missed[-1]}
        audit.record(actor, "plan.missed", f"plan:{plan.name}", after=after)


def _log_once(plan: Plan, problem: str) -> None:
    """Log the problem of a plan's times once per process, not every minute."""
    key = (plan.pk, plan.cron, plan.time_zone)
    if key not in _logged:
        _logged.add(key)
        _log.error("Plan %s is never due: %s", plan.name, problem)


def run(plan: Plan, actor: Actor, *, slot: datetime | None = None, host: str = "") -> Job:
    """Queue a job of *plan* now; its due times do not change. Raises `UsageError` when its arguments are not valid."""
    return lifecycle.enqueue(
        job_type(plan.kind),
        plan.arguments,
        actor,
        plan=plan,
        slot=slot,
        host=plan.host or host,
        attempts=plan.attempts,
        limit=plan.limit_minutes * 60,
    )
