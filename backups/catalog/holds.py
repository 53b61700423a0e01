"""Holds: backups that retention keeps whatever its rules."""

from typing import NamedTuple

from backups import moments
from backups.conf import configuration
from backups.engine.config import check_note
from backups.engine.errors import BackupNotFound, UsageError
from backups.engine.repository.folder import Repository
from backups.engine.types import Backup, Hold
from backups.identity import audit
from backups.identity.audit import Actor
from backups.models import IndexedBackup

from .index import refresh_one

_HOLD_WAIT = 2.0


class Changed(NamedTuple):
    """The backup as it is now, and why that is not signed, without a full stop; "" if it is, or need not be."""

    row: IndexedBackup
    unsigned: str

    @property
    def words(self) -> str:
        """A sentence for people about what is not signed; "" if there is nothing to say."""
        done = "held" if self.row.held else "released"
        return f"{self.row.backup_id} is {done}, and nothing vouches for that: {self.unsigned}." if self.unsigned else ""


def hold(actor: Actor, row: IndexedBackup, note: str) -> Changed:
    """Hold a backup. Raises `RepositoryLocked` while another process writes."""
    return _set_hold(actor, row, Hold(time=moments.now(), note=check_note(note)))


def release(actor: Actor, row: IndexedBackup) -> Changed:
    """Release a hold; one because of a loss is confirmed by it. Raises `RepositoryLocked` while another process writes."""
    return _set_hold(actor, row, None)


def _set_hold(actor: Actor, row: IndexedBackup, new: Hold | None) -> Changed:
    opened, backup = stored(row)
    action = "backup.held" if new else "backup.released"
    with opened.writing("hold", moments.now(), wait=_HOLD_WAIT):
        if new is None and backup.hold is not None:
            new = backup.hold.confirmed
        why = opened.set_hold(backup, new)
    audit.record(
        actor,
        action,
        f"backup:{row.backup_id}",
        before={"held": row.held, "note": row.hold_note} | ({"losses": row.losses} if row.losses else {}),
        after={"held": new is not None, "note": new.note if new else "", **row.home} | ({"not_signed": why} if why else {}),
    )
    changed = refresh_one(row)
    assert changed is not None
    return Changed(changed, why)


def indexed(backup_id: str, repository: str = "", set_name: str = "") -> IndexedBackup:
    """The row of a backup in the index, by default in the first repository that holds it.

    Raises `BackupNotFound`, and `UsageError` if several sets of that repository hold the id and none is named.
    """
    # All names are listed so that the database can use its index
    names = [repository] if repository else sorted(configuration().repositories)
    rows = IndexedBackup.objects.filter(repository__in=names, backup_id=backup_id)
    if set_name:
        rows = rows.filter(set=set_name)
    found = list(rows.order_by("repository", "set"))
    if not found:
        place = f"the set {set_name} of {' or '.join(names)}" if set_name else " or ".join(names)
        raise BackupNotFound(
            f"There is no backup {backup_id} in {place}.", hint="Rescan the repository if it was made elsewhere."
        )
    homes = [row.set for row in found if row.repository == found[0].repository]
    if len(homes) > 1:
        raise UsageError(
            f"The sets {' and '.join(homes)} each hold a backup {backup_id}, and only one of them was made here.",
            hint="Choose it in the list of backups, or name its set. Nothing was changed.",
        )
    return found[0]


def stored(row: IndexedBackup) -> tuple[Repository, Backup]:
    """The repository of a backup, and the backup in it. Raises `BackupNotFound`, `DamageFound`."""
    repository = configuration().open(row.repository)
    return repository, repository.load(row.set, row.backup_id)
