"""Reads the facts from the control database, the repositories' disks and the worker's heartbeat file.

Most queries are answered from an index and cost hardly more with more backups and jobs. The number of queries grows with plans,
running jobs, channels, sets and repositories only.

It is one module because all facts are read with a fixed number of queries.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from django.db.models import CharField, Count, F, Sum
from django.db.models.functions import Cast, Substr
from django.utils import timezone

from backups.conf import Configuration, configuration
from backups.engine.types import SourceKind
from backups.identity import audit
from backups.jobs.heartbeat import heartbeat_file
from backups.jobs.types import BACKUP, DRILL, HEALTH, RESTORE, RESTORE_IN_PLACE
from backups.models import AlertChannel, AlertDelivery, AlertLook, AuditEntry, IndexedBackup, Job, Plan, Worker
from backups.plans import cron

from .facts import (
    AuditBreak,
    BackupFact,
    Clock,
    Counts,
    DamagedBackup,
    Day,
    Drills,
    EndedJob,
    Facts,
    FailingChannel,
    PlanFact,
    Probed,
    RepositoryFact,
    RestoreFact,
    RunningJob,
    SetFact,
    WorkerFact,
)

_WINDOW = timedelta(days=30)
_SETTLED, _OLD_ENOUGH = timedelta(days=7), timedelta(days=14)
_RECENT_JOBS = 10
_MOST_PLANS = 200
_LONGEST_WALK = 0.02
_MOST_DAMAGED = 100
"""Damaged backups that are listed one by one; the others are only counted."""

_MOST_RUNS = 50
"""How many runs of a plan are read to count failures in a row."""

_LIKE, _FEWEST_LIKE = 20, 3
"""Jobs of the same kind from which the usual duration is taken, at most and at least."""

_MOST_WAITING = 1_000
_GIVEN_UP_WITHIN = timedelta(days=2)
_PROBES_HOLD = timedelta(hours=3)
"""The hourly health check's findings about stores count for so long."""


def gather(now: datetime, probed: tuple[Probed, ...] | None = None) -> Facts:
    """Read the facts at *now*. Without *probed*, what the last health check found in stores and repositories is used."""
    config = configuration()
    names = [name for name in config.sets if name not in config.kept_apart] or list(config.sets)
    jobs = _ended_jobs()
    sets = tuple(_set(config, name, jobs) for name in names)
    damaged = IndexedBackup.objects.filter(verification=IndexedBackup.Verification.DAMAGED).order_by("-time", "-backup_id")
    queued = Job.objects.filter(state=Job.State.QUEUED, not_before__lt=now).order_by()
    return Facts(
        now=now,
        host=config.host,
        promised_point=config.promised_rpo_minutes * 60.0,
        promised_time=config.promised_rto_minutes * 60.0,
        sets=sets,
        repositories=tuple(_repository(name, path, now) for name, path in config.repositories.items()),
        plans=tuple(_plan(plan, config, now) for plan in Plan.objects.order_by("name")[:_MOST_PLANS]),
        workers=_workers(config),
        clocks=_clocks(),
        running=tuple(_running(job, now) for job in Job.objects.filter(state=Job.State.RUNNING).order_by("-created", "-id")),
        waiting_since=tuple(queued.values_list("not_before", flat=True)[:_MOST_WAITING]),
        restores=_restores(config, names),
        drills=_drills(),
        damaged=tuple(
            DamagedBackup(id=id_, set=set_name, problem=problem)
            for id_, set_name, problem in damaged.values_list("backup_id", "set", "problem")[:_MOST_DAMAGED]
        ),
        days=_days(now),
        counts=_counts(),
        bytes_to_back_up=_source_bytes(config) if all(one.newest is None for one in sets) else None,
        failing_channels=tuple(_failing_channels(now)),
        audit_break=_audit_break(),
        probed=_last_probed(now) if probed is None else probed,
    )


