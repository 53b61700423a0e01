"""Are we safe? One answer for the overview, the API and readiness.

`gather` reads what is known (`facts`); `verdict` decides, and reads no clock, no database and no disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from backups.engine.progress import duration, human_bytes
from backups.jobs.types import BACKUP
from backups.models import IndexedBackup

from .facts import BackupFact, Counts, Day, Facts, RepositoryFact, SetFact, gather

__all__ = ["Level", "Measure", "Next", "Reason", "Space", "Success", "Verdict", "gather", "now", "verdict"]

GRACE = timedelta(minutes=5)
"""A backup that starts on time is proven a little later: so much, or a tenth of the promise, is allowed for it."""

SILENCE = timedelta(minutes=3)
"""A worker gives a sign of life every minute. One that is silent for longer does not run."""

AHEAD = timedelta(minutes=5)
"""A backup that is dated later than this in the future was made with a wrong clock, or this machine's clock is wrong."""

FORGOTTEN = timedelta(days=7)
"""A host that has been silent for longer was taken out of service."""

LITTLE_SPACE = 0.05
"""A disk with less than this fraction free is nearly full."""

SOON_FULL = 14.0
"""Days. A disk that will be full sooner is told of."""

_FIRST_SECONDS, _FIRST_RATE = 8.0, 60e6


class Level(StrEnum):
    """How safe the data is."""

    PROTECTED = "protected"
    AT_RISK = "at_risk"
    UNPROTECTED = "unprotected"

    @property
    def word(self) -> str:
        """For people."""
        return {"protected": "Protected", "at_risk": "At risk", "unprotected": "Unprotected"}[self.value]


_WORSE = {Level.PROTECTED: 0, Level.AT_RISK: 1, Level.UNPROTECTED: 2}


