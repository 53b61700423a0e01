"""The index of backups in the control database. It can be rebuilt from the repository at any time."""

import functools
import logging
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet

from backups.conf import configuration
from backups.engine.errors import BackupNotFound, EngineError, RepositoryMissing
from backups.engine.names import BACKUP_ID
from backups.engine.repository.base import STAMP
from backups.engine.repository.folder import Repository
from backups.engine.repository.soundness import Soundness, keeps_damage
from backups.engine.types import Backup, Depth
from backups.identity import audit
from backups.models import IndexedBackup, Job

from . import failed_checks, notices
from .failed_checks import FailedCheck

_log = logging.getLogger(__name__)
_BATCH = 500
_LONGEST_MESSAGE = 300
MISSING = "It is no longer in the repository, and nobody deleted it."

_KEY = ("repository", "backup_id", "set")
_Place = tuple[str, str]
"""The set and the id of a backup."""

_FIELDS = [field.name for field in IndexedBackup._meta.concrete_fields if not field.primary_key and field.name not in _KEY]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a refresh did: backups in the repository, backups read, and rows removed or found to be missing."""

    found: int
    read: int
    forgotten: int
    missing: int = 0


def refresh(name: str, *, everything: bool = False) -> Change:
    """Update the index of the repository *name*, reading only changed backups, or with *everything* all.

    Changes are found by modification times of folders and manifests and by the sizes of archives: publishing, deleting, a hold
    and a proof each change a folder of the backup. Damage within files is not noticed here. Backups that nobody deleted and
    that are gone become `missing`, and what else was changed without the key is noted (`notices`). Raises `RepositoryMissing`.
    """
    repository = configuration().open(name)
    known = {(row.set, row.backup_id): row for row in _known(name)}
    places = [(set_name, backup_id) for set_name in repository.sets() for backup_id in repository.ids(set_name)]
    times = Counter(backup_id for _, backup_id in {*places, *known})
    twins = {backup_id for backup_id, count in times.items() if count > 1}
    seen = {place: repository.seen(*place) for place in places}
    changed = [
        place for place in places if everything or place not in known or place[1] in twins or known[place].seen != seen[place]
    ]
    change = _update(name, repository, known, changed, known.keys() - set(places), found=len(places))
    unknown = [
        (one, backup_id) for one in repository.sets() for backup_id in repository.vanished(one) if (one, backup_id) not in known
    ]
    _note_lost(name, unknown)
    rows = [_unreadable(name, set_name, backup_id, MISSING, "") for set_name, backup_id in unknown]
    for row in rows:
        row.verification = IndexedBackup.Verification.MISSING
    IndexedBackup.objects.bulk_create(rows, ignore_conflicts=True)
    notices.look(name, repository, seen)
    return replace(change, missing=change.missing + len(rows))


def refresh_all() -> None:
    """Update the index of every repository that is available; called each minute.

    Raises the first ``OSError`` or `EngineError` after all of them.
    """
    problems: list[Exception] = []
    for name in configuration().repositories:
        try:
            refresh(name)
        except RepositoryMissing:
            continue  # a condition of its own
        except (EngineError, OSError) as problem:
            problems.append(problem)
    if problems:
        raise problems[0]


def refresh_some(name: str, backup_ids: Iterable[str]) -> None:
    """Update the rows of these backups, and of those whose judgement depends on them."""
    repository = configuration().open(name)
    wanted = set(backup_ids)
    sets = repository.sets()
    places = [(one, backup_id) for backup_id in sorted(wanted) for one in sets if repository.exists(one, backup_id)]
    known = {(row.set, row.backup_id): row for row in _known(name)}
    gone = {place for place in known if place[1] in wanted}.difference(places)
    _update(name, repository, known, places, gone, found=len(places))


def refresh_one(row: IndexedBackup) -> IndexedBackup | None:
    """Read one backup again, and return its row; None when the backup no longer exists."""
    refresh_some(row.repository, [row.backup_id])
    return IndexedBackup.objects.filter(**row.home, backup_id=row.backup_id).first()


def note_job(job: Job) -> None:
    """Update the index after a job: the backups that it names or, unless it succeeded, all changed backups and failed checks.

    Errors are logged; the next health check refreshes the index again.
    """
    if not job.repository:
        return
    try:
        if job.state == Job.State.SUCCEEDED:
            refresh_some(job.repository, _named(job))
        else:
            refresh(job.repository)
        if concerned := failed_checks.note(job):
            refresh_some(job.repository, concerned)
    except (EngineError, OSError) as problem:
        _log.warning("The index of %s is out of date: %s", job.repository, problem)


def _named(job: Job) -> set[str]:
    """The ids of the backups that a job's answer and arguments name."""
    answer = job.result or {}
    items = [answer, *answer.get("results", ()), *answer.get("removed", ())]
    named = {str(item.get("id", "")) for item in items} | {*answer.get("ids", ()), job.backup_id}
    named.add(str(answer.get("checks", {}).get("safety_backup", "")))
    return {backup_id for backup_id in named if BACKUP_ID.fullmatch(backup_id)}


