"""Who may write to a repository, and who reads from it.

Files in the repository, each locked as a whole (`runtime.locks`):

========= ======================================= =============================================
file      shared                                  exclusive
========= ======================================= =============================================
writer    -                                       create, hold, delete, prune: one at a time
readers   restore, verify, every other reader     delete and prune, which remove backups
journal   -                                       the next line of a journal (`evidence`)
copying   -                                       copies into the repository: one at a time
========= ======================================= =============================================
"""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import NO_SPACE, RepositoryLocked
from ..runtime import locks
from ..runtime.enclosure import Enclosure

_MOST_LABEL = 4096


@contextmanager
def writing(folder: Enclosure, what: str, since: str, wait: float = 0.0) -> Iterator[None]:
    """Be the only writer of the repository in *folder*. Raises `RepositoryLocked` after *wait* seconds."""
    with _locked(folder, "writer", wait) as descriptor:
        if descriptor is None:
            raise RepositoryLocked(f"The repository {folder.root} is being written to by {_writer(folder)}.")
        _label(descriptor, json.dumps({"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
        _label(descriptor, "")


@contextmanager
def _locked(folder: Enclosure, name: str, wait: float) -> Iterator[int | None]:
    """The exclusively locked file *name*, or None if another holder kept it for more than *wait* seconds."""
    descriptor = folder.open_lock(name)
    try:
        yield descriptor if locks.acquire(descriptor, wait=wait) else None
    finally:
        os.close(descriptor)


def _label(descriptor: int, text: str) -> None:
    """Say in the locked file who holds it. On a full disk nobody learns it: what frees space must not need any."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as problem:
        if problem.errno not in NO_SPACE:
            raise


def _writer(folder: Enclosure) -> str:
    try:
        writer = json.loads(folder.read("writer", _MOST_LABEL))
        return f"{writer['what']} (process {writer['pid']} on {writer['host']}, since {writer['since']})"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


@contextmanager
def reading(folder: Enclosure, wait: float = 30.0) -> Iterator[None]:
    """Keep backups from being removed while they are read. Raises `RepositoryLocked` after *wait* seconds.

    A reader without write permission, or on read-only media, locks the file if it exists; a repository without one has never
    been locked.
    """
    with contextlib.ExitStack() as stack:
        descriptor = _open_readers(folder)
        if descriptor is not None:
            stack.callback(os.close, descriptor)
            if not locks.acquire(descriptor, shared=True, wait=wait):
                raise RepositoryLocked(f"Backups are being removed from the repository {folder.root}.")
        yield


def _open_readers(folder: Enclosure) -> int | None:
    try:
        return folder.open_lock("readers")
    except OSError as problem:
        if problem.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        return folder.open_file("readers")
    except FileNotFoundError:
        return None


@contextmanager
def removing(folder: Enclosure, wait: float = 0.0) -> Iterator[None]:
    """Remove backups while none is read. Raises `RepositoryLocked` after *wait* seconds."""
    with _locked(folder, "readers", wait) as descriptor:
        if descriptor is None:
            raise RepositoryLocked(f"A restore or a verification is reading from the repository {folder.root}.")
        yield


@contextmanager
def journalling(folder: Enclosure, wait: float = 30.0) -> Iterator[None]:
    """Be the only one who continues a journal. Raises `RepositoryLocked` after *wait* seconds."""
    with _locked(folder, "journal", wait) as descriptor:
        if descriptor is None:
            raise RepositoryLocked(f"Another process writes a journal of the repository {folder.root}.")
        yield


@contextmanager
def receiving(folder: Enclosure, wait: float = 0.0) -> Iterator[None]:
    """Be the only one that copies into the repository. Raises `RepositoryLocked` after *wait* seconds."""
    with _locked(folder, "copying", wait) as descriptor:
        if descriptor is None:
            raise RepositoryLocked(f"Another process is copying backups into the repository {folder.root}.")
        yield
