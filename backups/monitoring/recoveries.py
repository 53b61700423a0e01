"""Reads how restores and drills went. Only those count whose backup could still be restored today."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from backups.conf import configuration
from backups.jobs.types import DRILL, RESTORE, RESTORE_IN_PLACE
from backups.models import IndexedBackup, Job, Plan

from . import facts

_RECENT = 10
"""How many restores or drills are read to find one that counts."""


def last_of(jobs: Any, *states: str) -> Job | None:
    """The one of *jobs* that ended last in one of *states*, each of which is read from the index."""
    each = (jobs.filter(state=state).order_by("-finished").first() for state in states)
    return max(filter(None, each), key=lambda job: job.finished or job.created, default=None)


def _unusable(ids: Iterable[str]) -> dict[str, str]:
    """Those of the backups that are damaged or missing now, with that word."""
    # All names are listed so that the database can use its index
    rows = IndexedBackup.objects.filter(repository__in=list(configuration().repositories), backup_id__in=set(ids))
    rows = rows.filter(verification__in=IndexedBackup.UNUSABLE).order_by()
    return dict(rows.values_list("backup_id", "verification"))


def drills(possible_since: datetime | None) -> facts.Drills:
    """From the jobs, and from the index for drills without a job."""
    jobs = Job.objects.filter(kind=DRILL.name, tried_again=None, finished__isnull=False)
    done = jobs.filter(state=Job.State.SUCCEEDED).order_by("-finished").values_list("finished", "result")[:_RECENT]
    found = [(at, *_drilled(result)) for at, result in done if at is not None]
    bad = last_of(jobs, Job.State.FAILED, Job.State.INTERRUPTED)
    job, message, failed = (str(bad.pk), str((bad.error or {}).get("message", "")), bad.finished) if bad else ("", "", None)
    indexed = IndexedBackup.objects.filter(drilled_at__isnull=False).order_by("-drilled_at")
    for at, ok, took, backup_id in indexed.values_list("drilled_at", "drill_ok", "drill_seconds", "backup_id")[:_RECENT]:
        assert at is not None
        if ok:
            found.append((at, backup_id, took))
        elif failed is None or at > failed:
            job, message, failed = "", "", at
    found.sort(key=lambda one: (one[0], one[2] is not None), reverse=True)
    unusable = _unusable(backup_id for _, backup_id, _ in found)
    good = next((one for one in found if one[1] not in unusable), None)
    newest = found[0] if found else None
    excluded = None
    if newest is not None and newest[1] in unusable:
        excluded = facts.Excluded(id=newest[1], time=newest[0], why=unusable[newest[1]])
    if failed is not None and newest is not None and newest[0] > failed:
        job, message, failed = "", "", None
    return facts.Drills(
        last_good=good[0] if good else None,
        seconds=good[2] if good else None,
        could_be_since=possible_since,
        failed=failed,
        failed_job=job,
        message=message,
        excluded=excluded,
    )


def _drilled(result: dict[str, Any] | None) -> tuple[str, float | None]:
    """The backup that a drill restored, and the seconds that it took, as far as its result tells."""
    told: dict[str, Any] = next(iter((result or {}).get("results", ())), {})
    seconds = told.get("seconds")
    return str(told.get("id", "")), float(seconds) if isinstance(seconds, int | float) else None


def possible_since(repositories: Iterable[facts.RepositoryFact], plans: Iterable[Plan]) -> datetime | None:
    """When the first backup was made or, if it came later, the first plan for drills. None without a backup."""
    first = min((one.first for one in repositories if one.first is not None), default=None)
    planned = min((plan.created for plan in plans if plan.kind == DRILL.name), default=None)
    return first if first is None or planned is None else max(first, planned)


def restores(proven: Iterable[facts.BackupFact]) -> tuple[facts.RestoreFact, ...]:
    """The newest measured restore of a whole backup, by a verification and by a person, and newer ones that do not count."""
    found = [
        facts.RestoreFact(seconds=one.restore_seconds, time=one.verified_at or one.time)
        for one in proven
        if one.verification == IndexedBackup.Verification.RESTORE and one.restore_seconds is not None
    ]
    for kind in (RESTORE.name, RESTORE_IN_PLACE.name):
        found += _asked(kind)
    return tuple(found)


def _asked(kind: str) -> Iterator[facts.RestoreFact]:
    asked = Job.objects.filter(kind=kind, state=Job.State.SUCCEEDED, finished__isnull=False).order_by("-finished")
    rows = list(asked.values_list("arguments", "result", "finished")[:_RECENT])
    unusable = _unusable(str(arguments.get("backup_id", "")) for arguments, _, _ in rows)
    for arguments, result, finished in rows:
        seconds, backup_id = (result or {}).get("seconds"), str(arguments.get("backup_id", ""))
        if finished is None or not isinstance(seconds, int | float) or arguments.get("only"):
            continue
        why = unusable.get(backup_id)
        excluded = facts.Excluded(id=backup_id, time=finished, why=why) if why is not None else None
        yield facts.RestoreFact(seconds=float(seconds), time=finished, real=True, excluded=excluded)
        if excluded is None:
            return
