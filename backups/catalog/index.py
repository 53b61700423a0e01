"""The index of backups in the control database. It can be rebuilt from the repository at any time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from django.db import transaction

from backups.conf import configuration
from backups.engine.errors import BackupNotFound, EngineError
from backups.engine.names import BACKUP_ID
from backups.engine.repository.base import STAMP
from backups.engine.repository.folder import Repository
from backups.engine.types import Backup, Depth
from backups.models import IndexedBackup, Job

_log = logging.getLogger(__name__)
_BATCH = 500

_KEY = ("repository", "backup_id")
_FIELDS = [field.name for field in IndexedBackup._meta.concrete_fields if not field.primary_key and field.name not in _KEY]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a refresh did: backups in the repository, backups read because they changed, and rows removed."""

    found: int
    read: int
    forgotten: int


def refresh(name: str, *, everything: bool = False) -> Change:
    """Update the index of the repository *name*, reading only changed backups, or with *everything* all.

    Changes are found by modification times: publishing, deleting, a hold and a proof each change a folder of the backup. Damage
    to files is not noticed here. Raises `RepositoryMissing`.
    """
    repository = configuration().open(name)
    known = dict(IndexedBackup.objects.filter(repository=name).values_list("backup_id", "seen"))
    places = {backup_id: set_name for set_name in repository.sets() for backup_id in repository.ids(set_name)}
    changed = [
        (set_name, backup_id)
        for backup_id, set_name in places.items()
        if everything or known.get(backup_id) != _seen(repository, set_name, backup_id)
    ]
    gone = sorted(known.keys() - places.keys())
    _update(name, repository, changed, gone)
    return Change(found=len(places), read=len(changed), forgotten=len(gone))


def refresh_some(name: str, backup_ids: Iterable[str]) -> None:
    """Update the rows of these backups; rows of deleted backups are removed."""
    repository = configuration().open(name)
    sets = repository.sets()
    places, gone = [], []
    for backup_id in sorted(set(backup_ids)):
        homes = [set_name for set_name in sets if repository.backup_folder(set_name, backup_id).is_dir()]
        places += [(set_name, backup_id) for set_name in homes[:1]]
        gone += [] if homes else [backup_id]
    _update(name, repository, places, gone)


def refresh_one(name: str, backup_id: str) -> IndexedBackup | None:
    """Update and return the row of one backup; None when the backup no longer exists."""
    refresh_some(name, [backup_id])
    return IndexedBackup.objects.filter(repository=name, backup_id=backup_id).first()


def note_job(job: Job) -> None:
    """Update the index after a job: the backups that it names or, unless it succeeded, all changed backups.

    Errors are logged; the next health check refreshes the index again.
    """
    if not job.repository:
        return
    try:
        if job.state == Job.State.SUCCEEDED:
            refresh_some(job.repository, _named(job))
        else:
            refresh(job.repository)
    except (EngineError, OSError) as problem:
        _log.warning("The index of %s is out of date: %s", job.repository, problem)


def _named(job: Job) -> set[str]:
    """The ids of the backups that a job's answer and arguments name."""
    answer = job.result or {}
    items = [answer, *answer.get("results", ()), *answer.get("removed", ())]
    named = {str(item.get("id", "")) for item in items} | {*answer.get("ids", ()), job.backup_id}
    named.add(str(answer.get("checks", {}).get("safety_backup", "")))
    return {backup_id for backup_id in named if BACKUP_ID.fullmatch(backup_id)}


def _update(name: str, repository: Repository, places: list[tuple[str, str]], gone: list[str]) -> None:
    """Read the backups at *places* (set, id) into the index, and remove the rows of the backups in *gone*."""
    for start in range(0, len(places), _BATCH):
        rows = list(_rows(name, repository, places[start : start + _BATCH]))
        with transaction.atomic(using=configuration().database):
            IndexedBackup.objects.bulk_create(rows, update_conflicts=True, unique_fields=_KEY, update_fields=_FIELDS)
    for start in range(0, len(gone), _BATCH):
        IndexedBackup.objects.filter(repository=name, backup_id__in=gone[start : start + _BATCH]).delete()


def _rows(name: str, repository: Repository, places: list[tuple[str, str]]) -> Iterator[IndexedBackup]:
    for set_name, backup_id in places:
        seen = _seen(repository, set_name, backup_id)  # before reading, so that a concurrent change is noticed next time
        try:
            yield _row(name, repository.load(set_name, backup_id), seen)
        except BackupNotFound:
            continue
        except EngineError as problem:
            yield _unreadable(name, set_name, backup_id, problem.message, seen)


def _row(name: str, backup: Backup, seen: str) -> IndexedBackup:
    manifest = backup.manifest
    restored = [proof for proof in backup.proofs if proof.ok and proof.depth is Depth.RESTORE]
    drill = next((proof for proof in reversed(backup.proofs) if proof.drill), None)
    return IndexedBackup(
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
        safety=manifest.safety,
        sources=[
            {
                "kind": record.kind.value,
                "name": record.name,
                "bytes": record.bytes,
                "files": record.files,
                "method": record.method,
                "missing": sum(max(item.count, 1) for item in record.missing),
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
        seen=seen,
    )


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


def _seen(repository: Repository, set_name: str, backup_id: str) -> str:
    folder = repository.backup_folder(set_name, backup_id)
    return f"{_changed(folder)}.{_changed(folder / 'proofs')}"


def _changed(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
