"""Are we safe? The verdict for the overview and the API: a level, a sentence and the reasons, as a view of the conditions.

`gathering.gather` reads the facts; `verdict` reads no clock, no database and no disk.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from backups import moments
from backups.engine.progress import duration, human_bytes

from .conditions import Level, Observation, present
from .facts import BackupFact, Counts, Day, Facts, RepositoryFact
from .gathering import gather

_ORDER = tuple(Level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A measured time against its target, in seconds; ``seconds`` is None while it was never measured."""

    seconds: float | None
    promised: float

    @property
    def kept(self) -> bool:
        """Whether the target is met."""
        return self.seconds is not None and self.seconds <= self.promised


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Bytes that backups take in all repositories; size and free bytes of the disk that will be full first."""

    used: int
    free: int
    size: int
    full_in_days: float | None
    """At the growth of the last weeks; None while it is too early to tell, or if nothing grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """How the backups of the last 30 days ended; jobs that a person cancelled do not count."""

    done: int
    failed: int
    days: tuple[Day, ...]

    @property
    def rate(self) -> float | None:
        """From 0 to 1; None when there was none."""
        return self.done / (self.done + self.failed) if self.done + self.failed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """The next run of a plan."""

    time: datetime
    title: str
    plan: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The level, a sentence, and the facts behind them."""

    at: datetime
    level: Level
    sentence: str
    """Without the level."""
    reasons: tuple[Observation, ...]
    """The conditions that hold, worst first; those at the level protected are only worth knowing."""
    recovery_point: Measure
    recovery_time: Measure
    space: Space
    success: Success
    counts: Counts
    newest: BackupFact | None
    """The newest proven backup of the set with the oldest one; None if a set has none, or its repository is not available."""
    next: tuple[Next, ...]

    @property
    def text(self) -> str:
        """Level and sentence."""
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


def verdict(facts: Facts) -> Verdict:
    """Decide how safe the data is. The worst reason decides the level; the reasons come worst first."""
    reasons = tuple(sorted(present(facts), key=lambda reason: -_ORDER.index(reason.level)))
    level = reasons[0].level if reasons else Level.PROTECTED
    worst = max(facts.sets, key=lambda one: one.proven.age(facts.now) if one.proven else float("inf"), default=None)
    away = {one.name for one in facts.repositories if not one.there}
    newest = worst.proven if worst and worst.proven and worst.proven.repository not in away else None
    restore = facts.last_restore
    recovery = Measure(seconds=restore.seconds if restore else None, promised=facts.promised_time)
    runs = (
        Next(time=plan.next, title=plan.title or plan.name, plan=plan.name, kind=plan.kind)
        for plan in facts.plans
        if plan.next is not None
    )
    return Verdict(
        at=facts.now,
        level=level,
        sentence=_sentence(level, reasons, newest, recovery, facts.now),
        reasons=reasons,
        recovery_point=Measure(seconds=newest.age(facts.now) if newest else None, promised=facts.promised_point),
        recovery_time=recovery,
        space=_space(facts.repositories),
        success=Success(done=sum(d.done for d in facts.days), failed=sum(d.failed for d in facts.days), days=facts.days),
        counts=facts.counts,
        newest=newest,
        next=tuple(sorted(runs, key=lambda run: run.time)),
    )


def _sentence(level: Level, reasons: Sequence[Observation], newest: BackupFact | None, recovery: Measure, now: datetime) -> str:
    if level is Level.PROTECTED:
        if newest is None:
            return "There are no sets to back up."
        takes = f" A restore takes about {duration(recovery.seconds)}." if recovery.seconds is not None else ""
        return (
            f"Newest proven backup: {duration(newest.age(now))} ago ({newest.kind}, {human_bytes(newest.bytes_stored)}).{takes}"
        )
    return " ".join(reason.text for reason in reasons[:2] if reason.level is not Level.PROTECTED)


def _space(repositories: Iterable[RepositoryFact]) -> Space:
    used = sum(one.used for one in repositories)
    never = float("inf")
    first = min(
        (one for one in repositories if one.size),
        key=lambda one: (never if one.full_in_days is None else one.full_in_days, one.free),
        default=None,
    )
    if first is None:
        return Space(used=used, free=0, size=0, full_in_days=None)
    return Space(used=used, free=first.free, size=first.size, full_in_days=first.full_in_days)


def now() -> Verdict:
    """The verdict at this moment."""
    return verdict(gather(moments.now()))