# What is said


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Something that keeps the data from being safe, or (at the level protected) that somebody should know."""

    code: str
    level: Level
    text: str
    todo: str
    link: str
    """Name of the page that helps."""
    arguments: tuple[str, ...] = ()
    query: str = ""

    @property
    def address(self) -> str:
        """Where that page is; empty where this site has none."""
        try:
            return reverse(self.link, args=self.arguments) + (f"?{self.query}" if self.query else "")
        except NoReverseMatch:
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is, against what is promised, in seconds; ``seconds`` is None when it is not known yet."""

    seconds: float | None
    promised: float

    @property
    def kept(self) -> bool:
        """Whether the promise holds."""
        return self.seconds is not None and self.seconds <= self.promised


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Of all repositories: bytes that backups take, and of the disk that will be full first, what is left and for how long."""

    used: int
    free: int
    size: int
    full_in_days: float | None
    """At the growth of the last weeks; None while it is too early to say, or nothing grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """How the backups of the last 30 days ended; those that a person cancelled do not count."""

    done: int
    failed: int
    days: tuple[Day, ...]

    @property
    def rate(self) -> float | None:
        """From 0 to 1; None when there was none."""
        return self.done / (self.done + self.failed) if self.done + self.failed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """A plan's next time."""

    time: datetime
    title: str
    plan: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer: a level, a sentence, and what it rests on."""

    at: datetime
    level: Level
    sentence: str
    """Without the word of the level."""
    reasons: tuple[Reason, ...]
    recovery_point: Measure
    recovery_time: Measure
    space: Space
    success: Success
    counts: Counts
    newest: BackupFact | None
    """The newest proven backup of the set that is worst off."""
    next: tuple[Next, ...]

    @property
    def text(self) -> str:
        """Word and sentence."""
        return f"{self.level.word}{'.' if self.level is Level.PROTECTED else ':'} {self.sentence}"

    def as_json(self) -> dict[str, Any]:
        """For programs; times in ISO 8601, durations in seconds."""
        return {
            "at": self.at.isoformat(),
            "level": self.level.value,
            "sentence": self.text,
            "reasons": [
                {"code": r.code, "level": r.level.value, "text": r.text, "todo": r.todo, "page": r.address}
                for r in self.reasons
            ],
            "recovery_point": {**asdict(self.recovery_point), "kept": self.recovery_point.kept},
            "recovery_time": {**asdict(self.recovery_time), "kept": self.recovery_time.kept},
            "space": asdict(self.space),
            "success": {
                "done": self.success.done,
                "failed": self.success.failed,
                "rate": self.success.rate,
                "days": [{"day": d.day.isoformat(), "done": d.done, "failed": d.failed} for d in self.success.days],
            },
            "counts": asdict(self.counts),
            "newest_proven": self.newest.id if self.newest else None,
            "next": [{"time": n.time.isoformat(), "title": n.title, "plan": n.plan, "kind": n.kind} for n in self.next],
        }


# The decision


def verdict(facts: Facts, now: datetime) -> Verdict:
    """Decide how safe the data is at *now*. The worst reason decides the level; the reasons come worst first."""
    reasons = [
        *(reason for one in facts.sets for reason in _about_set(one, facts, now)),
        *_about_workers(facts, now),
        *_about_repositories(facts),
        *_about_restores(facts),
        *_about_damage(facts),
    ]
    if facts.sets and all(one.newest is None for one in facts.sets):
        # Before the first backup nothing else matters but whether it can be made.
        reasons = [
            reason for reason in reasons if reason.code in {"nothing", "worker", "repository_missing", "space", "failing"}
        ]
    reasons.sort(key=lambda reason: -_WORSE[reason.level])
    level = max((reason.level for reason in reasons), key=_WORSE.__getitem__, default=Level.PROTECTED)
    worst = max(facts.sets, key=lambda one: _age(one.proven, now, missing=float("inf")), default=None)
    newest = worst.proven if worst else None
    point = Measure(
        seconds=None if newest is None else _age(newest, now),
        promised=facts.promised_point,
    )
    restore = max(facts.restores, key=lambda found: found.time, default=None)
    recovery = Measure(seconds=restore.seconds if restore else None, promised=facts.promised_time)
    return Verdict(
        at=now,
        level=level,
        sentence=_sentence(level, reasons, newest, recovery, now),
        reasons=tuple(reasons),
        recovery_point=point,
        recovery_time=recovery,
        space=_space(facts.repositories),
        success=Success(done=sum(d.done for d in facts.days), failed=sum(d.failed for d in facts.days), days=facts.days),
        counts=facts.counts,
        newest=newest,
        next=tuple(
            sorted(
                (
                    Next(time=plan.next, title=plan.title or plan.name, plan=plan.name, kind=plan.kind)
                    for plan in facts.plans
                    if plan.next is not None
                ),
                key=lambda run: run.time,
            )
        ),
    )


def _age(backup: BackupFact | None, now: datetime, *, missing: float = 0.0) -> float:
    return missing if backup is None else max(0.0, (now - backup.time).total_seconds())


def _sentence(level: Level, reasons: Sequence[Reason], newest: BackupFact | None, recovery: Measure, now: datetime) -> str:
    if level is Level.PROTECTED and newest is not None:
        takes = f" A restore takes about {duration(recovery.seconds)}." if recovery.seconds is not None else ""
        age = duration(_age(newest, now))
        return f"Newest proven backup: {age} ago ({newest.kind}, {human_bytes(newest.bytes_stored)}).{takes}"
    return (
        " ".join(reason.text for reason in [r for r in reasons if r.level is not Level.PROTECTED][:2]) or "Nothing to protect."
    )


def _about_set(one: SetFact, facts: Facts, now: datetime) -> Iterator[Reason]:
    of = f" of {one.name}" if len(facts.sets) > 1 else ""
    yield from _about_failures(one, of)
    if one.newest is None:
        seconds = _FIRST_SECONDS + (facts.bytes_to_back_up or 0) / _FIRST_RATE
        yield Reason(
            code="nothing",
            level=Level.UNPROTECTED,
            text=f"Nothing{of} is protected yet.",
            todo=f"Make the first backup: about {duration(seconds)}.",
            link="backups:dashboard",
        )
        return
    if one.newest.time - now > AHEAD:
        yield Reason(
            code="clock",
            level=Level.AT_RISK,
            text=f"The newest backup{of} is dated {duration((one.newest.time - now).total_seconds())} in the future.",
            todo="Set this machine's clock right; until then ages and retention cannot be believed.",
            link="backups:backup",
            arguments=(one.newest.id,),
        )
    if one.newest.verification == IndexedBackup.Verification.DAMAGED:
        yield Reason(
            code="damaged",
            level=Level.AT_RISK,
            text=f"The newest backup{of} is damaged: {one.newest.problem or 'its proof failed.'}",
            todo="Make a full backup, then look at what the proof found.",
            link="backups:backup",
            arguments=(one.newest.id,),
        )
    yield from _about_age(one, of, facts, now)
    yield from _about_plans(one, of, facts, now)


def _about_age(one: SetFact, of: str, facts: Facts, now: datetime) -> Iterator[Reason]:
    assert one.newest is not None
    unproven = one.newest.verification == IndexedBackup.Verification.NONE
    if one.proven is None:
        yield Reason(
            code="unproven",
            level=Level.AT_RISK if unproven else Level.UNPROTECTED,
            text=f"No backup{of} is proven.",
            todo="Verify the newest one: it is restored, and compared with what the stores held.",
            link="backups:backup",
            arguments=(one.newest.id,),
        )
        return
    age, promised = _age(one.proven, now), facts.promised_point
    if age <= promised + max(GRACE.total_seconds(), promised / 10):
        return
    text = f"No proven backup{of} for {duration(age)}."
    todo = f"Back up now; the promise is {duration(promised)}."
    link: tuple[str, tuple[str, ...]] = ("backups:dashboard", ())
    if unproven and one.newest.time > one.proven.time:
        text += f" The newest, {duration(_age(one.newest, now))} old, is not proven."
        todo, link = "Verify the newest one.", ("backups:backup", (one.newest.id,))
    yield Reason(
        code="too_old",
        level=Level.UNPROTECTED if age > max(86_400.0, 3 * promised) else Level.AT_RISK,
        text=text,
        todo=todo,
        link=link[0],
        arguments=link[1],
    )


def _about_failures(one: SetFact, of: str) -> Iterator[Reason]:
    failed = []
    for job in one.jobs:
        if job.ok or (one.newest is not None and one.newest.time > job.finished):
            break
        failed.append(job)
    if not failed:
        return
    last = failed[0]
    many = len(failed) > 1
    which = f"last {_number(len(failed))} backups{of} failed" if many else f"last backup{of} failed"
    todo = {
        "no_space": "Free space, or keep fewer backups.",
        "no_repository": "Mount the repository's disk, or correct its path in the settings.",
        "permission": "Let the worker's account read the stores and write to the repository.",
    }.get(last.code, last.hint or "Look at the job's log.")
    yield Reason(
        code="failing",
        level=Level.AT_RISK if many or one.newest is None else Level.PROTECTED,
        text=f"The {which}: {_short(last.message) or 'no answer.'}",
        todo=todo,
        link="backups:plans" if last.code == "no_space" else "backups:job",
        arguments=() if last.code == "no_space" else (last.id,),
    )


def _about_plans(one: SetFact, of: str, facts: Facts, now: datetime) -> Iterator[Reason]:
    plans = [plan for plan in facts.plans if plan.kind == BACKUP.name and plan.set == one.name]
    if not plans:
        if facts.plans:
            yield Reason(
                code="plans",
                level=Level.PROTECTED,
                text=f"No plan makes a backup{of}.",
                todo="Make a plan, unless something else calls for backups on time.",
                link="backups:plans",
            )
        return
    due = min((plan.next for plan in plans if plan.next is not None), default=None)
    allowed = timedelta(seconds=facts.promised_point) + GRACE
    if due is not None and due - now <= allowed:
        return
    paused = [plan for plan in plans if not plan.enabled]
    text = (
        f"No plan makes a backup{of} any more."
        if due is None
        else f"The next backup{of} is due in {duration((due - now).total_seconds())}."
    )
    todo = f"Plan one every {duration(facts.promised_point)}, as promised."
    if paused:
        first = paused[0]
        by = f" by {first.paused_by}" if first.paused_by else ""
        text = f"{first.title or first.name} is paused{by}. {text}"
        todo = "Resume it when what it was paused for is done."
    yield Reason(
        code="plans",
        level=Level.AT_RISK,
        text=text,
        todo=todo,
        link="backups:plan" if paused else "backups:plans",
        arguments=(paused[0].name,) if paused else (),
    )


def _about_workers(facts: Facts, now: datetime) -> Iterator[Reason]:
    known = {worker.host: worker.beat for worker in facts.workers}
    for host in dict.fromkeys((facts.host, *known)):
        beat = known.get(host)
        silent = None if beat is None else now - beat
        if silent is not None and silent <= SILENCE:
            continue
        if host != facts.host and (silent is None or silent > FORGOTTEN):
            continue
        on = f" on {host}" if len(known) > 1 else ""
        said = "has run yet" if silent is None else f"has given a sign of life for {duration(silent.total_seconds())}"
        yield Reason(
            code="worker",
            level=Level.AT_RISK,
            text=f"No worker{on} {said}: nothing runs by itself, and jobs wait.",
            todo="Start it with `manage.py serve`, or read in its output why it stopped.",
            link="backups:jobs",
            query="state=queued",
        )


def _about_repositories(facts: Facts) -> Iterator[Reason]:
    for one in facts.repositories:
        name = f"repository {one.name}" if len(facts.repositories) > 1 else "repository"
        if not one.there:
            yield Reason(
                code="repository_missing",
                level=Level.UNPROTECTED,
                text=f"The {name} is not there.",
                todo="Mount its disk, correct its path in the settings, or make it with `refbackup init`.",
                link="backups:dashboard",
            )
            continue
        full_in = _full_in(one)
        little = bool(one.size) and one.free < LITTLE_SPACE * one.size
        if not little and (full_in is None or full_in > SOON_FULL):
            continue
        text = f"The disk of the {name} is nearly full: {human_bytes(one.free)} of {human_bytes(one.size)} are free."
        if not little and full_in is not None:
            text = f"The disk of the {name} will be full in about {duration(full_in * 86_400)}."
        yield Reason(
            code="space",
            level=Level.AT_RISK,
            text=text,
            todo="Free space, or keep fewer backups.",
            link="backups:plans",
        )


def _about_restores(facts: Facts) -> Iterator[Reason]:
    restore = max(facts.restores, key=lambda found: found.time, default=None)
    if restore is None or restore.seconds <= facts.promised_time:
        return
    yield Reason(
        code="slow_restore",
        level=Level.AT_RISK,
        text=f"A restore takes about {duration(restore.seconds)}; the promise is {duration(facts.promised_time)}.",
        todo="Put the repository on a faster disk, or promise what can be kept (REFSERVER_PROMISED_RTO_MINUTES).",
        link="backups:dashboard",
    )


def _about_damage(facts: Facts) -> Iterator[Reason]:
    if facts.counts.damaged:
        are = "1 backup is" if facts.counts.damaged == 1 else f"{facts.counts.damaged:,} backups are"
        yield Reason(
            code="damaged_some",
            level=Level.PROTECTED,
            text=f"{are} damaged.",
            todo="Look at what their proofs found; delete them when newer ones are proven.",
            link="backups:backups",
            query="proof=damaged",
        )


def _space(repositories: Iterable[RepositoryFact]) -> Space:
    found = [one for one in repositories if one.size]
    used = sum(one.used for one in repositories)
    if not found:
        return Space(used=used, free=0, size=0, full_in_days=None)
    never = float("inf")
    first = min(found, key=lambda one: (never if (days := _full_in(one)) is None else days, one.free))
    return Space(used=used, free=first.free, size=first.size, full_in_days=_full_in(first))


def _full_in(one: RepositoryFact) -> float | None:
    if not one.size or not one.grown_a_day:
        return None
    return one.free / one.grown_a_day


def _number(count: int) -> str:
    words = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    return words[count - 2] if count - 2 < len(words) else str(count)


def _short(message: str) -> str:
    """The first sentence."""
    first = message.strip().split(". ")[0]
    return first if not first or first.endswith(".") else f"{first}."


def now() -> Verdict:
    """The verdict at this moment."""
    moment = timezone.now()
    return verdict(gather(moment), moment)