def _known(name: str) -> QuerySet[IndexedBackup, Any]:
    rows = IndexedBackup.objects.filter(repository=name).order_by()
    return rows.values_list("backup_id", "set", "verification", "seen", *failed_checks.FIELDS, named=True)


def _update(
    name: str,
    repository: Repository,
    known: Mapping[_Place, Any],
    places: list[_Place],
    gone: Collection[_Place],
    *,
    found: int,
) -> Change:
    """Read the backups at *places*, and remove or mark the rows of those in *gone*.

    A backup that becomes usable, or no longer is, may change the judgement of newer ones of its set: they are read too.
    """
    deleted = repository.deleted(gone)
    removed = [place for place in gone if place in deleted]
    lost = [one for one in set(gone).difference(removed) if known[one].verification != IndexedBackup.Verification.MISSING]
    _note_lost(name, lost)
    turned = list(lost)
    for row in _read(name, repository, places, known):
        before = known.get((row.set, row.backup_id))
        if before is not None and (before.verification in IndexedBackup.UNUSABLE) is not row.damaged:
            turned.append((row.set, row.backup_id))
    for start in range(0, len(removed), _BATCH):
        _at(name, removed[start : start + _BATCH]).delete()
    for start in range(0, len(lost), _BATCH):
        missing_now = IndexedBackup.Verification.MISSING
        _at(name, lost[start : start + _BATCH]).update(verification=missing_now, problem=MISSING, seen="")
    oldest = {set_name: min(one for where, one in turned if where == set_name) for set_name, _ in turned}
    done = set(places)
    newer = [
        (set_name, one)
        for set_name, first in oldest.items()
        for one in repository.ids(set_name)
        if one > first and (set_name, one) not in done
    ]
    again = sum(1 for _ in _read(name, repository, newer, known))
    missing = sum(known[place].verification == IndexedBackup.Verification.MISSING for place in gone)
    return Change(found=found, read=len(places) + again, forgotten=len(removed), missing=missing + len(lost))


def _note_lost(name: str, lost: list[_Place]) -> None:
    """Leave an entry in the audit that names the backups which vanished."""
    if lost:
        ids = sorted((f"{set_name}/{backup_id}" for set_name, backup_id in lost), reverse=True)
        audit.record(audit.SYSTEM, "backups.vanished", f"repository:{name}", after={"count": len(ids), "ids": ids[:1000]})


def _at(name: str, places: list[_Place]) -> QuerySet[IndexedBackup]:
    ids: dict[str, list[str]] = {}
    for set_name, backup_id in places:
        ids.setdefault(set_name, []).append(backup_id)
    wanted = [Q(set=set_name, backup_id__in=of_set) for set_name, of_set in ids.items()]
    return IndexedBackup.objects.filter(functools.reduce(operator.or_, wanted), repository=name)


