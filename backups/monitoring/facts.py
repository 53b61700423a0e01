"""What is known of the backups, read for the verdict (`status`): from the control database, the disks and the worker's file.

The number of queries is fixed, each is answered from an index, and their cost hardly grows with the number of backups and jobs.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from django.db.models import CharField, Count, F, Sum
from django.db.models.functions import Cast, Substr
from django.utils import timezone

from backups.conf import Configuration, configuration
from backups.engine.types import SourceKind
from backups.jobs.heartbeat import heartbeat_file
from backups.jobs.types import BACKUP, RESTORE, RESTORE_IN_PLACE
from backups.models import IndexedBackup, Job, Plan, Worker
from backups.plans.cron import slots_after

_WINDOW = timedelta(days=30)
_SETTLED, _OLD_ENOUGH = timedelta(days=7), timedelta(days=14)
_RECENT_JOBS = 10
_MOST_PLANS = 200
_LONGEST_WALK = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFact:
    """A backup of the index."""

    id: str
    kind: str
    time: datetime
    bytes_source: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    verification: str = "none"
    verified_at: datetime | None = None
    restore_seconds: float | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """A backup's job that succeeded, failed or was interrupted."""

    id: str
    set: str
    ok: bool
    finished: datetime
    code: str = ""
    message: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFact:
    """A set of stores that is backed up together: its newest backup, and the newest that is proven."""

    name: str
    newest: BackupFact | None = None
    proven: BackupFact | None = None
    jobs: tuple[EndedJob, ...] = ()
    """Newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFact:
    """A repository and its disk. ``size`` is 0 where the disk cannot be asked."""

    name: str
    there: bool = True
    used: int = 0
    free: int = 0
    size: int = 0
    grown_a_day: float | None = None
    """Bytes a day that stay; None while it is too early to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFact:
    """A plan, and when it is due next; None for one that is paused or whose time cannot be read."""

    name: str
    title: str
    kind: str
    set: str = ""
    enabled: bool = True
    paused_by: str = ""
    next: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFact:
    """A host's workers and their last sign of life."""

    host: str
    beat: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFact:
    """How long a restore took, and when that was."""

    seconds: float
    time: datetime
    real: bool = False
    """By a restore that somebody asked for, not by a proof."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Backups of one day, in the site's time zone."""

    day: date
    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many there are."""

    backups: int = 0
    proven: int = 0
    damaged: int = 0
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the verdict rests on."""

    host: str
    promised_point: float = 3600.0
    promised_time: float = 300.0
    sets: tuple[SetFact, ...] = ()
    repositories: tuple[RepositoryFact, ...] = ()
    plans: tuple[PlanFact, ...] = ()
    workers: tuple[WorkerFact, ...] = ()
    restores: tuple[RestoreFact, ...] = ()
    days: tuple[Day, ...] = ()
    counts: Counts = field(default_factory=Counts)
    bytes_to_back_up: int | None = None
    """Size of the first set's stores; known only while there is no backup."""


def gather(now: datetime) -> Facts:
    """Read what the verdict rests on: the control database, the repositories' disks and the worker's sign of life.

    About 20 queries for one repository and one set, each answered from an index.
    """
    found = configuration()
    names = [name for name in found.sets if name not in found.kept_apart] or list(found.sets)
    jobs = _ended_jobs()
    sets = tuple(_set(found, name, jobs) for name in names)
    nothing = all(one.newest is None for one in sets)
    return Facts(
        host=found.host,
        promised_point=found.promised_rpo_minutes * 60.0,
        promised_time=found.promised_rto_minutes * 60.0,
        sets=sets,
        repositories=tuple(_repository(name, path, now) for name, path in found.repositories.items()),
        plans=tuple(_plan(plan, found, now) for plan in Plan.objects.order_by("name")[:_MOST_PLANS]),
        workers=_workers(found),
        restores=_restores(found, names),
        days=_days(now),
        counts=_counts(),
        bytes_to_back_up=_bytes_of(found) if nothing else None,
    )


_BACKUP_FIELDS = (
    *("backup_id", "kind", "time", "bytes_source", "bytes_stored"),
    *("seconds", "verification", "verified_at", "restore_seconds", "problem"),
)
_PROVEN = (IndexedBackup.Verification.RESTORE, IndexedBackup.Verification.HASHES)


