"""Readiness: whether a recovery would work today, as a score with its reasons.

A view of the conditions, with criteria of its own for what only a recovery needs (a second copy, a tested alert channel, ...).
Only what was tested earns points. `gather` reads, `assess` decides.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from django.db.models import Max, Q
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from backups.conf import configuration
from backups.engine.doctor import has_wal_reset_bug
from backups.engine.progress import duration
from backups.jobs.types import BACKUP
from backups.models import AlertChannel, AlertDelivery, IndexedBackup, Severity

from . import gathering
from .conditions import Present, observe
from .conditions.restores import DRILL_OVERDUE_DAYS
from .facts import Facts
from .verdict import Verdict, verdict

RECENT = timedelta(days=30)
"""Backups younger than this count for the share of proven ones."""

ENOUGH_PROVEN = 0.95
COPY_EVERY = timedelta(days=2)
CONTROL_EVERY = timedelta(days=2)
ALERT_TESTED = timedelta(days=90)
DRILL_LOST = timedelta(days=4 * DRILL_OVERDUE_DAYS)
"""A drill older than this earns nothing."""


_VITAL = frozenset({"recovery_point", "recovery_time", "drill"})
"""Without these a recovery is not confirmed, whatever the score."""


class State(StrEnum):
    """How far a criterion is met. ``partly`` earns half of its points; ``missed`` and ``untested`` earn none."""

    MET = "met"
    PARTLY = "partly"
    MISSED = "missed"
    UNTESTED = "untested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A criterion of the score: what was found, and what to do about it."""

    code: str
    title: str
    points: int
    state: State
    text: str
    todo: str = ""
    link: str = ""
    """URL name of the page that helps."""

    @property
    def earned(self) -> float:
        """Points of this item."""
        return self.points * {State.MET: 1.0, State.PARTLY: 0.5}.get(self.state, 0.0)

    @property
    def address(self) -> str:
        """URL of that page; empty if this site does not have it."""
        try:
            return reverse(self.link) if self.link else ""
        except NoReverseMatch:
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """The score, from 0 to 100, and its criteria; the one that costs most comes first."""

    at: datetime
    score: int
    items: tuple[Item, ...]

    @property
    def level(self) -> str:
        """``ready``, ``gaps`` or ``not_ready``, which a missed vital criterion always is."""
        vital = [item for item in self.items if item.code in _VITAL and item.state in (State.MISSED, State.UNTESTED)]
        return "not_ready" if vital or self.score < 50 else "ready" if self.score >= 90 else "gaps"

    @property
    def sentence(self) -> str:
        """The answer, for people."""
        first = next((item for item in self.items if item.state is not State.MET), None)
        if self.level == "not_ready" and first is not None:
            return f"Recovery not confirmed: {first.text[0].lower()}{first.text[1:]}"
        answer = "A recovery would work today." if self.level == "ready" else "A recovery would work today, with gaps."
        return f"{answer} Do first: {first.todo}" if first is not None and first.todo else answer

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "at": self.at.isoformat(),
            "score": self.score,
            "level": self.level,
            "sentence": self.sentence,
            "items": [
                {
                    "code": item.code,
                    "title": item.title,
                    "state": item.state.value,
                    "points": item.points,
                    "earned": item.earned,
                    "text": item.text,
                    "todo": item.todo,
                    "page": item.address,
                }
                for item in self.items
            ],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessFacts:
    """What only readiness asks."""

    recent: int = 0
    recent_proven: int = 0
    copied: datetime | None = None
    """Instant of the newest proven backup in a repository other than the first."""
    encrypted: bool | None = None
    """Whether the first repository is on an encrypted disk; None if unknown."""
    alert_channels: int = 0
    alert_worked: datetime | None = None
    """When a message was last delivered to a channel."""
    control: datetime | None = None
    """Instant of the newest backup of the control database."""
    has_control: bool = True
    sqlite: tuple[int, ...] = field(default_factory=lambda: sqlite3.sqlite_version_info)


def assess(facts: Facts, more: ReadinessFacts) -> Readiness:
    """The score. Reads no clock, no database and no disk."""
    answer, held, now = verdict(facts), {one.code: one for one in reversed(observe(facts))}, facts.now
    items = [
        _recovery_point(answer, held),
        _recovery_time(answer, held),
        _drill(facts, held),
        _second_copy(len(facts.repositories), more, now),
        _proven(more),
        _automation(answer, held),
        _alerts(more, now),
        _space(answer, held),
        _control(more, now),
        _encryption(more),
        _sqlite(more),
    ]
    assert sum(item.points for item in items) == 100
    items.sort(key=lambda item: item.earned - item.points)
    return Readiness(at=now, score=int(sum(item.earned for item in items)), items=tuple(items))


Held = dict[str, Present]
"""The conditions that hold, by code; the worst of each."""