def _read(name: str, repository: Repository, places: list[_Place], known: Mapping[_Place, Any]) -> Iterator[IndexedBackup]:
    """Read the backups at *places* into the index, and yield their rows."""
    soundness = {set_name: Soundness(repository, set_name) for set_name, _ in places}
    for start in range(0, len(places), _BATCH):
        rows = list(_rows(name, repository, places[start : start + _BATCH], soundness, known))
        with transaction.atomic(using=configuration().database):
            IndexedBackup.objects.bulk_create(rows, update_conflicts=True, unique_fields=_KEY, update_fields=_FIELDS)
        yield from rows


def _rows(
    name: str,
    repository: Repository,
    places: list[_Place],
    soundness: Mapping[str, Soundness],
    known: Mapping[_Place, Any],
) -> Iterator[IndexedBackup]:
    for set_name, backup_id in places:
        seen = repository.seen(set_name, backup_id)  # before reading, so that a concurrent change is noticed next time
        try:
            check = failed_checks.noted(known.get((set_name, backup_id)))
            yield _row(name, repository.load(set_name, backup_id, soundness[set_name]), seen, check)
        except BackupNotFound:
            continue
        except EngineError as problem:
            yield _unreadable(name, set_name, backup_id, problem.message, seen)


def _row(name: str, backup: Backup, seen: str, check: FailedCheck | None) -> IndexedBackup:
    manifest = backup.manifest
    restored = [proof for proof in backup.proofs if proof.ok and proof.depth is Depth.RESTORE]
    drill = next((proof for proof in reversed(backup.proofs) if proof.drill), None)
    row = IndexedBackup(
        repository=name,
        backup_id=backup.id,
        set=manifest.set,
        kind=manifest.kind.value,
        parent_id=manifest.parent or "",
        time=manifest.time,
        finished=manifest.finished,
        host=manifest.host[:255],
        note=manifest.note,
        bytes_source=manifest.bytes_source,
        bytes_stored=manifest.bytes_stored,
        seconds=max(0.0, (manifest.finished - manifest.time).total_seconds()),
        pause_sqlite=manifest.pause_ms.sqlite,
        pause_chroma=manifest.pause_ms.chroma,
        verification=backup.verification,
        verified_at=backup.verified_at,
        held=backup.hold is not None,
        hold_note=backup.hold.note if backup.hold else "",
        encrypted=manifest.encryption is not None,
        safety=manifest.safety,
        sources=[
            {
                "kind": record.kind.value,
                "name": record.name,
                "bytes": record.bytes,
                "files": record.files,
                "method": record.method,
                "missing": sum(max(item.count, 1) for item in record.missing),
                "first_missing": _shortened(record.missing[0].message) if record.missing else "",
            }
            for record in manifest.sources
        ],
        proofs=len(backup.proofs),
        restore_seconds=restored[-1].seconds if restored else None,
        drilled_at=drill.time if drill else None,
        drill_ok=drill.ok if drill else None,
        drill_seconds=drill.seconds if drill else None,
        job=manifest.job,
        problem=backup.problems[0].message if backup.problems else "",
        damaged_in=_damaged_in(backup),
        losses="\n".join(backup.hold.shrunk) if backup.hold else "",
        seen=seen,
    )
    if check is not None:
        check.apply(row, backup.proofs)
    return row


def _damaged_in(backup: Backup) -> str:
    if keeps_damage(backup):
        return ""
    return next(
        (problem.lies_in for problem in backup.problems if problem.lies_in is not None), backup.id if backup.damaged else ""
    )


def _shortened(message: str) -> str:
    """A path may have 4,095 characters; its end and the reason are kept."""
    return message if len(message) <= _LONGEST_MESSAGE else f"...{message[-_LONGEST_MESSAGE:]}"


def _unreadable(name: str, set_name: str, backup_id: str, problem: str, seen: str) -> IndexedBackup:
    """The row of a backup with an unreadable manifest, from its id."""
    stamp, kind, _ = backup_id.split("-")
    moment = datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)
    return IndexedBackup(
        repository=name,
        backup_id=backup_id,
        set=set_name,
        kind=kind,
        time=moment,
        finished=moment,
        verification=IndexedBackup.Verification.DAMAGED,
        problem=problem,
        seen=seen,
    )
