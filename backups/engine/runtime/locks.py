"""Who may write to a repository, and who is reading it: the kernel's ``flock``, so that no dead process holds one.

Two files in the repository, each locked by whole-file ``flock`` (also across hosts where the file system passes it on):

========= ======================================= =============================================
file      shared                                  exclusive
========= ======================================= =============================================
writer    -                                       create, hold, delete, prune: one at a time
readers   restore, verify and whatever reads      delete and prune, which take backups away
========= ======================================= =============================================
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RepositoryLocked


def _holder(path: Path) -> str:
    try:
        known = json.loads(path.read_text())
        return f"{known['what']} (process {known['pid']} on {known['host']}, since {known['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"


@contextmanager
def _flock(path: Path, mode: int, wait: float, refusal: Callable[[], str]) -> Iterator[int]:
    descriptor = _open(path) if mode == fcntl.LOCK_SH else os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if descriptor is None:
        yield -1
        return
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RepositoryLocked(refusal()) from None
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _open(path: Path) -> int | None:
    """The lock file, made where it is not there, for a reader who may not be able to write; None where it cannot be made."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        if problem.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None  # nobody has locked it yet, and whoever cannot make it is not waited for either


@contextmanager
def writing(folder: Path, what: str, since: str, wait: float = 0.0) -> Iterator[None]:
    """Be the only writer of the repository in *folder*. Raises `RepositoryLocked` after *wait* seconds."""
    path = folder / "writer"

    def refusal() -> str:
        return f"The repository {folder} is being written to by {_holder(path)}."

    with _flock(path, fcntl.LOCK_EX, wait, refusal) as descriptor:
        who = {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(who).encode(), 0)
        yield
        os.truncate(descriptor, 0)


@contextmanager
def reading(folder: Path, wait: float = 30.0) -> Iterator[None]:
    """Keep backups from being taken away while they are read. Raises `RepositoryLocked` after *wait* seconds.

    A reader who may not write to the folder, or reads from read-only media, locks what lock file there is.
    """

    def refusal() -> str:
        return f"Backups are being removed from the repository {folder}."

    with _flock(folder / "readers", fcntl.LOCK_SH, wait, refusal):
        yield


@contextmanager
def removing(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Take backups away while nobody reads any. Raises `RepositoryLocked` after *wait* seconds."""

    def refusal() -> str:
        return f"A restore or a verification is reading from the repository {folder}."

    with _flock(folder / "readers", fcntl.LOCK_EX, wait, refusal):
        yield
