"""Sets that would have no proven backup any more."""

from collections.abc import Sequence

from backups.models import IndexedBackup

PROVEN = (IndexedBackup.Verification.HASHES, IndexedBackup.Verification.RESTORE)


def sets_left_unproven(going: Sequence[IndexedBackup]) -> list[str]:
    """The names of the sets of *going* that have no proven backup without them; safety backups do not count."""
    found = []
    ids = [row.backup_id for row in going]
    for repository, name in sorted({(row.repository, row.set) for row in going if not row.safety}):
        proven = IndexedBackup.objects.filter(repository=repository, set=name, verification__in=PROVEN, safety=False)
        if not proven.exclude(backup_id__in=ids).exists():
            found.append(name)
    return found
