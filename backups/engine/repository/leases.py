"""Who may write to a repository, and who reads from it.

Two files in the repository, each locked as a whole (`runtime.locks`):

========= ======================================= =============================================
file      shared                                  exclusive
========= ======================================= =============================================
writer    -                                       create, hold, delete, prune: one at a time
readers   restore, verify, every other reader     delete and prune, which remove backups
========= ======================================= =============================================
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import NO_SPACE, RepositoryLocked
from ..runtime import locks


@contextmanager
def writing(folder: Path, what: str, since: str, wait: float = 0.0) -> Iterator[None]:
    """Be the only writer of the repository in *folder*. Raises `RepositoryLocked` after *wait* seconds."""
    path = folder / "writer"
    with locks.exclusive(path, wait) as acquired:
        if not acquired:
            raise RepositoryLocked(f"The repository {folder} is being written to by {_writer(path)}.")
        _label(path, json.dumps({"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
        _label(path, "")


def _label(path: Path, text: str) -> None:
    """Say in the locked file who holds it. On a full disk nobody learns it: what frees space must not need any."""
    try:
        path.write_text(text)
    except OSError as problem:
        if problem.errno not in NO_SPACE:
            raise


def _writer(path: Path) -> str:
    try:
        writer = json.loads(path.read_text())
        return f"{writer['what']} (process {writer['pid']} on {writer['host']}, since {writer['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"


@contextmanager
def reading(folder: Path, wait: float = 30.0) -> Iterator[None]:
    """Keep backups from being removed while they are read. Raises `RepositoryLocked` after *wait* seconds.

    A reader without write permission, or on read-only media, locks the file if it exists; a repository without one has never
    been locked.
    """
    with contextlib.ExitStack() as stack:
        descriptor = _open_readers(folder / "readers")
        if descriptor is not None:
            stack.callback(os.close, descriptor)
            if not locks.acquire(descriptor, shared=True, wait=wait):
                raise RepositoryLocked(f"Backups are being removed from the repository {folder}.")
        yield


def _open_readers(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        if problem.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


@contextmanager
def removing(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Remove backups while none is read. Raises `RepositoryLocked` after *wait* seconds."""
    with locks.exclusive(folder / "readers", wait) as acquired:
        if not acquired:
            raise RepositoryLocked(f"A restore or a verification is reading from the repository {folder}.")
        yield
