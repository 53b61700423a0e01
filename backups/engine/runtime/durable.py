"""The one way to write to disk: stage, sync, publish.

All that outlives a crash goes through here, so this is also where tests plant faults: ``FAULTS`` names steps, and what is
set there is called when the step is reached (raise ``OSError`` for a full disk, kill the process for a crash). The
environment variable ``REFBACKUP_FAULT=step:kill`` or ``step:full`` (optionally ``step@n:kill`` for the n-th time) plants one
in a child process.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

_SYNC_FILE_RANGE = getattr(ctypes.CDLL(None), "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE = 2
WRITEBACK_BYTES = 16 << 20
"""How much is written before `begin_writeback` is worth a call."""

FAULTS: dict[str, Callable[[], None]] = {}
_reached: dict[str, int] = {}


def reach(step: str) -> None:
    """Mark a point where a crash or a full disk matters; does nothing unless a test planted a fault there."""
    if step in FAULTS:
        FAULTS[step]()
    planted = os.environ.get("REFBACKUP_FAULT")
    if not planted:
        return
    where, _, what = planted.partition(":")
    name, _, count = where.partition("@")
    if name != step:
        return
    _reached[step] = _reached.get(step, 0) + 1
    if _reached[step] != int(count or 1):
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), step)


def begin_writeback(descriptor: int, offset: int, length: int) -> None:
    """Ask the kernel to start writing a range to disk, so that a later ``fsync`` has little left to wait for.

    A hint (``sync_file_range``, Linux): it makes nothing durable by itself, and is passed over where there is none.
    """
    if _SYNC_FILE_RANGE is not None:
        _SYNC_FILE_RANGE(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def sync_folder(folder: Path) -> None:
    """Make the entries of *folder* durable (rename and create are not, until the folder itself is synced)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Create *folder* and its missing parents, each made durable in its parent."""
    if folder.is_dir():
        return
    make_folder(folder.parent, mode)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_folder(folder.parent)


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace *path* by *content* in one step: readers see the old file or the new one, also after a crash."""
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            reach("write")
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            reach("sync")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        reach("rename")
        staged.replace(path)
    except OSError:
        staged.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_tree_folders(folder: Path) -> None:
    """Make the entries of *folder* and of every folder in it durable, the deepest first; files were synced as written."""
    for where, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(where))


def publish(staged: Path, target: Path) -> None:
    """Move the synced folder *staged* to *target* in one step and make that durable.

    A crash before the rename leaves *staged* alone, a crash after it leaves *target* complete.
    """
    make_folder(target.parent)
    reach("publish")
    staged.rename(target)
    reach("published")
    sync_folder(target.parent)
    sync_folder(staged.parent)


def remove_tree(folder: Path) -> None:
    """Remove *folder* and all in it; an absent one is fine, anything else that fails is raised."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
