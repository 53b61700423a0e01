"""Backups in the index that vanished from their repository though nobody deleted them. They stay listed until confirmed."""

from collections.abc import Sequence

from django.db.models import QuerySet

from backups import moments
from backups.conf import configuration
from backups.engine.errors import BackupNotFound
from backups.identity import audit
from backups.identity.audit import Actor
from backups.models import IndexedBackup

from .index import refresh


def missing_backups(repository: str = "") -> QuerySet[IndexedBackup]:
    """The missing backups of one repository, or of all, newest first."""
    rows = IndexedBackup.objects.filter(verification=IndexedBackup.Verification.MISSING)
    return rows.filter(repository=repository) if repository else rows


def forget_missing(actor: Actor, *, repository: str = "", set: str = "", backup_ids: Sequence[str] = ()) -> list[str]:
    """Forget backups that are missing: all of a repository or of a *set*, or *backup_ids*. Returns their ids, newest first.

    It is audited. The repository is read again first, so that a backup that has come back is kept. Raises `RepositoryMissing`
    while it is not available, because then nothing is known to be lost, and `BackupNotFound` if not all of them are missing.
    """
    name = repository or configuration().default_repository
    refresh(name)
    rows = missing_backups(name)
    if set:
        rows = rows.filter(set=set)
    if backup_ids:
        rows = rows.filter(backup_id__in=backup_ids)
    gone = list(rows.values_list("pk", "set", "backup_id", "held"))
    found = [backup_id for _, _, backup_id, _ in gone]
    if not gone or not frozenset(backup_ids) <= frozenset(found):
        raise BackupNotFound("Not all of these backups are missing.", hint="Nothing was forgotten. Read the list again.")
    held = [backup_id for _, _, backup_id, was_held in gone if was_held]
    after = {"count": len(found), "ids": found[:1000], "held": held[:1000]} | ({"set": set} if set else {})
    audit.record(actor, "backups.forgotten", f"repository:{name}", after=after)
    opened = configuration().open(name)
    for _, set_name, backup_id, _ in gone:
        opened.forget(set_name, backup_id, moments.now())
    for start in range(0, len(gone), 500):
        IndexedBackup.objects.filter(pk__in=[pk for pk, *_ in gone[start : start + 500]]).delete()
    return found