_BACKUP_FIELDS = (
    *("backup_id", "kind", "time", "bytes_source", "bytes_stored"),
    *("seconds", "verification", "verified_at", "restore_seconds", "problem"),
)
_PROVEN = (IndexedBackup.Verification.RESTORE, IndexedBackup.Verification.HASHES)


def _set(config: Configuration, name: str, jobs: Sequence[EndedJob]) -> SetFact:
    newest, proven = [], []
    for repository in config.repositories:
        rows = _whole(config, repository, name)
        newest += _first(rows)
        for verification in _PROVEN:
            proven += _first(rows.filter(verification=verification))
    return SetFact(
        name=name,
        newest=max(newest, key=lambda one: one.time, default=None),
        proven=max(proven, key=lambda one: one.time, default=None),
        jobs=tuple(job for job in jobs if job.set == name),
    )


def _whole(config: Configuration, repository: str, name: str) -> Any:
    """Backups of a whole set, newest first: without safety backups and, if the set has other stores, without snapshots."""
    rows = IndexedBackup.objects.filter(repository=repository, set=name, safety=False)
    if any(source.kind is not SourceKind.SQLITE for source in config.sources(name)):
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
            error = error or {}
            ended.append(
                EndedJob(
                    id=str(pk),
                    set=set_name,
                    ok=state == Job.State.SUCCEEDED,
                    finished=finished,
                    code=str(error.get("code", "")),
                    message=str(error.get("message", "")),
                    hint=str(error.get("hint", "")),
                )
            )
    return sorted(ended, key=lambda job: job.finished, reverse=True)


def _repository(name: str, path: Path, now: datetime) -> RepositoryFact:
    rows = IndexedBackup.objects.filter(repository=name)
    used = rows.aggregate(total=Sum("bytes_stored"))["total"] or 0
    there = (path / "repository.json").is_file()
    try:
        writable = os.access(path, os.W_OK | os.X_OK) and not os.statvfs(path).f_flag & os.ST_RDONLY
        disk = shutil.disk_usage(path)
        free, size = disk.free, disk.total
    except OSError:
        writable, free, size = False, 0, 0
    return RepositoryFact(
        name=name, there=there, writable=writable, used=used, free=free, size=size, grown_a_day=_growth(rows, now)
    )


def _growth(rows: Any, now: datetime) -> float | None:
    """Bytes a day that remain. The last days are left out if possible: retention has not yet thinned them out."""
    first = rows.order_by("time").values_list("time", "bytes_stored").first()
    if first is None or now - first[0] < timedelta(days=1):
        return None
    if now - first[0] < _OLD_ENOUGH:
        grown, over = rows.filter(time__gt=first[0]), now - first[0]
    else:
        begin = max(first[0], now - _WINDOW)
        grown, over = rows.filter(time__gt=begin, time__lte=now - _SETTLED), now - _SETTLED - begin
    return float((grown.aggregate(total=Sum("bytes_stored"))["total"] or 0) / (over / timedelta(days=1)))


def _plan(plan: Plan, config: Configuration, now: datetime) -> PlanFact:
    problem = (cron.check(plan.cron, plan.time_zone) or "") if plan.enabled else ""
    due = next(iter(cron.slots_after(plan.cron, plan.time_zone, now, 1)), None) if plan.enabled and not problem else None
    failed = _failed_runs(plan)
    last, error = failed[0] if failed else ("", {})
    return PlanFact(
        name=plan.name,
        title=plan.title,
        kind=plan.kind,
        # A backup of some stores does not protect the set
        set="" if plan.arguments.get("only") else str(plan.arguments.get("set") or config.default_set),
        enabled=plan.enabled,
        paused_by=plan.paused_by,
        next=due,
        cron_problem=problem,
        refused=_refused(plan) if plan.enabled else "",
        failed_in_a_row=len(failed),
        last_job=last,
        message=str(error.get("message", "")),
        hint=str(error.get("hint", "")),
        alert_after=plan.alert_after,
        alert_to=tuple(str(address) for address in plan.alert_to),
    )


