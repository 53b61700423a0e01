"""File locks: the kernel's ``flock(2)``, so that the locks of a process that dies are gone.

They exclude other processes and other descriptors of this one, across hosts too if the file system passes them on.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FIRST_PAUSE = 0.0005
_LONGEST_PAUSE = 0.01


def acquire(descriptor: int, *, shared: bool = False, wait: float = 0.0) -> bool:
    """Lock an open file until it is closed. False if another holder kept it for more than *wait* seconds."""
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + wait
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        else:
            return True


def acquire_folder(descriptor: int, *, shared: bool = False, wait: float = 0.0) -> bool | None:
    """Like `acquire` for an open folder. None on a file system that cannot lock folders, such as NFS."""
    try:
        return acquire(descriptor, shared=shared, wait=wait)
    except OSError as problem:
        if problem.errno in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP):
            return None
        raise


@contextmanager
def exclusive(path: Path, wait: float = 0.0) -> Iterator[bool]:
    """Within the context, hold the lock file *path*, which is created if missing. Yields whether the lock was acquired."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield acquire(descriptor, wait=wait)
    finally:
        os.close(descriptor)
