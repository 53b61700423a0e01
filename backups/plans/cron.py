"""Cron expressions, read in a time zone; stored and compared times are UTC.

When clocks change, an expression with a fixed minute and hour is due once a day: a time in the skipped hour is due when that
hour ends, and a time in the repeated hour is due the first time. An expression with ``*`` in the minute or hour is an interval:
it skips the skipped hour and is due again in the repeated one. Debian's cron does the same.

The expression is matched by CronSim on the wall clock without a zone. CronSim with aware datetimes agrees in all but 12 of
8,154 cases (every zone, up to four changes of its clocks from 2018 to 2027, nine expressions), but in those it misses due times
after a change that is not by a full hour, or not at one (Lord Howe each April, Casey 2021, Pyongyang 2018).
"""

import functools
import heapq
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from backups import moments

_LARGEST_SHIFT = timedelta(days=1, hours=1)
"""Larger than any change of clocks: Samoa once skipped a whole day."""


def slots(cron: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The due times after *after*, in UTC, ascending. Raises `ValueError` for an invalid expression or an unknown zone."""
    place, fields = _zone(zone), cron.split()
    if len(fields) != 5:
        raise ValueError(f"{cron!r} has {len(fields)} fields; write minute, hour, day of month, month, day of week")
    interval = fields[0].startswith("*") or fields[1].startswith("*")
    try:
        back = timedelta(0) if zone == "UTC" else _LARGEST_SHIFT
        wall = CronSim(cron, after.astimezone(place).replace(tzinfo=None, fold=0) - back)
    except CronSimError as problem:
        raise ValueError(f"{cron!r} is not a cron expression: {str(problem).lower()}") from None
    return _due_times(wall, place, interval, after)


def _due_times(wall: Iterator[datetime], place: ZoneInfo, interval: bool, after: datetime) -> Iterator[datetime]:
    last, again = after.astimezone(UTC), list[datetime]()
    for time in wall:
        first, second = (time.replace(tzinfo=place, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first > second:  # skipped: with the offset after the change it is before the change, and vice versa
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
    offset = before.astimezone(place).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        before, after = (middle, after) if middle.astimezone(place).utcoffset() == offset else (before, middle)
    return after


def slots_after(cron: str, zone: str, moment: datetime, count: int) -> list[datetime]:
    """The next *count* due times after *moment*, in UTC. Raises `ValueError` as `slots`."""
    return list(itertools.islice(slots(cron, zone, moment), count))


def latest_slot(cron: str, zone: str, after: datetime, until: datetime) -> datetime | None:
    """The last due time after *after* up to *until*, in UTC, or None. Raises `ValueError` as `slots`.

    Searches the last hour first, then four, sixteen …, so that a long downtime costs no more than a short one.
    """
    back = timedelta(hours=1)
    while True:
        start = max(after, until - back)
        times = list(itertools.takewhile(lambda time: time <= until, slots(cron, zone, start)))
        if times or start == after:
            return times[-1] if times else None
        back *= 4


def check(cron: str, zone: str) -> str:
    """The problem of a cron expression or a zone, as a sentence; empty when it has none."""
    try:
        if not slots_after(cron, zone, moments.now(), 1):
            return f"{cron!r} is never due"
    except ValueError as problem:
        return str(problem)
    return ""


_zones = functools.cache(available_timezones)


def _zone(name: str) -> ZoneInfo:
    if name not in _zones():
        raise ValueError(f"there is no time zone {name!r}; use a name such as UTC or Europe/Berlin")
    return ZoneInfo(name)
