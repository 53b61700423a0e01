"""Holds: backups that retention keeps whatever its rules."""

from django.utils import timezone

from backups.conf import configuration
from backups.engine.config import check_note
from backups.engine.errors import BackupNotFound
from backups.engine.repository.folder import Repository
from backups.engine.types import Backup, Hold
from backups.identity import audit
from backups.identity.audit import Actor
from backups.models import IndexedBackup

from .index import refresh_one

_HOLD_WAIT = 2.0


def hold(actor: Actor, backup_id: str, note: str, *, repository: str = "") -> IndexedBackup:
    """Hold a backup. Raises `RepositoryLocked` while another process writes."""
    return _set_hold(actor, backup_id, Hold(time=timezone.now(), note=check_note(note)), repository)


def release(actor: Actor, backup_id: str, *, repository: str = "") -> IndexedBackup:
    """Release a hold; one because of a loss is confirmed by it. Raises `RepositoryLocked` while another process writes."""
    return _set_hold(actor, backup_id, None, repository)


def _set_hold(actor: Actor, backup_id: str, new: Hold | None, repository: str) -> IndexedBackup:
    row = indexed(backup_id, repository)
    opened, backup = stored(row)
    action = "backup.held" if new else "backup.released"
    with opened.writing("hold", timezone.now(), wait=_HOLD_WAIT):
        if new is None and backup.hold is not None:
            new = backup.hold.confirmed
        opened.set_hold(backup, new)
    audit.record(
        actor,
        action,
        f"backup:{backup_id}",
        before={"held": row.held, "note": row.hold_note} | ({"losses": row.losses} if row.losses else {}),
        after={"held": new is not None, "note": new.note if new else ""},
    )
    changed = refresh_one(row.repository, backup_id)
    assert changed is not None
    return changed


def indexed(backup_id: str, repository: str = "") -> IndexedBackup:
    """The row of a backup in the index. Raises `BackupNotFound`."""
    # All names are listed so that the database can use its index
    names = [repository] if repository else sorted(configuration().repositories)
    row = IndexedBackup.objects.filter(repository__in=names, backup_id=backup_id).order_by("repository").first()
    if row is None:
        raise BackupNotFound(
            f"There is no backup {backup_id} in {' or '.join(names)}.", hint="Rescan the repository if it was made elsewhere."
        )
    return row


def stored(row: IndexedBackup) -> tuple[Repository, Backup]:
    """The repository of a backup, and the backup in it. Raises `BackupNotFound`, `DamageFound`."""
    repository = configuration().open(row.repository)
    return repository, repository.load(row.set, row.backup_id)
