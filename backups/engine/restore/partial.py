"""The folder in which a restore into a folder writes, until it is complete and renamed to the target.

A running restore keeps its folder locked. One that no process has locked was left by a restore that was killed: the next
restore into the same folder around, and the clearing up after a killed job, remove it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..runtime import durable, locks

PARTIAL = ".refbackup-partial."
"""How names of these folders begin."""

_TRIES = 100
_WAIT = 5.0


@contextmanager
def partial_folder(around: Path, token: Callable[[], str]) -> Iterator[Path]:
    """A new locked folder in the folder *around*, which is removed at the end unless it was renamed."""
    folder, descriptor = _make(around, token)
    try:
        yield folder
    finally:
        try:
            durable.remove_tree(folder)
        finally:
            os.close(descriptor)


def _make(around: Path, token: Callable[[], str]) -> tuple[Path, int]:
    for _ in range(_TRIES):
        folder = around / f"{PARTIAL}{token()}"
        try:
            folder.mkdir(mode=0o700)
            descriptor = _open(folder)
        except (FileExistsError, FileNotFoundError):
            continue
        with ExitStack() as undone:
            undone.callback(os.close, descriptor)
            locked = locks.acquire_folder(descriptor, wait=_WAIT)
            if locked is not False and _is_at(folder, descriptor):  # else another restore takes it for abandoned
                undone.pop_all()
                return folder, descriptor
    raise FileExistsError(f"{around} has a folder of every name that was tried")


def clear_partials(around: Path, log: Callable[[str], None]) -> None:
    """Remove from the folder *around* what killed restores left there, as far as possible.

    On a file system that cannot lock folders, everything stays, since nobody can say what is in use.
    """
    for folder in sorted(around.glob(f"{PARTIAL}*")):
        try:
            descriptor = _open(folder)
        except OSError:
            continue
        try:
            if locks.acquire_folder(descriptor):
                durable.remove_tree(folder)
                log(f"Removed {folder}, which a killed restore left.")
        except OSError as problem:
            log(f"{folder}, which a killed restore left, cannot be removed: {problem.strerror or problem}")
        finally:
            os.close(descriptor)


def _is_at(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