def _set(found: Configuration, name: str, jobs: Sequence[EndedJob]) -> SetFact:
    newest, proven = [], []
    for repository in found.repositories:
        rows = _whole(found, repository, name)
        newest += _first(rows)
        for verification in _PROVEN:
            proven += _first(rows.filter(verification=verification))
    return SetFact(
        name=name,
        newest=max(newest, key=lambda one: one.time, default=None),
        proven=max(proven, key=lambda one: one.time, default=None),
        jobs=tuple(job for job in jobs if job.set == name),
    )


def _whole(found: Configuration, repository: str, name: str) -> Any:
    """The backups that hold all of a set as it is now, newest first: not what a restore replaced, nor SQLite alone."""
    rows = IndexedBackup.objects.filter(repository=repository, set=name, safety=False)
    if any(source.kind is not SourceKind.SQLITE for source in found.sources(name)):
        rows = rows.exclude(kind=IndexedBackup.Kind.SNAPSHOT)
    return rows.order_by("-time")


def _first(rows: Any) -> list[BackupFact]:
    return [
        BackupFact(**{("id" if name == "backup_id" else name): value for name, value in zip(_BACKUP_FIELDS, row, strict=True)})
        for row in rows.values_list(*_BACKUP_FIELDS)[:1]
    ]


def _ended_jobs() -> list[EndedJob]:
    ended = []
    for state in (Job.State.SUCCEEDED, Job.State.FAILED, Job.State.INTERRUPTED):
        rows = Job.objects.filter(kind=BACKUP.name, state=state, finished__isnull=False).order_by("-finished")
        for pk, set_name, finished, error in rows.values_list("pk", "set", "finished", "error")[:_RECENT_JOBS]:
            assert finished is not None
            told = error or {}
            ended.append(
                EndedJob(
                    id=str(pk),
                    set=set_name,
                    ok=state == Job.State.SUCCEEDED,
                    finished=finished,
                    code=str(told.get("code", "")),
                    message=str(told.get("message", "")),
                    hint=str(told.get("hint", "")),
                )
            )
    return sorted(ended, key=lambda job: job.finished, reverse=True)


def _repository(name: str, path: Path, now: datetime) -> RepositoryFact:
    rows = IndexedBackup.objects.filter(repository=name)
    used = rows.aggregate(total=Sum("bytes_stored"))["total"] or 0
    there = (path / "repository.json").is_file()
    try:
        disk = shutil.disk_usage(path)
        free, size = disk.free, disk.total
    except OSError:
        free = size = 0
    return RepositoryFact(name=name, there=there, used=used, free=free, size=size, grown_a_day=_growth(rows, now))


def _growth(rows: Any, now: datetime) -> float | None:
    """Bytes a day that stay. In the last days retention has not yet thinned out what it will, so they are left aside."""
    first = rows.order_by("time").values_list("time", "bytes_stored").first()
    if first is None or now - first[0] < timedelta(days=1):
        return None
    if now - first[0] < _OLD_ENOUGH:
        grown, over = rows.filter(time__gt=first[0]), now - first[0]
    else:
        begin = max(first[0], now - _WINDOW)
        grown, over = rows.filter(time__gt=begin, time__lte=now - _SETTLED), now - _SETTLED - begin
    return float((grown.aggregate(total=Sum("bytes_stored"))["total"] or 0) / (over / timedelta(days=1)))


def _plan(plan: Plan, found: Configuration, now: datetime) -> PlanFact:
    due = None
    if plan.enabled:
        try:
            due = next(iter(slots_after(plan.cron, plan.time_zone, now, 1)), None)
        except ValueError:
            due = None
    partly = plan.arguments.get("only")
    return PlanFact(
        name=plan.name,
        title=plan.title,
        kind=plan.kind,
        set="" if partly else str(plan.arguments.get("set") or found.default_set),
        enabled=plan.enabled,
        paused_by=plan.paused_by,
        next=due,
    )


