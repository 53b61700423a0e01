"""What detectors look at, read once a minute; built on the facts of the verdict (`backups.monitoring.facts`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from backups.jobs.types import DRILL
from backups.models import AlertChannel, AlertDelivery, AlertLook, IndexedBackup, Job, Plan
from backups.monitoring import facts as verdict_facts

MOST_DAMAGED = 100
"""Damaged backups that are told of one by one; of the others, how many there are."""

MOST_RUNS = 50
"""How far back failures in a row are counted."""

_LIKE = 20
"""Jobs of the same kind from which the usual time is taken."""

_FEWEST = 3
_GAVE_UP_WITHIN = timedelta(hours=24)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRuns:
    """How a plan's last runs ended, tries of one run taken together; what a person cancelled counts for nothing."""

    name: str
    title: str
    failed_in_a_row: int = 0
    last_job: str = ""
    message: str = ""
    hint: str = ""
    alert_after: int = 1
    alert_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Damaged:
    """A damaged backup."""

    id: str
    set: str
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A job that runs, and how long such jobs take; ``usual`` is None while too few have ended."""

    id: str
    kind: str
    set: str
    seconds: float
    usual: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drills:
    """Test restores: the last that went well, the last that ended, and since when there could have been one."""

    last_good: datetime | None = None
    could_be_since: datetime | None = None
    failed_job: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What a host's own looks tell: a jump of its clock, and a time in which its worker did nothing."""

    host: str
    jumped: datetime | None = None
    jumped_by: float = 0.0
    silent_from: datetime | None = None
    silent_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unheard:
    """A channel whose messages were given up."""

    name: str
    id: int
    count: int
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that detectors look at. ``more`` holds what a detector's own ``gather`` read, by the detector's name."""

    now: datetime
    verdict: verdict_facts.Facts
    plans: tuple[PlanRuns, ...] = ()
    damaged: tuple[Damaged, ...] = ()
    damaged_count: int = 0
    running: tuple[Running, ...] = ()
    drills: Drills = field(default_factory=Drills)
    clocks: tuple[Clock, ...] = ()
    unheard: tuple[Unheard, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    """Detectors that could not look, and why."""
    more: Mapping[str, Any] = field(default_factory=dict)


def gather(now: datetime) -> Facts:
    """Read the facts: about 30 queries, and two a plan and a running job, each answered from an index."""
    damaged = IndexedBackup.objects.filter(verification=IndexedBackup.Verification.DAMAGED)
    rows = damaged.order_by("time", "backup_id").values_list("backup_id", "set", "problem")[:MOST_DAMAGED]
    known = verdict_facts.gather(now)
    return Facts(
        now=now,
        verdict=known,
        plans=tuple(_runs(plan) for plan in Plan.objects.filter(enabled=True)),
        damaged=tuple(Damaged(id=id_, set=set_name, problem=problem) for id_, set_name, problem in rows),
        damaged_count=known.counts.damaged,
        running=tuple(_running(job, now) for job in Job.objects.filter(state=Job.State.RUNNING).order_by("started")),
        drills=_drills(),
        clocks=tuple(
            Clock(
                host=look.host,
                jumped=look.jumped,
                jumped_by=look.jumped_by,
                silent_from=look.silent_from,
                silent_until=look.silent_until,
            )
            for look in AlertLook.objects.exclude(host="")
        ),
        unheard=tuple(_unheard(now)),
    )


def _runs(plan: Plan) -> PlanRuns:
    ended = plan.jobs.filter(state__in=(Job.State.SUCCEEDED, Job.State.FAILED, Job.State.INTERRUPTED), tried_again=None)
    failed = []
    for pk, state, error in ended.order_by("-created").values_list("pk", "state", "error")[:MOST_RUNS]:
        if state == Job.State.SUCCEEDED:
            break
        failed.append((str(pk), error or {}))
    last, error = failed[0] if failed else ("", {})
    return PlanRuns(
        name=plan.name,
        title=plan.title or plan.name,
        failed_in_a_row=len(failed),
        last_job=last,
        message=str(error.get("message", "")),
        hint=str(error.get("hint", "")),
        alert_after=plan.alert_after,
        alert_to=tuple(str(address) for address in plan.alert_to),
    )


def _running(job: Job, now: datetime) -> Running:
    assert job.started is not None
    like = Job.objects.filter(kind=job.kind, state=Job.State.SUCCEEDED, set=job.set, started__isnull=False)
    took = [
        (finished - started).total_seconds()
        for started, finished, arguments in like.order_by("-finished").values_list("started", "finished", "arguments")[:_LIKE]
        if started and finished and arguments.get("backup") == job.arguments.get("backup")
    ]
    return Running(
        id=str(job.pk),
        kind=job.kind,
        set=job.set,
        seconds=(now - job.started).total_seconds(),
        usual=median(took) if len(took) >= _FEWEST else None,
    )


def _drills() -> Drills:
    drills = Job.objects.filter(kind=DRILL.name, tried_again=None, finished__isnull=False)
    good = drills.filter(state=Job.State.SUCCEEDED).order_by("-finished").values_list("finished", flat=True).first()
    bad = drills.filter(state__in=(Job.State.FAILED, Job.State.INTERRUPTED)).order_by("-finished").first()
    first = IndexedBackup.objects.order_by("time").values_list("time", flat=True).first()
    if bad is None or bad.finished is None or (good is not None and good > bad.finished):
        return Drills(last_good=good, could_be_since=first)
    message = str((bad.error or {}).get("message", ""))
    return Drills(last_good=good, could_be_since=first, failed_job=str(bad.pk), message=message)


def _unheard(now: datetime) -> list[Unheard]:
    """Channels that gave up on a message in the last day, and have delivered none since."""
    found = []
    for channel in AlertChannel.objects.filter(enabled=True):
        own = AlertDelivery.objects.filter(recipient=f"channel:{channel.pk}").order_by("-id")
        last = own.filter(state__in=(AlertDelivery.State.DELIVERED, AlertDelivery.State.GIVEN_UP)).first()
        if last is None or last.state != AlertDelivery.State.GIVEN_UP or last.created < now - 2 * _GAVE_UP_WITHIN:
            continue
        lost = own.filter(state=AlertDelivery.State.GIVEN_UP, created__gt=now - 2 * _GAVE_UP_WITHIN).count()
        found.append(Unheard(name=channel.name, id=channel.pk, count=lost, answer=last.answer[:200]))
    return found
