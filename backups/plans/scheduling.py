"""When plans are due. Times are cron expressions, read in the plan's time zone; what is stored and compared is UTC.

A time of a plan is called a slot. Each slot is served by at most one job, whatever clocks, time zones and downtimes do: of the
slots that passed while nothing ran, the last one is served and the others are passed over.
"""

from __future__ import annotations

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

from .cron import latest_slot

_log = logging.getLogger(__name__)


CLOCK_JUMP = timedelta(minutes=5)
"""A plan served later than this in the future was served by a clock that was wrong."""

_told: set[tuple[int, str, str]] = set()


def queue_due(host: str, now: datetime) -> list[Job]:
    """Queue a job for each plan of *host* that is due, and return the jobs. A plan that cannot run holds up no other."""
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
        _tell_once(plan, str(problem))
        return None
    if slot is None:
        return None
    me = Actor(name=plan.name, via=Job.Via.PLAN)
    with transaction.atomic(using=configuration().database):
        if not Plan.objects.filter(pk=plan.pk, enabled=True, served=plan.served).update(served=slot):
            return None  # another host was faster
        if plan.jobs.filter(slot=slot).exists():
            return None  # it was served before a clock was put back
        if plan.jobs.filter(state__in=(Job.State.QUEUED, Job.State.RUNNING)).exists():
            return None  # the job before it still runs, or waits: this slot is passed over
        try:
            with transaction.atomic(using=configuration().database):
                return run(plan, me, slot=slot, host=host)
        except EngineError as problem:
            _log.error("Plan %s cannot run: %s %s", plan.name, problem.message, problem.hint)
            refused = {"slot": slot, "error": problem.message}
            audit.record(me, "plan.refused", f"plan:{plan.name}", after=refused)
            return None


def _tell_once(plan: Plan, problem: str) -> None:
    """Log what is wrong with a plan's times once a process, not every minute."""
    key = (plan.pk, plan.cron, plan.time_zone)
    if key not in _told:
        _told.add(key)
        _log.error("Plan %s is never due: %s", plan.name, problem)


def run(plan: Plan, actor: Actor, *, slot: datetime | None = None, host: str = "") -> Job:
    """Queue a job of *plan* now. Raises `UsageError` when its arguments do not fit."""
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
