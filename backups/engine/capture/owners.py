"""Which processes have a file open. Linux only; elsewhere none are found."""

import contextlib
import errno
import fcntl
import os
import signal
from pathlib import Path

_F_SETSIG = 10


def owners(path: Path, *, parent: bool = False) -> str:
    """The processes that have *path* open: ``"process 123 (gunicorn), process 456 (python3)"``; may be empty.

    Without this process, and without its parent, which for a child of the engine is the engine, unless *parent* is true.
    """
    try:
        wanted = path.stat()
    except OSError:
        return ""
    own = {os.getpid()} if parent else {os.getpid(), os.getppid()}
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        if int(process.name) in own:
            continue
        if _has_open(process, wanted):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                continue
            found.append(f"process {process.name} ({name})")
    return ", ".join(found)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            open_file = descriptor.stat()
        except OSError:
            continue
        if (open_file.st_dev, open_file.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def is_open_elsewhere(path: Path) -> bool | None:
    """Whether any process has *path* open, also of another user or in another container; None if nobody can say.

    This process must not have it open: its POSIX locks on the file would be lost. The kernel grants a write lease on a file
    only while no other descriptor of it exists (fcntl(2), "Leases"): to its owner and to root, on local file systems. It is
    given back at once; an open in that moment waits for that. Elsewhere, a lock of another process on it or its logs is proof.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        # the default signal, sent when another process opens the file, would end this one; this one is ignored by default
        fcntl.fcntl(descriptor, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as problem:
        return True if problem.errno in (errno.EAGAIN, errno.EBUSY) else _is_locked(path) or None
    finally:
        os.close(descriptor)
    return False


def sees_all_processes() -> bool:
    """Whether this user sees the open files of every process, as `owners` needs to."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            list((process / "fd").iterdir())
        except PermissionError:
            return False
        except OSError:
            continue
    return True


def _is_locked(path: Path) -> bool:
    """Whether any process has a lock on a database or its logs (proc(5), ``/proc/locks``, which shows those of all users)."""
    files = set()
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            status = path.with_name(path.name + suffix).stat()
            files.add(f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}")
    try:
        lines = Path("/proc/locks").read_text("ascii", "replace").splitlines()
    except OSError:
        return False
    return any(files.intersection(line.split()) for line in lines)