def _recovery_point(answer: Verdict, held: Held) -> Item:
    known: dict[str, Any] = {"code": "recovery_point", "title": "Recovery point", "points": 20, "link": "backups:dashboard"}
    point = answer.recovery_point
    if point.seconds is None:
        return Item(state=State.UNTESTED, text="No proven backup.", todo="Back up now.", **known)
    text = f"The newest proven backup is {duration(point.seconds)} old (target: {duration(point.promised)})."
    if "too_old" not in held:
        return Item(state=State.MET, text=text, **known)
    state = State.MISSED if held["too_old"].severity == Severity.CRITICAL else State.PARTLY
    return Item(state=state, text=text, todo="Back up now, and check why the plan did not.", **known)


def _recovery_time(answer: Verdict, held: Held) -> Item:
    known: dict[str, Any] = {"code": "recovery_time", "title": "Recovery time", "points": 12, "link": "backups:dashboard"}
    time = answer.recovery_time
    if time.seconds is None:
        todo = "Verify a backup by restoring it."
        return Item(state=State.UNTESTED, text="No restore has been timed.", todo=todo, **known)
    text = f"A restore takes {duration(time.seconds)} (target: {duration(time.promised)})."
    if "slow_restore" not in held:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.MISSED, text=text, todo="Use a faster disk, or raise the target.", **known)


def _drill(facts: Facts, held: Held) -> Item:
    known: dict[str, Any] = {"code": "drill", "title": "Drills", "points": 15, "link": "backups:readiness"}
    drills, now = facts.drills, facts.now
    if drills.failed is not None:
        text = f"The last drill, {duration((now - drills.failed).total_seconds())} ago, failed."
        return Item(state=State.MISSED, text=text, todo="Read what it found.", **known)
    if drills.last_good is None:
        return Item(state=State.UNTESTED, text="No drill has been run.", todo="Run a drill now.", **known)
    took = f" and took {duration(drills.seconds)}" if drills.seconds is not None else ""
    text = f"The last drill was {duration((now - drills.last_good).total_seconds())} ago{took}."
    if "drill_overdue" not in held:
        return Item(state=State.MET, text=text, **known)
    state = State.PARTLY if now - drills.last_good <= DRILL_LOST else State.MISSED
    return Item(state=state, text=text, todo="Run a drill now, and check its plan.", **known)


def _second_copy(repositories: int, more: ReadinessFacts, now: datetime) -> Item:
    known: dict[str, Any] = {"code": "second_copy", "title": "Second copy", "points": 12, "link": "backups:plans"}
    if repositories < 2:
        text = "All backups are in one place and would be lost together."
        todo = "Add a second repository on another disk or host (BACKUP_SECOND_REPOSITORY)."
        return Item(state=State.UNTESTED, text=text, todo=todo, **known)
    if more.copied is None:
        text = "The second repository holds no proven backup."
        return Item(state=State.MISSED, text=text, todo="Run the plan that backs up to it.", **known)
    text = f"The newest proven backup in a second repository is {duration((now - more.copied).total_seconds())} old."
    if now - more.copied <= COPY_EVERY:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.PARTLY, text=text, todo="Check the plan that backs up to it.", **known)


def _proven(more: ReadinessFacts) -> Item:
    known: dict[str, Any] = {"code": "proven", "title": "Proven backups", "points": 10, "link": "backups:backups"}
    if not more.recent:
        return Item(state=State.UNTESTED, text="No backup was made in the last 30 days.", todo="Back up now.", **known)
    share = more.recent_proven / more.recent
    text = f"{more.recent_proven:,} of the {more.recent:,} backups of the last 30 days are proven ({share * 100:.0f} %)."
    if share >= ENOUGH_PROVEN:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.PARTLY if share >= 0.5 else State.MISSED, text=text, todo="Verify the others.", **known)


def _automation(answer: Verdict, held: Held) -> Item:
    known: dict[str, Any] = {"code": "automation", "title": "Plans and worker", "points": 10, "link": "backups:plans"}
    if "worker" in held:
        text = held["worker"].observation.text
        return Item(state=State.MISSED, text=text, todo="Start it with `manage.py serve`.", **known)
    if "plans" in held or not any(plan.kind == BACKUP.name for plan in answer.next):
        text = "No plan makes backups on time."
        return Item(state=State.MISSED, text=text, todo="Resume a plan, or add one.", **known)
    return Item(state=State.MET, text="A plan makes backups, and the worker runs.", **known)


def _alerts(more: ReadinessFacts, now: datetime) -> Item:
    known: dict[str, Any] = {"code": "alerts", "title": "Alerts", "points": 8, "link": "backups:alerts"}
    if not more.alert_channels:
        text = "No alert channel: failures reach nobody."
        return Item(state=State.UNTESTED, text=text, todo="Add a channel, and send a test.", **known)
    if more.alert_worked is None:
        return Item(state=State.UNTESTED, text="No message has ever been delivered.", todo="Send a test.", **known)
    text = f"A message was delivered to a channel {duration((now - more.alert_worked).total_seconds())} ago."
    if now - more.alert_worked <= ALERT_TESTED:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.PARTLY, text=text, todo="Send a test.", **known)