def worker_beat(host: str) -> datetime | None:
    """The last sign of life of a host's workers: by the table, and of this host also by its file, which is a minute earlier."""
    beats = [beat for beat in Worker.objects.filter(host=host).values_list("beat", flat=True) if beat is not None]
    if host == configuration().host:
        with contextlib.suppress(OSError):  # it has not run yet
            beats.append(datetime.fromtimestamp(heartbeat_file().stat().st_mtime, UTC))
    return max(beats, default=None)


def _workers(found: Configuration) -> tuple[WorkerFact, ...]:
    hosts = dict.fromkeys((found.host, *Worker.objects.values_list("host", flat=True)))
    return tuple(WorkerFact(host=host, beat=worker_beat(host)) for host in hosts)


def _restores(found: Configuration, names: Sequence[str]) -> tuple[RestoreFact, ...]:
    """The newest proof by restore, and the newest restore that somebody asked for, of whole backups."""
    restores = []
    for repository, name in itertools.product(found.repositories, names):
        rows = _whole(found, repository, name).filter(verification=IndexedBackup.Verification.RESTORE)
        for moment, proven, seconds in rows.values_list("time", "verified_at", "restore_seconds")[:1]:
            if seconds is not None:
                restores.append(RestoreFact(seconds=seconds, time=proven or moment))
    for kind in (RESTORE.name, RESTORE_IN_PLACE.name):
        asked = Job.objects.filter(kind=kind, state=Job.State.SUCCEEDED, finished__isnull=False).order_by("-finished")
        for arguments, result, finished in asked.values_list("arguments", "result", "finished")[:_RECENT_JOBS]:
            seconds = (result or {}).get("seconds")
            if finished is not None and isinstance(seconds, int | float) and not arguments.get("only"):
                restores.append(RestoreFact(seconds=float(seconds), time=finished, real=True))
                break
    return tuple(restores)


def _days(now: datetime) -> tuple[Day, ...]:
    """The backups of the last 30 days, a day each. Where days are not those of UTC, hours are counted and put together here."""
    zone = timezone.get_current_timezone()
    by_day = all(moment.astimezone(zone).utcoffset() == timedelta(0) for moment in (now, now - _WINDOW))
    today = now.astimezone(zone).date()
    first = today - timedelta(days=29)
    begin = datetime(first.year, first.month, first.day, tzinfo=zone)
    counted: dict[date, list[int]] = {first + timedelta(days=number): [0, 0] for number in range(30)}
    rows = (
        Job.objects.filter(
            kind=BACKUP.name,
            state__in=(Job.State.SUCCEEDED, Job.State.FAILED, Job.State.INTERRUPTED),
            finished__gte=begin,
        )
        .order_by()
        .annotate(part=Substr(Cast(F("finished"), CharField()), 1, 10 if by_day else 13))
        .values_list("state", "part")
        .annotate(count=Count("pk"))
    )
    for state, part, count in rows:
        day = date.fromisoformat(part) if by_day else datetime.fromisoformat(f"{part}:00+00:00").astimezone(zone).date()
        if day in counted:
            counted[day][0 if state == Job.State.SUCCEEDED else 1] += count
    return tuple(Day(day=day, done=done, failed=failed) for day, (done, failed) in counted.items())


def _counts() -> Counts:
    by_proof = dict(IndexedBackup.objects.order_by().values_list("verification").annotate(count=Count("pk")))
    return Counts(
        backups=sum(by_proof.values()),
        proven=sum(by_proof.get(verification, 0) for verification in _PROVEN),
        damaged=by_proof.get(IndexedBackup.Verification.DAMAGED, 0),
        running=Job.objects.filter(state=Job.State.RUNNING).count(),
        waiting=Job.objects.filter(state=Job.State.QUEUED).count(),
    )


def _bytes_of(found: Configuration) -> int:
    """About how much the first set's stores hold. The walk ends after a fiftieth of a second: it is for an estimate only."""
    until = time.monotonic() + _LONGEST_WALK
    total = 0
    for source in found.sources(found.default_set):
        try:
            if source.kind is SourceKind.SQLITE:
                total += source.path.stat().st_size
                continue
            for file in source.path.rglob("*"):
                total += file.stat().st_size if file.is_file() else 0
                if time.monotonic() > until:
                    return total
        except OSError:
            continue  # it is not there yet, or goes away while it is looked at
    return total
