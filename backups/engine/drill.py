"""A drill: a restore as it would be in an emergency, with the application's own probe, and its figures recorded."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .archive.reader import Archives, locate_in
from .config import SOURCE_SETTINGS
from .errors import EngineError, UsageError
from .repository.folder import DATA, Repository
from .runtime.context import Context
from .types import Backup, Depth, Proof
from .verify import verify_backup

PROBE_SECONDS = 900.0
"""How long an application's probe may take."""

_LONGEST_WORDS = 2000


def drill_backup(repository: Repository, backup: Backup, ctx: Context, *, probe: str = "", examine: str = "") -> Proof:
    """Restore *backup* into scratch on real terms, check it, and record how that went.

    1. Drop what the system still remembers of the archives: an emergency reads them from the disk.
    2. Restore and check as `verify_backup` does by ``restore``, with everything written through to the disk.
    3. Run *probe*, a command without a shell, with the settings of the sources naming the restored stores (and
       ``REFBACKUP_RESTORED`` their folder).

    The proof's ``seconds`` are the recovery time. Its ``checks`` have ``recovery_point_seconds``, how old the backup's instant
    was, and ``probe``. A probe that fails does not make a backup damaged, for the fault may be its own: `passed` tells.
    Raises `UsageError` for a probe that cannot be run, and what `verify_backup` raises.
    """
    words = shlex.split(probe)
    forget_cached(repository, backup)
    run = functools.partial(_probe, words, backup, ctx) if words else None
    return verify_backup(repository, backup, Depth.RESTORE, ctx, drill=True, probe=run, examine=examine)


def passed(proof: Proof) -> bool:
    """Whether a drill went well: the backup is sound, and the application's probe, where there is one, liked it."""
    return proof.ok and bool(proof.checks.get("probe", {}).get("ok", True))


def forget_cached(repository: Repository, backup: Backup) -> None:
    """Ask the system to drop from memory the archives that *backup* needs; a wish, and no more than that."""
    locate = locate_in(repository.backup_folder(backup.manifest.set, ""))
    needed = {backup.id}
    with contextlib.suppress(EngineError), Archives(locate) as archives:
        tree = archives.tree(backup.id)
        needed |= {ref.backup for entry in tree.entries.values() for ref in tree.refs(entry)}
    for name in needed:
        with contextlib.suppress(OSError):
            descriptor = os.open(repository.backup_folder(backup.manifest.set, name) / DATA, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _probe(words: list[str], backup: Backup, ctx: Context, folder: Path) -> dict[str, Any]:
    """Run the application's probe on the stores in *folder*: ``{"ok", "status", "seconds", "said"}``."""
    environment = {**os.environ, "REFBACKUP_RESTORED": str(folder)}
    for record in reversed(backup.manifest.sources):  # of several of a kind, the first
        environment[SOURCE_SETTINGS[record.kind]] = str(folder / record.prefix)
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        try:
            child = subprocess.Popen(
                words, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as problem:
            raise UsageError(
                f"The probe could not be run: {problem}.",
                hint="Correct --probe or BACKUP_DRILL_COMMAND. No proof was recorded.",
            ) from None
        try:
            status = _wait(child, ctx, began)
        except BaseException:
            _kill(child)
            raise
        said.seek(max(0, said.seek(0, os.SEEK_END) - _LONGEST_WORDS))
        text = said.read().decode("utf-8", "replace").strip()
    return {"ok": status == 0, "status": status, "seconds": round(time.monotonic() - began, 3), "said": text}


def _wait(child: subprocess.Popen[bytes], ctx: Context, began: float) -> int:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(0.1)
        ctx.check()
        if time.monotonic() - began > PROBE_SECONDS:
            _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
