"""Would a recovery work today? A score with its reasons, from what was tested and not from what is hoped.

`gather` reads what is known, `assess` decides: a pure function, tested by tables. What was never tested counts as missing.
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
from backups.models import AlertChannel, AlertDelivery, IndexedBackup

from . import verdict as status

DRILL_EVERY = timedelta(days=8)
"""A test restore every week, and a day for a late one."""

COPY_EVERY = timedelta(days=2)
ALERT_TESTED = timedelta(days=90)
CONTROL_EVERY = timedelta(days=2)
LASTS_DAYS = 30.0
ENOUGH_PROVEN = 0.95


class State(StrEnum):
    """How far something is the case. Half of its points are given for ``partly``, none for what was never tested."""

    MET = "met"
    PARTLY = "partly"
    MISSED = "missed"
    UNTESTED = "untested"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One reason of the score: what is the case, and what to do about it."""

    code: str
    title: str
    points: int
    state: State
    text: str
    todo: str = ""
    link: str = ""
    """Name of the page on which it is mended."""

    @property
    def earned(self) -> float:
        """Points of this item."""
        return self.points * {State.MET: 1.0, State.PARTLY: 0.5}.get(self.state, 0.0)

    @property
    def address(self) -> str:
        """The page's address; empty where this site has none."""
        try:
            return reverse(self.link) if self.link else ""
        except NoReverseMatch:
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """The score, from 0 to 100, and what it is made of; what costs most comes first."""

    at: datetime
    score: int
    items: tuple[Item, ...]

    @property
    def level(self) -> str:
        """``ready``, ``gaps`` or ``not_ready``: a miss of what a recovery cannot do without is never ready."""
        vital = [item for item in self.items if item.code in _VITAL and item.state in (State.MISSED, State.UNTESTED)]
        return "not_ready" if vital or self.score < 50 else "ready" if self.score >= 90 else "gaps"

    @property
    def sentence(self) -> str:
        """The answer, for people."""
        open_items = [item for item in self.items if item.state is not State.MET]
        what = {"ready": "A recovery would work today.", "gaps": "A recovery would work today, with gaps."}
        if self.level == "not_ready":
            return f"It is not known that a recovery would work: {open_items[0].text[0].lower()}{open_items[0].text[1:]}"
        return what[self.level] + (f" First to do: {open_items[0].todo}" if open_items and open_items[0].todo else "")

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


_VITAL = frozenset({"recovery_point", "recovery_time", "drill"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessFacts:
    """What the score rests on, beside the verdict."""

    recent: int = 0
    recent_proven: int = 0
    drilled: datetime | None = None
    drill_ok: bool | None = None
    drill_seconds: float | None = None
    repositories: int = 1
    copied: datetime | None = None
    """Instant of the newest proven backup in another repository than the first."""
    encrypted: bool | None = None
    """Whether the first repository lies on an encrypted disk; None when that cannot be told."""
    alert_channels: int = 0
    alert_worked: datetime | None = None
    control: datetime | None = None
    has_control: bool = True
    planned: bool = False
    working: bool = False
    sqlite: tuple[int, ...] = field(default_factory=lambda: sqlite3.sqlite_version_info)


def assess(verdict: status.Verdict, facts: ReadinessFacts, now: datetime) -> Readiness:
    """The score at *now*. Reads no clock, no database and no disk."""
    items = [
        _recovery_point(verdict),
        _recovery_time(verdict),
        _drill(facts, now),
        _second_copy(facts, now),
        _proven(facts),
        _automation(facts),
        _alerts(facts, now),
        _space(verdict),
        _control(facts, now),
        _encryption(facts),
        _sqlite(facts),
    ]
    assert sum(item.points for item in items) == 100
    items.sort(key=lambda item: item.earned - item.points)
    return Readiness(at=now, score=int(sum(item.earned for item in items)), items=tuple(items))


def _recovery_point(verdict: status.Verdict) -> Item:
    point, promised = verdict.recovery_point, duration(verdict.recovery_point.promised)
    known: dict[str, Any] = {"code": "recovery_point", "title": "Recovery point", "points": 20, "link": "backups:dashboard"}
    if point.seconds is None:
        return Item(state=State.UNTESTED, text="There is no proven backup.", todo="Back up now.", **known)
    text = f"The newest proven backup is {duration(point.seconds)} old; {promised} are promised."
    allowed = point.promised + max(status.GRACE.total_seconds(), point.promised / 10)
    if point.seconds <= allowed:
        return Item(state=State.MET, text=text, **known)
    state = State.PARTLY if point.seconds <= 2 * allowed else State.MISSED
    return Item(state=state, text=text, todo="Back up now, and look why the plan did not.", **known)


def _recovery_time(verdict: status.Verdict) -> Item:
    time = verdict.recovery_time
    known: dict[str, Any] = {"code": "recovery_time", "title": "Recovery time", "points": 12, "link": "backups:dashboard"}
    if time.seconds is None:
        todo = "Verify a backup by restoring it."
        return Item(state=State.UNTESTED, text="How long a restore takes was never measured.", todo=todo, **known)
    text = f"A restore takes {duration(time.seconds)}; {duration(time.promised)} are promised."
    if time.kept:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.MISSED, text=text, todo="Use a faster disk, or promise what can be kept.", **known)


def _drill(facts: ReadinessFacts, now: datetime) -> Item:
    known: dict[str, Any] = {"code": "drill", "title": "Test restores", "points": 15, "link": "backups:readiness"}
    if facts.drilled is None:
        return Item(state=State.UNTESTED, text="No test restore was ever made.", todo="Run a drill now.", **known)
    age = duration((now - facts.drilled).total_seconds())
    if not facts.drill_ok:
        text = f"The last test restore, {age} ago, failed."
        return Item(state=State.MISSED, text=text, todo="Look at what it found.", **known)
    took = f" and took {duration(facts.drill_seconds)}" if facts.drill_seconds is not None else ""
    text = f"The last test restore was {age} ago{took}."
    if now - facts.drilled <= DRILL_EVERY:
        return Item(state=State.MET, text=text, **known)
    state = State.PARTLY if now - facts.drilled <= 4 * DRILL_EVERY else State.MISSED
    return Item(state=state, text=text, todo="Run a drill now, and look at the plan for it.", **known)


def _second_copy(facts: ReadinessFacts, now: datetime) -> Item:
    known: dict[str, Any] = {"code": "second_copy", "title": "Second copy", "points": 12, "link": "backups:plans"}
    if facts.repositories < 2:
        text = "All backups are in one place: what destroys it, destroys them all."
        todo = "Name a second repository on another disk or host (BACKUP_SECOND_REPOSITORY)."
        return Item(state=State.UNTESTED, text=text, todo=todo, **known)
    if facts.copied is None:
        text = "The second repository holds no proven backup."
        return Item(state=State.MISSED, text=text, todo="Run the plan that backs up to it.", **known)
    text = f"The newest proven backup in a second repository is {duration((now - facts.copied).total_seconds())} old."
    if now - facts.copied <= COPY_EVERY:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.PARTLY, text=text, todo="Look at the plan that backs up to it.", **known)


