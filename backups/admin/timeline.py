"""Backups over time: points of the timeline and figures of the charts, aggregated by the database."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.db.models import CharField, Count, F, Max, Sum
from django.db.models.functions import Cast, Substr
from django.urls import reverse
from django.utils import timezone

from backups.conf import configuration
from backups.engine.progress import human_bytes
from backups.models import IndexedBackup

_MINUTE, _HOUR, _DAY = 16, 13, 10
"""Lengths of a stored time cut to the minute, the hour and the day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A time range up to now. The timeline has ``slots`` slots; backups in one slot share a point."""

    name: str
    label: str
    length: timedelta
    slots: int
    precision: int


RANGES = {
    one.name: one
    for one in (
        Range(name="24h", label="24 h", length=timedelta(hours=24), slots=48, precision=_MINUTE),
        Range(name="7d", label="7 d", length=timedelta(days=7), slots=56, precision=_HOUR),
        Range(name="30d", label="30 d", length=timedelta(days=30), slots=60, precision=_HOUR),
    )
}
DEFAULT = "7d"

_KINDS = (IndexedBackup.Kind.FULL, IndexedBackup.Kind.INCREMENTAL, IndexedBackup.Kind.SNAPSHOT)
_SHAPES = {"full": "◆", "incremental": "●", "snapshot": "■"}
_OUTLINES = {
    "full": "M0 -8L8 0L0 8L-8 0Z",
    "incremental": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0 -12 0Z",
    "snapshot": "M-6 -6H6V6H-6Z",
}
_PROVEN = (IndexedBackup.Verification.RESTORE, IndexedBackup.Verification.HASHES)
_RANK = {"proven": 0, "unproven": 1, "damaged": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The backups of a slot. ``x`` is in percent.

    The state is that of the worst, so that a proven one hides no other; after a damaged one, a newer proven one makes it
    ``unproven``, a warning.
    """

    x: float
    state: str
    count: int
    title: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """The points of one kind, oldest first."""

    kind: str
    shape: str
    outline: str
    y: int
    points: tuple[Point, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A tick of the time axis; minor ticks are hidden on narrow screens."""

    x: float
    label: str
    minor: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The timeline as it is drawn; heights in pixels."""

    range: Range
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    height: int

    @property
    def axis(self) -> int:
        """Height including the labels of the time axis."""
        return self.height + 20

    @property
    def axis_text(self) -> int:
        """Baseline of those labels."""
        return self.height + 15

    @property
    def count(self) -> int:
        return sum(lane.count for lane in self.lanes)


_LANE = 34


def timeline(chosen: Range, now: datetime) -> Timeline:
    """The backups of a range, as at most ``slots`` points per kind."""
    begin = now - chosen.length
    rows = (
        _within(begin, chosen.precision)
        .values_list("kind", "verification", "slot")
        .annotate(count=Count("pk"), newest=Max("time"), id=Max("backup_id"), stored=Sum("bytes_stored"))
    )
    merged: dict[tuple[str, int], list[_Group]] = {}
    for kind, verification, _, count, newest, backup_id, stored in rows:
        slot = min(chosen.slots - 1, max(0, int((newest - begin) / chosen.length * chosen.slots)))
        group = _Group(kind, verification, count, newest, backup_id, stored or 0)
        merged.setdefault((kind, slot), []).append(group)
    lanes: list[Lane] = []
    for kind in _KINDS:
        mine = sorted((slot, groups) for (of, slot), groups in merged.items() if of == kind)
        points = tuple(_point(groups, begin, chosen) for _, groups in mine)
        if points or kind != IndexedBackup.Kind.SNAPSHOT:
            count = sum(point.count for point in points)
            lanes.append(
                Lane(
                    kind=kind.value,
                    shape=_SHAPES[kind],
                    outline=_OUTLINES[kind],
                    y=22 + _LANE * len(lanes),
                    points=points,
                    count=count,
                )
            )
    return Timeline(
        range=chosen, lanes=tuple(lanes), ticks=tuple(_ticks(begin, now, chosen)), height=22 + _LANE * len(lanes) + 8
    )


@dataclass(frozen=True, slots=True, order=True)
class _Group:
    kind: str
    verification: str
    count: int
    newest: datetime
    id: str
    stored: int

    @property
    def state(self) -> str:
        if self.verification in IndexedBackup.UNUSABLE:
            return "damaged"
        return "proven" if self.verification in _PROVEN else "unproven"


def _point(groups: list[_Group], begin: datetime, chosen: Range) -> Point:
    leading = max(groups, key=lambda group: (_RANK[group.state], group.newest))
    count = sum(group.count for group in groups)
    newest = max(group.newest for group in groups)
    stored = human_bytes(sum(group.stored for group in groups))
    moment = timezone.localtime(leading.newest if leading.count == 1 else newest)
    when = f"{moment:%a %d %b %H:%M} {moment.tzname()}"
    if count == 1:
        proof = IndexedBackup.Verification(leading.verification).label.lower()
        title = f"{leading.kind.capitalize()}, {when}, {stored}, {proof}"
        address = reverse("backups:backup", args=[leading.id])
    else:
        parts = {
            state: sum(group.count for group in groups if group.state == state) for state in ("proven", "unproven", "damaged")
        }
        words = {"proven": "verified", "unproven": "not verified", "damaged": "damaged"}
        states = ", ".join(f"{number} {words[state]}" for state, number in parts.items() if number)
        title = f"{count} {leading.kind} backups until {when}, {stored}: {states}"
        if leading.state == "damaged" and leading.count == 1:
            address = reverse("backups:backup", args=[leading.id])
        else:
            width = chosen.length / chosen.slots
            span = {"kind": leading.kind, "since": _param(newest - width), "until": _param(newest + timedelta(minutes=1))}
            address = f"{reverse('backups:backups')}?{urlencode(span)}"
    x = min(100.0, max(0.0, (newest - begin) / chosen.length * 100))
    proven = max((group.newest for group in groups if group.state == "proven"), default=begin)
    state = "unproven" if leading.state == "damaged" and proven > leading.newest else leading.state
    return Point(x=round(x, 2), state=state, count=count, title=title, address=address)


def _param(moment: datetime) -> str:
    return f"{timezone.localtime(moment):%Y-%m-%dT%H:%M}"


def _ticks(begin: datetime, now: datetime, chosen: Range) -> Iterator[Tick]:
    local = timezone.localtime(now)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if chosen.name == "24h":
        step, form, count = timedelta(hours=3), "%H:%M", 10
        first = midnight + timedelta(hours=local.hour // 3 * 3)
    else:
        days = 1 if chosen.name == "7d" else 5
        step, form, count = timedelta(days=days), "%a %d" if days == 1 else "%d %b", 8
        first = midnight
    for number in range(count):
        moment = first - step * number
        x = (moment - begin) / chosen.length * 100
        if 1.5 <= x <= 98.5:
            yield Tick(x=round(x, 2), label=f"{moment:{form}}", minor=number % 2 == 1)


# Figures over time


def figures(chosen: Range, now: datetime, *, daily: bool = False) -> list[dict[str, Any]]:
    """The figures of backups in a range by minute, hour or day (UTC), oldest first.

    Each has its ``time``, ``count``, largest ``source`` (bytes), bytes ``stored``, longest duration in ``seconds`` and longest
    ``pause`` (ms).
    """
    rows = (
        _within(now - chosen.length, _DAY if daily else chosen.precision)
        .values_list("slot")
        .annotate(
            count=Count("pk"),
            source=Max("bytes_source"),
            stored=Sum("bytes_stored"),
            longest=Max("seconds"),
            pause=Max(F("pause_sqlite") + F("pause_chroma")),
        )
        .order_by("slot")
    )
    return [
        {
            "time": _moment(slot),
            "count": count,
            "source": int(source or 0),
            "stored": int(stored or 0),  # PostgreSQL adds up to a Decimal
            "seconds": float(longest or 0),
            "pause": float(pause or 0),
        }
        for slot, count, source, stored, longest, pause in rows
    ]


def columns(found: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The figures as uPlot reads them: one list per figure; times in seconds since 1970."""
    return {
        "time": [round(one["time"].timestamp()) for one in found],
        "source": [one["source"] for one in found],
        "stored": [one["stored"] for one in found],
        "seconds": [round(one["seconds"], 3) for one in found],
        "pause": [round(one["pause"], 3) for one in found],
    }


def _within(begin: datetime, precision: int) -> Any:
    config = configuration()
    names = [name for name in config.sets if name not in config.kept_apart] or list(config.sets)
    return (
        IndexedBackup.objects.filter(time__gt=begin, set__in=names, safety=False)
        .order_by()
        .annotate(slot=Substr(Cast("time", CharField()), 1, precision))
    )


def _moment(slot: str) -> datetime:
    full = slot + "0000-01-01 00:00"[len(slot) :]
    return datetime.fromisoformat(full).replace(tzinfo=UTC)
