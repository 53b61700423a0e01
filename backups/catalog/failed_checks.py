"""Verifications without a proof: their process was killed, or the repository was full or read-only.

The repository does not know of them, so the jobs tell. Until a later proof shows more, the index does not count such a backup
as proven, whatever earlier proofs say; if the verification found damage that it could not record, the backup is damaged.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Q, QuerySet

from backups import moments
from backups.conf import configuration
from backups.engine.errors import (
    BackupNotFound,
    DamageFound,
    RepositoryLocked,
    RepositoryMissing,
    RepositoryTooNew,
    UsageError,
)
from backups.engine.repository.soundness import DEPENDENT
from backups.engine.types import Proof
from backups.models import IndexedBackup, Job

FIELDS = ("check_failed_at", "check_failed", "check_found_damage", "damaged_in")

_NOT_BEGUN = frozenset(one.code for one in (RepositoryLocked, RepositoryMissing, RepositoryTooNew, BackupNotFound, UsageError))
"""Errors after which nothing had been read, so that earlier proofs are as good as before."""

_FULL_READ = 2
"""The `Proof.reach` from which on a success shows that there is no damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCheck:
    """When a verification ended without a proof, why, and whether it found damage, in the files of which backup."""

    at: datetime
    why: str
    found_damage: bool
    damaged_in: str

    def apply(self, row: IndexedBackup, proofs: Iterable[Proof]) -> None:
        """Note it in *row*, which was made from *proofs*, unless a later one of them is worth more."""
        if any(proof.time > self.at and (proof.reach >= _FULL_READ or not self.found_damage) for proof in proofs):
            return
        row.check_failed_at, row.check_failed, row.check_found_damage = self.at, self.why, self.found_damage
        if row.damaged:
            return
        if self.found_damage:
            row.verification, row.problem = IndexedBackup.Verification.DAMAGED, self.why
            row.damaged_in = self.damaged_in
        else:
            row.verification = IndexedBackup.Verification.NONE


def noted(known: Any) -> FailedCheck | None:
    """The failed check of a row; *known* has its `FIELDS`."""
    if known is None or known.check_failed_at is None:
        return None
    return FailedCheck(
        at=known.check_failed_at,
        why=known.check_failed,
        found_damage=known.check_found_damage,
        damaged_in=known.damaged_in,
    )


def note(job: Job) -> list[str]:
    """Note the failed checks of an ended job in the index, which is up to date otherwise.

    Returns the ids of the backups concerned, which must be read again.
    """
    if job.state == Job.State.CANCELLED:
        return []
    rows = IndexedBackup.objects.filter(repository=job.repository)
    if job.kind in ("verify", "drill") and job.arguments.get("set"):
        rows = rows.filter(set=job.arguments["set"])
    if job.state == Job.State.SUCCEEDED:
        return _lift(job, rows)
    rows = rows.exclude(verification__in=IndexedBackup.UNUSABLE)
    found: dict[str, dict[str, Any]] = {}
    for backup_id, message, lies_in in _damage(job):
        found.setdefault(backup_id, {"check_failed": message, "check_found_damage": True, "damaged_in": lies_in})
    if not found:
        stopped_at = _stopped_at(job, rows)
        if stopped_at is not None:
            why = str((job.error or {}).get("message") or "Its process was stopped.")
            found[stopped_at] = {"check_failed": why, "check_found_damage": False}
    now = moments.now()
    return [
        backup_id
        for backup_id, values in found.items()
        if rows.filter(backup_id=backup_id).update(check_failed_at=now, **values)
    ]


def _lift(job: Job, rows: QuerySet[IndexedBackup]) -> list[str]:
    """Forget the failed checks of backups that a job has verified, whatever the clock says of the order."""
    sound = [str(result["id"]) for result in (job.result or {}).get("results", ()) if result.get("ok") is True]
    noted = rows.filter(backup_id__in=sound, check_failed_at__isnull=False)
    ids = list(noted.values_list("backup_id", flat=True))
    noted.update(check_failed_at=None, check_failed="", check_found_damage=False)
    return ids


def _damage(job: Job) -> Iterator[tuple[str, str, str]]:
    """The backups in which a job found damage, recorded or not: id, a sentence, and the backup in whose files it lies."""
    for result in (job.result or {}).get("results", ()):
        for problem in () if result.get("ok", True) else result.get("problems", ()):
            if problem.get("code") in DEPENDENT:
                continue
            for backup_id in (result["id"], *problem.get("also_in", ())):
                yield str(backup_id), str(problem["message"]), str(problem.get("lies_in") or result["id"])
    error = job.error or {}
    if error.get("code") == DamageFound.code and not (job.result or {}).get("results") and job.backup_id:
        yield job.backup_id, str(error["message"]), job.backup_id


def _stopped_at(job: Job, rows: QuerySet[IndexedBackup]) -> str | None:
    """The backup at which a verification stopped: the first of those it was to verify that has no proof since."""
    error = job.error or {}
    if job.started is None or error.get("code") in _NOT_BEGUN:
        return None
    if job.kind == "backup":  # published, and then not verified
        return str(error["id"]) if "id" in error else None
    if job.kind not in ("verify", "drill"):
        return None
    named = [*job.arguments.get("backup_ids", ()), job.arguments.get("backup_id", "latest")]
    ids = [backup_id for backup_id in named if backup_id != "latest"]
    if not ids:
        chosen = rows.filter(set=job.set or configuration().default_set, time__lte=job.started).order_by("-time", "-backup_id")
        if not job.arguments.get("everything"):
            chosen = chosen.filter(safety=False).exclude(kind=IndexedBackup.Kind.SNAPSHOT)[:1]
        ids = list(chosen.values_list("backup_id", flat=True))
    unproven = rows.filter(Q(verified_at=None) | Q(verified_at__lt=job.started))
    left = set(unproven.values_list("backup_id", flat=True))
    return next((backup_id for backup_id in ids if backup_id in left), None)