def _proven(facts: ReadinessFacts) -> Item:
    known: dict[str, Any] = {"code": "proven", "title": "Proven backups", "points": 10, "link": "backups:backups"}
    if not facts.recent:
        return Item(state=State.UNTESTED, text="No backup was made in the last 30 days.", todo="Back up now.", **known)
    share = facts.recent_proven / facts.recent
    text = f"{facts.recent_proven:,} of the {facts.recent:,} backups of the last 30 days are proven ({share * 100:.0f} %)."
    if share >= ENOUGH_PROVEN:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.PARTLY if share >= 0.5 else State.MISSED, text=text, todo="Verify the others.", **known)


def _automation(facts: ReadinessFacts) -> Item:
    known: dict[str, Any] = {"code": "automation", "title": "Plans and worker", "points": 10, "link": "backups:plans"}
    if facts.planned and facts.working:
        return Item(state=State.MET, text="A plan makes backups, and the worker is alive.", **known)
    if not facts.working:
        todo = "Start it with `manage.py serve`."
        return Item(state=State.MISSED, text="No worker is alive: nothing runs by itself.", todo=todo, **known)
    todo = "Resume a plan, or make one."
    return Item(state=State.MISSED, text="No plan makes backups in time.", todo=todo, **known)


def _alerts(facts: ReadinessFacts, now: datetime) -> Item:
    known: dict[str, Any] = {"code": "alerts", "title": "Alerts", "points": 8, "link": "backups:alerts"}
    if not facts.alert_channels:
        text = "Nobody would hear of a failure: there is no channel for alerts."
        return Item(state=State.UNTESTED, text=text, todo="Add a channel, and send a test.", **known)
    if facts.alert_worked is None:
        text = "No alert ever arrived, not even a test."
        return Item(state=State.UNTESTED, text=text, todo="Send a test.", **known)
    text = f"A message to a channel arrived {duration((now - facts.alert_worked).total_seconds())} ago."
    if now - facts.alert_worked <= ALERT_TESTED:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.PARTLY, text=text, todo="Send a test.", **known)


def _space(verdict: status.Verdict) -> Item:
    known: dict[str, Any] = {"code": "space", "title": "Space", "points": 5, "link": "backups:dashboard"}
    space = verdict.space
    if not space.size:
        text = "The disk of the repository cannot be asked."
        return Item(state=State.UNTESTED, text=text, todo="Look at its mount.", **known)
    if space.free < status.LITTLE_SPACE * space.size:
        text = "The disk of the repository is nearly full."
        return Item(state=State.MISSED, text=text, todo="Free space, or keep fewer backups.", **known)
    if space.full_in_days is None:
        return Item(state=State.MET, text="There is space, and it does not get less yet.", **known)
    text = f"There is space for {space.full_in_days:,.0f} days."
    state = State.MET if space.full_in_days >= LASTS_DAYS else State.PARTLY
    return Item(state=state, text=text, todo="" if state is State.MET else "Free space, or keep fewer backups.", **known)


