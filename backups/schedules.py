"""When plans are due. Times are cron expressions, read in the plan's time zone; what is stored and compared is UTC.

A time of a plan is called a slot. Each slot is served by at most one job, whatever clocks, time zones and downtimes do: of the
slots that passed while nothing ran, the last one is served and the others are passed over.

When clocks change, an expression that names its minute and its hour is due once a day: what falls into the hour that is left
out is due when that hour ends, and what falls into the hour that comes twice is due the first time. One with ``*`` in minute or
hour means an interval: it skips what is left out, and is due again in the hour that comes again. Debian's cron does the same.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from cron_descriptor import Options, get_description
from cronsim import CronSim, CronSimError
from django.db import transaction
from django.utils import timezone

from . import audit, jobs
from .audit import Actor
from .conf import configuration
from .engine.errors import EngineError
from .kinds import kind_of
from .models import Job, Plan

_log = logging.getLogger(__name__)

_LARGEST_SHIFT = timedelta(days=1, hours=1)
"""No zone has ever moved its clocks by more: Samoa left out a whole day."""

CLOCK_JUMP = timedelta(minutes=5)
"""A plan served later than this in the future was served by a clock that was wrong."""

_WORDS = Options(locale_code="en_US", use_24hour_time_format=True)
_told: set[tuple[int, str, str]] = set()


def slots(cron: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The times after *after*, in UTC, in order and none twice. Raises `ValueError` for an expression or zone that is none.

    The expression is matched against the wall clock, and each time on the wall is then looked up in the zone.
    """
    place, fields = _zone(zone), cron.split()
    if len(fields) != 5:
        raise ValueError(f"{cron!r} has {len(fields)} fields: write minute, hour, day of month, month, day of week")
    interval = fields[0].startswith("*") or fields[1].startswith("*")
    try:
        back = timedelta(0) if zone == "UTC" else _LARGEST_SHIFT
        wall = CronSim(cron, after.astimezone(place).replace(tzinfo=None, fold=0) - back)
    except CronSimError as problem:
        raise ValueError(f"{cron!r} is no time: {str(problem).lower()}") from None
    return _found(wall, place, interval, after)


def _found(wall: Iterator[datetime], place: ZoneInfo, interval: bool, after: datetime) -> Iterator[datetime]:
    last, again = after.astimezone(UTC), list[datetime]()
    for time in wall:
        first, second = (time.replace(tzinfo=place, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first > second:  # left out: read with the offset after the change, it is before it, and the other way round
            first = second = _end_of_gap(second, first, place)
            if interval:
                continue
        while again and again[0] <= first:
            if (repeated := heapq.heappop(again)) > last:
                yield (last := repeated)
        if first > last:
            yield (last := first)
        if interval and second > first:
            heapq.heappush(again, second)


def _end_of_gap(before: datetime, after: datetime, place: ZoneInfo) -> datetime:
    """The instant between two, in UTC, at which clocks were put forward."""
    offset = before.astimezone(place).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        before, after = (middle, after) if middle.astimezone(place).utcoffset() == offset else (before, middle)
    return after


def slots_after(cron: str, zone: str, moment: datetime, count: int) -> list[datetime]:
    """The next *count* times after *moment*, in UTC. Raises `ValueError` for a cron expression or zone that is none."""
    return list(itertools.islice(slots(cron, zone, moment), count))


def latest_slot(cron: str, zone: str, after: datetime, until: datetime) -> datetime | None:
    """The last time after *after* and not later than *until*, in UTC, or None. Raises `ValueError` as `slots`.

    Looks back an hour, four, sixteen …, so that a long downtime costs no more than a short one.
    """
    back = timedelta(hours=1)
    while True:
        start = max(after, until - back)
        found = list(itertools.takewhile(lambda time: time <= until, slots(cron, zone, start)))
        if found or start == after:
            return found[-1] if found else None
        back *= 4


def check(cron: str, zone: str) -> str:
    """What is wrong with a cron expression or a zone, as a sentence; empty: nothing is."""
    try:
        if not slots_after(cron, zone, timezone.now(), 1):
            return f"{cron!r} never comes"
    except ValueError as problem:
        return str(problem)
    return ""


def in_words(cron: str) -> str:
    """A cron expression in plain words: ``Every day at 03:00``. Raises `ValueError`."""
    try:
        words = str(get_description(cron, _WORDS))
    except Exception as problem:  # the library has no root of its own for what it refuses
        raise ValueError(f"{cron!r} is no cron expression: {problem}") from problem
    _, hour, *days = cron.split()
    if days == ["*", "*", "*"] and hour != "*" and words.startswith("At "):
        return f"Every day at {words[3:]}"
    return words.replace("At 0 minutes past the hour", "Every hour").replace("Every hour, every hour", "Every hour")


@functools.cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _zone(name: str) -> ZoneInfo:
    if name not in _zones():
        raise ValueError(f"there is no time zone {name!r}; write one such as UTC or Europe/Berlin")
    return ZoneInfo(name)


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
