"""When plans are due. Times are cron expressions, read in the plan's time zone; what is stored and compared is UTC.

A time of a plan is called a slot. Each slot is served by at most one job, whatever clocks, time zones and downtimes do: of the
slots that passed while nothing ran, the last one is served and the others are passed over.
"""

from __future__ import annotations

import itertools
import logging
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cron_descriptor import get_description
from cronsim import CronSim, CronSimError
from django.db import IntegrityError, transaction

from . import jobs
from .audit import Actor
from .conf import configuration
from .engine.errors import EngineError
from .kinds import kind_of
from .models import Job, Plan

_log = logging.getLogger(__name__)

_MOST_SLOTS = 100_000
_CLOCK_JUMP = timedelta(days=2)
"""A plan served later than this in the future was served by a clock that was wrong."""


def slots_after(cron: str, zone: str, moment: datetime, count: int) -> list[datetime]:
    """The next *count* times after *moment*, in UTC. Raises `ValueError` for a cron expression or zone that is none."""
    try:
        times = CronSim(cron, moment.astimezone(ZoneInfo(zone)))
        return [time.astimezone(UTC) for time in itertools.islice(times, count)]
    except (CronSimError, KeyError, OSError) as problem:
        raise ValueError(f"{cron!r} in {zone!r} is no time: {problem}") from problem


def latest_slot(cron: str, zone: str, after: datetime, until: datetime) -> datetime | None:
    """The last time after *after* and not later than *until*, in UTC, or None."""
    latest = None
    for time in itertools.islice(CronSim(cron, after.astimezone(ZoneInfo(zone))), _MOST_SLOTS):
        if time > until:
            break
        latest = time
    return latest.astimezone(UTC) if latest else None


def in_words(cron: str) -> str:
    """A cron expression in plain words: ``At 03:00``. Raises `ValueError`."""
    try:
        return str(get_description(cron))
    except Exception as problem:  # the library has no root of its own for what it refuses
        raise ValueError(f"{cron!r} is no cron expression: {problem}") from problem


def queue_due(host: str, now: datetime) -> list[Job]:
    """Queue a job for each plan of *host* that is due, and return the jobs."""
    queued = []
    for plan in Plan.objects.filter(enabled=True, host__in=("", host)):
        job = _queue(plan, host, now)
        if job is not None:
            queued.append(job)
    return queued


def _queue(plan: Plan, host: str, now: datetime) -> Job | None:
    if plan.served - now > _CLOCK_JUMP:
        _log.warning("Plan %s was served at %s, which is in the future: the clock had jumped", plan.name, plan.served)
        Plan.objects.filter(pk=plan.pk, served=plan.served).update(served=now)
        return None
    slot = latest_slot(plan.cron, plan.time_zone, plan.served, now)
    if slot is None:
        return None
    try:
        with transaction.atomic(using=configuration().database):
            if not Plan.objects.filter(pk=plan.pk, enabled=True, served=plan.served).update(served=slot):
                return None  # another host was faster
            if plan.jobs.filter(state__in=(Job.State.QUEUED, Job.State.RUNNING)).exists():
                return None  # the job before it still runs, or waits: this slot is passed over
            return run(plan, Actor(name=plan.name, via=Job.Via.PLAN), slot=slot, host=host)
    except IntegrityError:
        return None  # the slot has its job
    except EngineError as problem:
        _log.error("Plan %s cannot run: %s %s", plan.name, problem.message, problem.hint)
        return None


def run(plan: Plan, actor: Actor, *, slot: datetime | None = None, host: str = "") -> Job:
    """Queue a job of *plan* now. Raises `UsageError` when its arguments do not fit."""
    return jobs.enqueue(
        kind_of(plan.kind),
        plan.arguments,
        actor,
        plan=plan,
        slot=slot,
        host=plan.host or host,
        attempts=plan.attempts,
        limit=plan.limit_minutes * 60,
    )