def _control(facts: ReadinessFacts, now: datetime) -> Item:
    known: dict[str, Any] = {"code": "control", "title": "Control database", "points": 3, "link": "backups:plans"}
    if not facts.has_control:
        text = "The control database is not on this machine; whoever runs it backs it up."
        return Item(state=State.MET, text=text, **known)
    if facts.control is None:
        text = "The control database was never backed up: jobs, plans and audit would be lost with this machine."
        return Item(state=State.UNTESTED, text=text, todo="Run the plan daily-control.", **known)
    text = f"The control database was backed up {duration((now - facts.control).total_seconds())} ago."
    if now - facts.control <= CONTROL_EVERY:
        return Item(state=State.MET, text=text, **known)
    return Item(state=State.PARTLY, text=text, todo="Look at the plan daily-control.", **known)


def _encryption(facts: ReadinessFacts) -> Item:
    known: dict[str, Any] = {"code": "encryption", "title": "Encryption", "points": 3}
    if facts.encrypted:
        return Item(state=State.MET, text="The repository lies on an encrypted disk.", **known)
    text = "The repository does not lie on an encrypted disk: whoever gets the disk gets the data."
    if facts.encrypted is None:
        text = "Whether the repository lies on an encrypted disk cannot be told, and archives are not encrypted themselves."
    return Item(state=State.UNTESTED, text=text, todo="Put the repository on an encrypted disk (LUKS).", **known)


def _sqlite(facts: ReadinessFacts) -> Item:
    known: dict[str, Any] = {"code": "sqlite", "title": "SQLite's version", "points": 2}
    version = ".".join(map(str, facts.sqlite))
    if not has_wal_reset_bug(facts.sqlite):
        return Item(state=State.MET, text=f"SQLite {version} does not have the WAL-reset bug.", **known)
    text = f"SQLite {version} can lose committed pages of a busy database (the WAL-reset bug)."
    todo = "Use SQLite 3.51.3, 3.50.7 or 3.44.6, or later."
    return Item(state=State.MISSED, text=text, todo=todo, **known)


# What is known


def gather(verdict: status.Verdict, now: datetime) -> ReadinessFacts:
    """Read what the score rests on beside *verdict*: the index, the outbox of alerts, and the repository's disk."""
    found = configuration()
    first, *others = found.repositories
    mains = [name for name in found.sets if name not in found.kept_apart] or list(found.sets)
    recent = IndexedBackup.objects.filter(time__gte=now - timedelta(days=30), safety=False)
    proven = Q(verification__in=("hashes", "restore"))
    drill = (
        IndexedBackup.objects.filter(drilled_at__isnull=False)
        .order_by("-drilled_at")
        .values_list("drilled_at", "drill_ok", "drill_seconds")
        .first()
    )
    reasons = {reason.code for reason in verdict.reasons}
    # A dead man's switch that was called has told nobody of anything yet
    switches = AlertChannel.objects.filter(kind=AlertChannel.Kind.PING)
    told = AlertDelivery.objects.filter(
        state=AlertDelivery.State.DELIVERED, event__in=("fired", "escalated", "resolved", "test")
    )
    told = told.exclude(recipient__in=[f"channel:{pk}" for pk in switches.values_list("pk", flat=True)])
    apart = [name for name in found.sets if name in found.kept_apart]
    return ReadinessFacts(
        recent=recent.count(),
        recent_proven=recent.filter(proven).count(),
        drilled=drill[0] if drill else None,
        drill_ok=drill[1] if drill else None,
        drill_seconds=drill[2] if drill else None,
        repositories=len(found.repositories),
        copied=_newest(recent.filter(proven, repository__in=others, set__in=mains)),
        encrypted=on_encrypted_disk(found.repositories[first]),
        alert_channels=AlertChannel.objects.filter(enabled=True).exclude(pk__in=switches).count(),
        alert_worked=told.aggregate(at=Max("finished"))["at"],
        control=_newest(IndexedBackup.objects.filter(set__in=apart)),
        has_control=bool(apart),
        planned="plans" not in reasons and any(plan.kind == BACKUP.name for plan in verdict.next),
        working="worker" not in reasons,
    )


def _newest(rows: Any) -> datetime | None:
    newest: datetime | None = rows.aggregate(at=Max("time"))["at"]
    return newest


def on_encrypted_disk(folder: Path, *, sys: Path = Path("/sys/dev/block")) -> bool | None:
    """Whether *folder*'s block device, or one below it, is encrypted by dm-crypt; None where the kernel does not tell."""
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
    verdict = status.verdict(status.gather(moment), moment)
    return assess(verdict, gather(verdict, moment), moment)
