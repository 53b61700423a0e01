"""Durable writes: stage, sync, publish.

Everything that must survive a crash is written here, so tests plant their faults here: the function in ``FAULTS`` under the
name of a step is called when the step is reached (it raises ``OSError`` for a full disk or kills the process for a crash). The
environment variable ``REFBACKUP_FAULT=step:kill`` or ``step:full`` (or ``step@n:kill`` for the n-th time) plants one in a
child process.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import folders

_SYNC_FILE_RANGE_WRITE = 2
WRITEBACK_BYTES = 16 << 20
"""Bytes to write between two calls of `begin_writeback`."""

FAULTS: dict[str, Callable[[], None]] = {}
_reached: dict[str, int] = {}


def reach(step: str) -> None:
    """Mark a step at which a crash or a full disk matters; does nothing unless a test planted a fault there."""
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
    """Ask the kernel to start writing a range of bytes to disk, so that a later ``fsync`` waits for less.

    Only a hint (``sync_file_range(2)``, Linux); it makes nothing durable.
    """
    if folders.SYNC_FILE_RANGE is not None:
        folders.SYNC_FILE_RANGE(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def sync_folder(folder: Path) -> None:
    """Make the entries of *folder* durable: created and renamed files are not before their folder is synced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Create *folder* and its missing parents durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent, mode)
    folder.mkdir(mode=mode, exist_ok=True)
    sync_folder(folder.parent)


def write_file(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write *content* to *path* in one step: readers see the old file or the new one, after a crash too.

    A crash may leave a hidden ``.tmp`` file beside it.
    """
    with _staged(path, content, mode) as staged:
        staged.replace(path)


def create_file(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Like `write_file`, but if *path* exists, keep it and return False, also if another process creates it meanwhile."""
    with _staged(path, content, mode) as staged:
        try:
            path.hardlink_to(staged)
        except FileExistsError:
            return False
    return True


def move_file(file: Path, path: Path) -> None:
    """Rename a synced file to *path*, on the same disk, durably."""
    reach("rename")
    file.replace(path)
    sync_folder(path.parent)
    sync_folder(file.parent)


@contextmanager
def _staged(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A synced file with *content* beside *path*, for the caller to publish; the folder is synced afterwards."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            write_and_sync(descriptor, content)
        finally:
            os.close(descriptor)
        yield staged
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_and_sync(descriptor: int, content: bytes) -> None:
    """Write a staged file, which the caller then renames."""
    reach("write")
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    reach("sync")
    os.fsync(descriptor)
    reach("rename")


def sync_tree_folders(folder: Path) -> None:
    """Make the entries of *folder* and of the folders in it that can be read durable. Files must be synced already."""
    sync_folder(folder)
    with folders.opened(folder) as root:
        for path, status in folders.below(folder):
            if stat.S_ISDIR(status.st_mode):
                with contextlib.suppress(PermissionError), folders.opened(path, root) as descriptor:
                    os.fsync(descriptor)


def publish(staged: Path, target: Path) -> None:
    """Rename the synced folder *staged* to *target* durably.

    A crash leaves either *staged* or the complete *target*.
    """
    make_folder(target.parent)
    reach("publish")
    staged.rename(target)
    reach("published")
    sync_folder(target.parent)
    sync_folder(staged.parent)


def remove_tree(folder: Path) -> None:
    """Remove *folder* with its content. It may be missing; raises ``OSError`` for any other failure (`folders.remove`)."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        folders.remove(folder)
