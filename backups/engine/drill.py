"""Drills: a backup is restored as in an emergency, checked by the application too, and timed."""

import contextlib
import itertools
import os

from .application_check import ApplicationCheck
from .archive.reader import Archives
from .errors import EngineError
from .names import ARCHIVES
from .repository.folder import Repository
from .runtime.context import Context
from .types import Backup, Depth, Proof
from .verify import verify_backup


def drill_backup(repository: Repository, backup: Backup, ctx: Context, application: ApplicationCheck) -> Proof:
    """Restore *backup* into scratch as in an emergency, check it, and record the result.

    1. Drop the archives from the page cache: in an emergency they are read from the disk.
    2. Verify by ``restore`` as `verify_backup` does, with everything synced to the disk.
    3. Run the commands of *application*.

    The proof's ``seconds`` are the recovery time. Its ``checks`` have ``recovery_point_seconds``, the age of the cut, and
    ``probe``. Raises `UsageError` for a probe that cannot be run, and what `verify_backup` raises.
    """
    forget_cached(repository, backup)
    return verify_backup(repository, backup, Depth.RESTORE, ctx, drill=True, application=application)


def passed(proof: Proof) -> bool:
    """Whether the backup of a drill is sound and the application's probe, if any, exited with status 0."""
    return proof.ok and bool(proof.checks.get("probe", {}).get("ok", True))


def forget_cached(repository: Repository, backup: Backup) -> None:
    """Ask the kernel to drop the archives that *backup* needs from its page cache (``posix_fadvise(2)``, a hint)."""
    locate = repository.locate(backup.manifest.set)
    needed = {backup.id}
    with contextlib.suppress(EngineError), Archives(locate) as archives:
        tree = archives.tree(backup.id)
        needed |= {ref.backup for entry in tree.entries.values() for ref in tree.refs(entry)}
    for name, archive in itertools.product(needed, ARCHIVES):
        with contextlib.suppress(OSError):
            descriptor = repository.open_file(backup.manifest.set, name, archive)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
