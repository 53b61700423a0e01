"""Readiness: whether a recovery would work today, as a score with its reasons.

A view of the conditions, with criteria of its own for what only a recovery needs (a second copy, a tested alert channel, ...).
Only what was tested earns points. `gather` reads, `assess` decides.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.db import connections
from django.db.models import Count, Max, Q

from backups import moments
from backups.conf import WORKER, called, configuration
from backups.engine.doctor import has_wal_reset_bug
from backups.engine.progress import duration
from backups.jobs.types import BACKUP
from backups.models import AlertChannel, AlertDelivery, IndexedBackup

from . import gathering
from .conditions import Observation, observe
from .conditions.backups import LONG_OVERDUE_TIMES_RPO
from .conditions.repositories import full_soon
from .conditions.restores import DRILL_OVERDUE_DAYS
from .encryption import on_encrypted_disk
from .facts import Excluded, Facts
from .verdict import Verdict, verdict

RECENT = timedelta(days=30)
"""Backups younger than this count for the share of proven ones."""

ENOUGH_PROVEN = 0.95
COPY_EVERY = timedelta(days=2)
CONTROL_EVERY = timedelta(days=2)
ALERT_TESTED = timedelta(days=90)
DRILL_LOST = timedelta(days=4 * DRILL_OVERDUE_DAYS)
"""A drill older than this earns nothing."""


_CONTROL_PLAN = "daily-control"
_REPOSITORIES = "BACKUPS['REPOSITORIES']"
_VITAL = frozenset({"recovery_point", "recovery_time", "drill"})
"""Without these a recovery is not confirmed, whatever the score."""


_IN_REPOSITORY = frozenset({"recovery_point", "recovery_time", "drill", "proven", "control"})
"""Items that only an available repository can prove today."""


class State(StrEnum):
    """How far a criterion is met. ``partly`` earns half of its points; ``missed``, ``untested`` and ``unknown`` earn none."""

    MET = "met"
    PARTLY = "partly"
    MISSED = "missed"
    UNTESTED = "untested"
    UNKNOWN = "unknown"
    """It cannot be judged: a repository is not available, or it is on a server that is not looked at."""


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
    arguments: tuple[str, ...] = ()

    @property
    def earned(self) -> float:
        """Points of this item."""
        return self.points * {State.MET: 1.0, State.PARTLY: 0.5}.get(self.state, 0.0)

    @property
    def address(self) -> str:
        """URL of that page; empty if this site does not have it."""
        return Observation(subject="", text="", link=self.link, arguments=self.arguments).address


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """The score, from 0 to 100, and its criteria; the one that costs most comes first."""

    at: datetime
    score: int
    items: tuple[Item, ...]

    @property
    def level(self) -> str:
        """``ready``, ``gaps``, ``not_ready``, which a missed vital criterion always is, or ``unknown``."""
        if any(item.code in _VITAL and item.state is State.UNKNOWN for item in self.items):
            return "unknown"
        vital = [item for item in self.items if item.code in _VITAL and item.state in (State.MISSED, State.UNTESTED)]
        return "not_ready" if vital or self.score < 50 else "ready" if self.score >= 90 else "gaps"

    @property
    def sentence(self) -> str:
        """The answer, for people."""
        first = next((item for item in self.items if item.state is not State.MET), None)
        if self.level == "unknown":
            return "Whether a recovery would work is unknown: the repository with the newest backup is not available."
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
    recent_encrypted: int = 0
    alert_channels: int = 0
    alert_worked: datetime | None = None
    """When a message was last delivered to a channel."""
    control: datetime | None = None
    """Instant of the newest backup of the control database that is not damaged."""
    has_control: bool = True
    """Whether a set that is kept apart holds it."""
    control_on_server: bool = False
    """Whether it is not a file, and so is backed up with the tools of its server, if at all."""
    sqlite: tuple[int, ...] = field(default_factory=lambda: sqlite3.sqlite_version_info)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """What the criteria judge."""

    facts: Facts
    more: ReadinessFacts
    verdict: Verdict
    held: dict[str, Observation]
    """The conditions that hold, by code; the worst of each."""

    @property
    def first(self) -> str:
        """What to do first while there is no backup; empty if there is one."""
        return "" if any(one.newest is not None for one in self.facts.sets) else "Make the first backup."

    def age(self, moment: datetime) -> str:
        return duration((self.facts.now - moment).total_seconds())

    def excluded(self, one: Excluded | None, what: str) -> str:
        """A further sentence about a restore or drill that does not count; empty if there is none."""
        return f" A {what} {self.age(one.time)} ago does not count: its backup, {one.id}, is {one.why} now." if one else ""

    def fresh(self, moment: datetime, limit: timedelta, text: str, todo: str) -> Judgement:
        """Met if *moment* is not longer ago than *limit*, otherwise partly met."""
        return (State.MET, text) if self.facts.now - moment <= limit else (State.PARTLY, text, todo)


Judgement = tuple[State, str] | tuple[State, str, str]
"""State, what was found, and what to do about it."""


_UNKNOWN: Judgement = State.UNKNOWN, "The repository is not available.", "Mount its disk, or correct its path in the settings."


def assess(facts: Facts, more: ReadinessFacts) -> Readiness:
    """The score. Reads no clock, no database and no disk."""
    held = {one.code: one for one in reversed(observe(facts))}
    verdict_now = verdict(facts)
    seen = _Evidence(facts=facts, more=more, verdict=verdict_now, held=held)
    known = verdict_now.newest is not None or all(one.there for one in facts.repositories)
    items = []
    for code, title, points, link, judge in _CRITERIA:
        state, text, *todo = judge(seen) if known or code not in _IN_REPOSITORY else _UNKNOWN
        arguments: tuple[str, ...] = ()
        if code == "control" and any(plan.name == _CONTROL_PLAN for plan in facts.plans):
            link, arguments = "backups:plan", (_CONTROL_PLAN,)
        if code == "second_copy" and len(facts.repositories) < 2:
            link = ""  # a setting, which no page changes
        item = Item(code=code, title=title, points=points, link=link, state=state, text=text, todo="".join(todo))
        items.append(replace(item, arguments=arguments))
    assert sum(item.points for item in items) == 100
    items.sort(key=lambda item: item.earned - item.points)
    return Readiness(at=facts.now, score=int(sum(item.earned for item in items)), items=tuple(items))


def _recovery_point(seen: _Evidence) -> Judgement:
    point = seen.verdict.recovery_point
    if point.seconds is None:
        return State.UNTESTED, "No proven backup.", seen.first or "Back up now."
    text = f"The newest proven backup is {duration(point.seconds)} old (target: {duration(point.promised)})."
    text += "".join(f" {reason}" for one in seen.facts.sets if (reason := one.not_counted))
    if "too_old" not in seen.held:
        return State.MET, text
    state = State.MISSED if point.seconds > LONG_OVERDUE_TIMES_RPO * point.promised else State.PARTLY
    return state, text, "Back up now, and check why the plan did not."


def _recovery_time(seen: _Evidence) -> Judgement:
    time = seen.verdict.recovery_time
    excluded = seen.excluded(seen.facts.excluded_restore, "restore")
    if time.seconds is None:
        text = f"No restore has been timed.{excluded}"
        return State.UNTESTED, text, seen.first or "Verify a backup by restoring it."
    text = f"A restore takes {duration(time.seconds)} (target: {duration(time.promised)}).{excluded}"
    if "slow_restore" not in seen.held:
        return State.MET, text
    return State.MISSED, text, "Use a faster disk, or raise the target."


def _drill(seen: _Evidence) -> Judgement:
    drills = seen.facts.drills
    if drills.failed is not None:
        return State.MISSED, f"The last drill, {seen.age(drills.failed)} ago, failed.", "Read what it found."
    excluded = seen.excluded(drills.excluded, "drill")
    if drills.last_good is None:
        text = f"No drill of a backup that is sound today has been run.{excluded}" if excluded else "No drill has been run."
        return State.UNTESTED, text, seen.first or "Run a drill now."
    took = f" and took {duration(drills.seconds)}" if drills.seconds is not None else ""
    text = f"The last drill was {seen.age(drills.last_good)} ago{took}.{excluded}"
    if "drill_overdue" not in seen.held:
        return State.MET, text
    state = State.PARTLY if seen.facts.now - drills.last_good <= DRILL_LOST else State.MISSED
    return state, text, "Run a drill now, and check its plan."


def _second_copy(seen: _Evidence) -> Judgement:
    copied = seen.more.copied
    if len(seen.facts.repositories) < 2:
        todo = f"Add a second repository on another disk or host ({called(_REPOSITORIES)})."
        return State.MISSED, "All backups are in one place and would be lost together.", todo
    if copied is None:
        return State.MISSED, "The second repository holds no proven backup.", "Run the plan that backs up to it."
    text = f"The newest proven backup in a second repository is {seen.age(copied)} old."
    return seen.fresh(copied, COPY_EVERY, text, "Check the plan that backs up to it.")


def _proven(seen: _Evidence) -> Judgement:
    recent, proven = seen.more.recent, seen.more.recent_proven
    if not recent:
        return State.MISSED, "No backup was made in the last 30 days.", "Back up now."
    share = proven / recent
    text = f"{proven:,} of {recent:,} backups of the last 30 days are proven ({share * 100:.0f} %)."
    if share >= ENOUGH_PROVEN:
        return State.MET, text
    # However often a damaged backup is verified, it stays damaged
    todo = "Back up now, and verify the others that are not damaged." if seen.facts.counts.damaged else "Verify the others."
    return State.PARTLY if share >= 0.5 else State.MISSED, text, todo


def _automation(seen: _Evidence) -> Judgement:
    if "worker" in seen.held:
        return State.MISSED, seen.held["worker"].text, f"Start it with `{called(WORKER)}`."
    if "plans" in seen.held or not any(plan.kind == BACKUP.name for plan in seen.verdict.next):
        return State.MISSED, "No plan makes backups on time.", "Resume a plan, or add one."
    return State.MET, "A plan makes backups, and the worker runs."


def _alerts(seen: _Evidence) -> Judgement:
    worked = seen.more.alert_worked
    if not seen.more.alert_channels:
        return State.MISSED, "No alert channel: failures reach nobody.", "Add a channel, and send a test."
    if worked is None:
        return State.UNTESTED, "No message has ever been delivered.", "Send a test."
    return seen.fresh(worked, ALERT_TESTED, f"A message was delivered to a channel {seen.age(worked)} ago.", "Send a test.")


def _space(seen: _Evidence) -> Judgement:
    space, condition = seen.verdict.space, seen.held.get("space")
    if not space.size:
        return State.UNKNOWN, "The repository's disk cannot be read.", "Check its mount."
    if condition is not None:
        state = State.PARTLY if condition.kind == full_soon.name else State.MISSED
        return state, condition.text, condition.todo
    days = space.full_in_days
    return State.MET, "There is enough space." if days is None else f"There is space for {days:,.0f} days."


def _control(seen: _Evidence) -> Judgement:
    backed_up = seen.more.control
    if seen.more.control_on_server:
        text = "The control database is on a database server; whether that is backed up is not known here."
        return State.UNKNOWN, text, "Back it up with the tools of its server."
    if not seen.more.has_control:
        todo = "Give it a set of its own in BACKUPS['SETS'], and name that set in BACKUPS['KEPT_APART']."
        return State.MISSED, "The control database is in no set: jobs, plans and audit would be lost with this machine.", todo
    if backed_up is None:
        text = "The control database was never backed up: jobs, plans and audit would be lost with this machine."
        return State.MISSED, text, "Run the plan daily-control."
    text = f"The control database was backed up {seen.age(backed_up)} ago."
    return seen.fresh(backed_up, CONTROL_EVERY, text, "Check the plan daily-control.")


def _encryption(seen: _Evidence) -> Judgement:
    if seen.more.recent and seen.more.recent_encrypted == seen.more.recent:
        return State.MET, "All recent backups are encrypted."
    if seen.more.encrypted:
        return State.MET, "The repository is on an encrypted disk."
    if seen.more.recent_encrypted:
        some = f"{seen.more.recent_encrypted:,} of {seen.more.recent:,} recent backups are encrypted."
        return State.PARTLY, some, "Encrypt the backups of every set."
    unknown = seen.more.encrypted is None
    text = "Whether the repository's disk is encrypted is unknown" if unknown else "The repository is not on an encrypted disk"
    todo = "Encrypt the backups: `refbackup key init`. Or put the repository on an encrypted disk (LUKS)."
    return State.UNKNOWN if unknown else State.MISSED, f"{text}, and archives are not encrypted themselves.", todo


def _sqlite(seen: _Evidence) -> Judgement:
    version = ".".join(map(str, seen.more.sqlite))
    if not has_wal_reset_bug(seen.more.sqlite):
        return State.MET, f"SQLite {version} does not have the WAL-reset bug."
    text = f"SQLite {version} can lose committed pages of a busy database (the WAL-reset bug)."
    return State.MISSED, text, "Use SQLite 3.51.3, 3.50.7 or 3.44.6, or later."


_CRITERIA: tuple[tuple[str, str, int, str, Callable[[_Evidence], Judgement]], ...] = (
    ("recovery_point", "Recovery point", 20, "backups:dashboard", _recovery_point),
    ("recovery_time", "Recovery time", 12, "backups:dashboard", _recovery_time),
    ("drill", "Drills", 15, "backups:readiness", _drill),
    ("second_copy", "Second copy", 12, "backups:plans", _second_copy),
    ("proven", "Proven backups", 10, "backups:backups", _proven),
    ("automation", "Plans and worker", 10, "backups:plans", _automation),
    ("alerts", "Alerts", 8, "backups:alerts", _alerts),
    ("space", "Space", 5, "backups:dashboard", _space),
    ("control", "Control database", 3, "backups:plans", _control),
    ("encryption", "Encryption", 3, "", _encryption),
    ("sqlite", "SQLite version", 2, "", _sqlite),
)
"""Code, title, points, URL name of the page that helps, and how it is judged."""


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
    control = IndexedBackup.objects.filter(set__in=apart).exclude(verification__in=IndexedBackup.UNUSABLE)
    return ReadinessFacts(
        **recent.aggregate(
            recent=Count("pk"),
            recent_proven=Count("pk", filter=proven),
            copied=Max("time", filter=proven & Q(repository__in=others or [""], set__in=mains)),
            recent_encrypted=Count("pk", filter=Q(encrypted=True)),
        ),
        encrypted=on_encrypted_disk(config.repositories[first]),
        alert_channels=AlertChannel.objects.filter(enabled=True).exclude(pk__in=switches).count(),
        alert_worked=delivered.aggregate(at=Max("finished"))["at"],
        control=control.aggregate(at=Max("time"))["at"],
        has_control=bool(apart),
        control_on_server=connections[config.database].vendor != "sqlite",
    )


def now() -> Readiness:
    """The score at this moment."""
    moment = moments.now()
    return assess(gathering.gather(moment), gather(moment))