def _space(answer: Verdict, held: Held) -> Item:
    known: dict[str, Any] = {"code": "space", "title": "Space", "points": 5, "link": "backups:dashboard"}
    if not answer.space.size:
        text = "The repository's disk cannot be read."
        return Item(state=State.UNTESTED, text=text, todo="Check its mount.", **known)
    if "space" in held:
        seen = held["space"]
        state = State.PARTLY if seen.condition.name == "full_soon" else State.MISSED
        return Item(state=state, text=seen.observation.text, todo=seen.observation.todo, **known)
    days = answer.space.full_in_days
    text = "There is enough space." if days is None else f"There is space for {days:,.0f} days."
    return Item(state=State.MET, text=text, **known)


def _control(more: ReadinessFacts, now: datetime) -> Item:
    known: dict[str, Any] = {"code": "control", "title": "Control database", "points": 3, "link": "backups:plans"}
    if not more.has_control:
        text = "The control database is on a database server, which has its own backups."
        return Item(state=State.MET, text=text, **known)
    if more.control is None:
        text = "The control database was never backed up: jobs, plans and audit would be lost with this machine."
        return Item(state=State.UNTESTED, text=text, todo="Run the plan daily-control.", **known)
    text = f"The control database was backed up {duration((now - more.control).total_seconds())} ago."
    if now - more.control <= CONTROL_EVERY:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.PARTLY, text=text, todo="Check the plan daily-control.", **known)


def _encryption(more: ReadinessFacts) -> Item:
    known: dict[str, Any] = {"code": "encryption", "title": "Encryption", "points": 3}
    if more.encrypted:
        return Item(state=State.MET, text="The repository is on an encrypted disk.", **known)
    text = "The repository is not on an encrypted disk, and archives are not encrypted themselves."
    if more.encrypted is None:
        text = "Whether the repository's disk is encrypted is unknown, and archives are not encrypted themselves."
    return Item(state=State.UNTESTED, text=text, todo="Put the repository on an encrypted disk (LUKS).", **known)


def _sqlite(more: ReadinessFacts) -> Item:
    known: dict[str, Any] = {"code": "sqlite", "title": "SQLite version", "points": 2}
    version = ".".join(map(str, more.sqlite))
    if not has_wal_reset_bug(more.sqlite):
        return Item(state=State.MET, text=f"SQLite {version} does not have the WAL-reset bug.", **known)
    text = f"SQLite {version} can lose committed pages of a busy database (the WAL-reset bug)."
    todo = "Use SQLite 3.51.3, 3.50.7 or 3.44.6, or later."
    return Item(state=State.MISSED, text=text, todo=todo, **known)


def gather(now: datetime) -> ReadinessFacts:
    """Read what only readiness asks: the index, the delivered messages, and whether the repository's disk is encrypted."""
    config = configuration()
    first, *others = config.repositories
    mains = [name for name in config.sets if name not in config.kept_apart] or list(config.sets)
    apart = [name for name in config.sets if name in config.kept_apart]
    recent = IndexedBackup.objects.filter(time__gte=now - RECENT, safety=False)
    proven = Q(verification__in=("hashes", "restore"))
    # A dead man's switch that was called has delivered no alert
    switches = AlertChannel.objects.filter(kind=AlertChannel.Kind.PING)
    delivered = AlertDelivery.objects.filter(
        state=AlertDelivery.State.DELIVERED, event__in=("fired", "escalated", "resolved", "test")
    ).exclude(recipient__in=[f"channel:{pk}" for pk in switches.values_list("pk", flat=True)])
    return ReadinessFacts(
        recent=recent.count(),
        recent_proven=recent.filter(proven).count(),
        copied=_newest(recent.filter(proven, repository__in=others, set__in=mains)),
        encrypted=on_encrypted_disk(config.repositories[first]),
        alert_channels=AlertChannel.objects.filter(enabled=True).exclude(pk__in=switches).count(),
        alert_worked=delivered.aggregate(at=Max("finished"))["at"],
        control=_newest(IndexedBackup.objects.filter(set__in=apart)),
        has_control=bool(apart),
    )


def _newest(rows: Any) -> datetime | None:
    newest: datetime | None = rows.aggregate(at=Max("time"))["at"]
    return newest


def on_encrypted_disk(folder: Path, *, sys: Path = Path("/sys/dev/block")) -> bool | None:
    """Whether *folder*'s block device, or one below it, is encrypted by dm-crypt; None if the kernel does not know.

    Source: ``/sys/dev/block/MAJOR:MINOR``, its ``slaves`` and their ``dm/uuid``.
    """
    try:
        device = os.stat(folder).st_dev  # noqa: PTH116 - the number of the device
    except OSError:
        return None
    place = sys / f"{os.major(device)}:{os.minor(device)}"
    if not place.exists():
        return None  # a network or overlay file system has no device of its own
    return any(_is_crypt(device) for device in _stack(place))


def _stack(place: Path) -> Iterable[Path]:
    yield place
    for below in sorted((place / "slaves").glob("*")):
        yield from _stack(below.resolve())


def _is_crypt(device: Path) -> bool:
    try:
        return (device / "dm" / "uuid").read_text(encoding="ascii").startswith("CRYPT-")
    except OSError:
        return False


def now() -> Readiness:
    """The score at this moment."""
    moment = timezone.now()
    return assess(gathering.gather(moment), gather(moment))