def _failed_runs(plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    """Id and error of the runs that failed since the last success, newest first."""
    ended = plan.jobs.filter(state__in=(Job.State.SUCCEEDED, Job.State.FAILED, Job.State.INTERRUPTED), tried_again=None)
    rows = ended.order_by("-created").values_list("pk", "state", "error")[:_MOST_RUNS]
    return [(str(pk), error or {}) for pk, state, error in itertools.takewhile(lambda row: row[1] != Job.State.SUCCEEDED, rows)]


def _refused(plan: Plan) -> str:
    """Why the plan's last run could not be queued; empty if it was, or the plan has been changed since."""
    refused = AuditEntry.objects.filter(target=f"plan:{plan.name}", action="plan.refused").order_by("-number").first()
    if refused is None or refused.time <= plan.changed or plan.jobs.filter(created__gt=refused.time).exists():
        return ""
    return str((refused.after or {}).get("error"))


def worker_beat(host: str) -> datetime | None:
    """The last heartbeat of a host's workers. For this host its file counts too: it is written before the row."""
    beats = [beat for beat in Worker.objects.filter(host=host).values_list("beat", flat=True) if beat is not None]
    if host == configuration().host:
        with contextlib.suppress(OSError):  # no worker has run yet
            beats.append(datetime.fromtimestamp(heartbeat_file().stat().st_mtime, UTC))
    return max(beats, default=None)


def _workers(config: Configuration) -> tuple[WorkerFact, ...]:
    hosts = dict.fromkeys((config.host, *Worker.objects.values_list("host", flat=True)))
    return tuple(WorkerFact(host=host, beat=worker_beat(host)) for host in hosts)


def _clocks() -> tuple[Clock, ...]:
    return tuple(
        Clock(
            host=look.host,
            jumped=look.jumped,
            jumped_by=look.jumped_by,
            silent_from=look.silent_from,
            silent_until=look.silent_until,
        )
        for look in AlertLook.objects.exclude(host="")
    )


def _running(job: Job, now: datetime) -> RunningJob:
    like = Job.objects.filter(kind=job.kind, state=Job.State.SUCCEEDED, set=job.set, started__isnull=False)
    took = [
        (finished - started).total_seconds()
        for started, finished, arguments in like.order_by("-finished").values_list("started", "finished", "arguments")[:_LIKE]
        if started and finished and arguments.get("backup") == job.arguments.get("backup")
    ]
    return RunningJob(
        id=str(job.pk),
        kind=job.kind,
        set=job.set,
        seconds=(now - (job.started or now)).total_seconds(),
        usual=median(took) if len(took) >= _FEWEST_LIKE else None,
        heartbeat=job.heartbeat,
    )


def _drills() -> Drills:
    """From the jobs, and from the index for drills without a job."""
    drills = Job.objects.filter(kind=DRILL.name, tried_again=None, finished__isnull=False).order_by("-finished")
    good = drills.filter(state=Job.State.SUCCEEDED).values_list("finished", flat=True).first()
    bad = max(
        filter(None, (drills.filter(state=state).first() for state in (Job.State.FAILED, Job.State.INTERRUPTED))),
        key=lambda job: job.finished or job.created,
        default=None,
    )
    job, message, failed = (str(bad.pk), str((bad.error or {}).get("message", "")), bad.finished) if bad else ("", "", None)
    indexed = IndexedBackup.objects.filter(drilled_at__isnull=False).order_by("-drilled_at")
    seconds = None
    for at, ok, took in indexed.values_list("drilled_at", "drill_ok", "drill_seconds")[:1]:
        if ok:
            good, seconds = max(filter(None, (good, at))), took
        elif at is not None and (failed is None or at > failed):
            job, message, failed = "", "", at
    if failed is not None and good is not None and good > failed:
        job, message, failed = "", "", None
    first = IndexedBackup.objects.order_by("time").values_list("time", flat=True).first()
    return Drills(last_good=good, seconds=seconds, could_be_since=first, failed=failed, failed_job=job, message=message)


def _failing_channels(now: datetime) -> list[FailingChannel]:
    """Channels that gave up a message in the last two days and have delivered none since."""
    failing = []
    for channel in AlertChannel.objects.filter(enabled=True):
        own = AlertDelivery.objects.filter(recipient=f"channel:{channel.pk}").order_by("-id")
        last = own.filter(state__in=(AlertDelivery.State.DELIVERED, AlertDelivery.State.GIVEN_UP)).first()
        if last is None or last.state != AlertDelivery.State.GIVEN_UP or last.created < now - _GIVEN_UP_WITHIN:
            continue
        lost = own.filter(state=AlertDelivery.State.GIVEN_UP, created__gt=now - _GIVEN_UP_WITHIN).count()
        failing.append(FailingChannel(name=channel.name, id=channel.pk, count=lost, answer=last.answer[:200]))
    return failing


def _audit_break() -> AuditBreak | None:
    """What the last verification of the audit found."""
    verified = audit.verified()
    broken = (verified.after or {}).get("broken") if verified is not None else None
    return AuditBreak(entry=broken["number"], why=str(broken["why"])) if broken else None


def _last_probed(now: datetime) -> tuple[Probed, ...]:
    """The last health check's problems of stores and repositories; whether a repository is available is read afresh."""
    ended = Job.objects.filter(kind=HEALTH.name, finished__gt=now - _PROBES_HOLD).order_by("-finished")
    last = max(
        filter(None, (ended.filter(state=state).first() for state in (Job.State.SUCCEEDED, Job.State.FAILED))),
        key=lambda job: job.finished or job.created,
        default=None,
    )
    return tuple(
        Probed(
            check=problem["check"],
            code=problem["code"],
            subject=str(problem.get("subject", "")),
            message=str(problem["message"]),
            hint=str(problem.get("hint", "")),
        )
        for problem in ((last.result or {}).get("problems", ()) if last else ())
        if problem["check"] in ("sources", "repositories") and problem["code"] not in ("no_repository", "read_only")
    )


def _restores(config: Configuration, names: Sequence[str]) -> tuple[RestoreFact, ...]:
    """The newest measured restore of a whole backup, by a verification and by a person."""
    restores = []
    for repository, name in itertools.product(config.repositories, names):
        rows = _whole(config, repository, name).filter(verification=IndexedBackup.Verification.RESTORE)
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
    """The backup jobs of the last 30 days, a day each. If the zone is not UTC, hours are counted and added up here."""
    zone = timezone.get_current_timezone()
    by_day = all(moment.astimezone(zone).utcoffset() == timedelta(0) for moment in (now, now - _WINDOW))
    today = now.astimezone(zone).date()
    first = today - timedelta(days=29)
    begin = datetime(first.year, first.month, first.day, tzinfo=zone)
    counted: dict[date, list[int]] = {first + timedelta(days=number): [0, 0] for number in range(30)}
    rows = (
        Job.objects.filter(
            kind=BACKUP.name, state__in=(Job.State.SUCCEEDED, Job.State.FAILED, Job.State.INTERRUPTED), finished__gte=begin
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


def _source_bytes(config: Configuration) -> int:
    """Roughly how many bytes the first set's stores hold. For an estimate, so the walk ends after a fiftieth of a second."""
    until = time.monotonic() + _LONGEST_WALK
    total = 0
    for source in config.sources(config.default_set):
        try:
            if source.kind is SourceKind.SQLITE:
                total += source.path.stat().st_size
                continue
            for file in source.path.rglob("*"):
                total += file.stat().st_size if file.is_file() else 0
                if time.monotonic() > until:
                    return total
        except OSError:
            continue  # does not exist yet, or is removed meanwhile
    return total
