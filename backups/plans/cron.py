"""Cron expressions, read in a time zone; what is stored and compared is UTC.

When clocks change, an expression that names its minute and its hour is due once a day: what falls into the hour that is left
out is due when that hour ends, and what falls into the hour that comes twice is due the first time. One with ``*`` in minute or
hour means an interval: it skips what is left out, and is due again in the hour that comes again. Debian's cron does the same.
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from cron_descriptor import Options, get_description
from cronsim import CronSim, CronSimError
from django.utils import timezone

_LARGEST_SHIFT = timedelta(days=1, hours=1)
"""No zone has ever moved its clocks by more: Samoa left out a whole day."""


_WORDS = Options(locale_code="en_US", use_24hour_time_format=True)


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
