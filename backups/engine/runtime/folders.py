"""Folders of any depth, walked without recursion and through descriptors.

System calls refuse a path of ``PATH_MAX`` (4,096) bytes or more (path_resolution(7)), but files can be nested deeper: they are
reached from the descriptor of a folder above them.
"""

import ctypes
import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LIBRARY: Final = ctypes.CDLL(None, use_errno=True)
SYNC_FILE_RANGE: Final = getattr(_LIBRARY, "sync_file_range", None)
_WRITE_AND_WAIT: Final = 1 | 2 | 4
_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_STEP: Final = 500
"""Characters in one step towards a folder; each takes at most four bytes."""
_OPENAT2: Final = 437 if sys.platform == "linux" else None
"""The number of openat2(2) since Linux 5.6, on every architecture."""
_NO_SYMLINKS: Final = 4


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW: Final = ctypes.byref(_How(_FLAGS, 0, _NO_SYMLINKS))
_SYSCALL: Final = _LIBRARY.syscall
_SYSCALL.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t)
_SYSCALL.restype = ctypes.c_long


@contextmanager
def opened(path: str | Path, root: int | None = None) -> Iterator[int]:
    """A descriptor of the folder *path* while the context lasts (`open_folder`)."""
    descriptor = open_folder(path, root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_folder(path: str | Path, root: int | None = None) -> int:
    """A new descriptor of the folder *path*, which starts at the descriptor *root*.

    No component after *root* may be a link: it raises ``NotADirectoryError``, as a file does.
    """
    if root is None:
        return os.open(path, _FLAGS & ~os.O_NOFOLLOW)
    descriptor = os.dup(root)
    left = str(path)
    while left:
        step = left if len(left) <= _STEP else left[: left.rindex("/", 0, _STEP)]
        left = left[len(step) + 1 :]
        above = descriptor
        try:
            descriptor = _step(step, above)
        finally:
            os.close(above)
    return descriptor


def _step(path: str, above: int) -> int:
    if "/" not in path:
        return os.open(path, _FLAGS, dir_fd=above)
    descriptor = _openat2(path, above)
    if descriptor is None:
        first, _, rest = path.partition("/")
        between = os.open(first, _FLAGS, dir_fd=above)
        try:
            descriptor = _step(rest, between)
        finally:
            os.close(between)
    return descriptor


def _openat2(path: str, above: int) -> int | None:
    """All of `_step` in one call; None if the kernel does not know it, or a filter forbids it."""
    if _OPENAT2 is None:
        return None
    found: int = _SYSCALL(_OPENAT2, above, os.fsencode(path), _HOW, ctypes.sizeof(_How))
    if found >= 0:
        return found
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EPERM):
        return None
    code = errno.ENOTDIR if code == errno.ELOOP else code
    raise OSError(code, os.strerror(code), path)


def below(folder: Path, *, strict: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below *folder*, each folder before its content: relative path and status.

    Skips what vanishes meanwhile and, unless *strict*, what cannot be read. Raises ``OSError`` otherwise.
    """
    with opened(folder) as root:
        pending = [""]
        while pending:
            path = pending.pop()
            try:
                with opened(path, root) as descriptor:
                    entries = sorted(os.scandir(descriptor), key=lambda entry: entry.name)
                    found = [(f"{path}/{entry.name}" if path else entry.name, _status(entry, strict)) for entry in entries]
            except OSError as problem:
                if strict and not isinstance(problem, FileNotFoundError):
                    raise
                continue
            for inside, status in found:
                if status is not None:
                    yield inside, status
            pending.extend(inside for inside, status in reversed(found) if status is not None and stat.S_ISDIR(status.st_mode))


def _status(entry: os.DirEntry[str], strict: bool) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except OSError as problem:
        if strict and not isinstance(problem, FileNotFoundError):
            raise
        return None


def write_mapped_pages(descriptor: int) -> None:
    """Write the pages of a file to disk that are not there yet, so that its times show the next change.

    A store into a mapped page sets the file's times only if the page was clean (mmap(2)): until the kernel writes it, half a
    minute later, further stores leave no trace. An error is ignored here: reading the file shows it, or it does not matter.
    """
    if SYNC_FILE_RANGE is not None:
        SYNC_FILE_RANGE(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE_AND_WAIT)


def remove(folder: str | Path, at: int | None = None) -> None:
    """Remove *folder* with its content; it must be a folder, in the folder with the descriptor *at* if that is given.

    Folders that their owner may not write to are made writable first. Raises ``OSError``, also for a mount point: what is
    mounted below *folder* stays as it is.
    """
    _make_writable(str(folder), at)
    with opened(folder, at) as root:
        mount = _mount(root)
        pending, emptied, moved = [""], [], 0
        while pending:
            path = pending.pop()
            emptied.append(path)
            if path:
                _make_writable(path, root)
            with opened(path, root) as descriptor:
                if _mount(descriptor) != mount:
                    raise OSError(errno.EBUSY, "a file system is mounted there; it was not touched", f"{folder}/{path}")
                for entry in list(os.scandir(descriptor)):
                    if not entry.is_dir(follow_symlinks=False):
                        os.unlink(entry.name, dir_fd=descriptor)
                        continue
                    inside = f"{path}/{entry.name}" if path else entry.name
                    if len(inside) > _STEP:  # out of the reach of rmdir below, or a long way for it
                        moved += 1
                        inside = f".deep-{moved}"
                        os.chmod(entry.name, 0o700, dir_fd=descriptor)
                        os.rename(entry.name, inside, src_dir_fd=descriptor, dst_dir_fd=root)
                    pending.append(inside)
        for path in reversed(emptied[1:]):
            os.rmdir(path, dir_fd=root)
    os.rmdir(folder, dir_fd=at)


def _make_writable(path: str, root: int | None) -> None:
    status = os.stat(path, dir_fd=root, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o700 != 0o700 and status.st_uid == os.geteuid():
        os.chmod(path, 0o700, dir_fd=root)


def _mount(descriptor: int) -> str:
    """The number of the mount that a descriptor is on (proc(5), ``fdinfo``): a bind mount has the device of its source."""
    with Path(f"/proc/self/fdinfo/{descriptor}").open(encoding="ascii") as file:
        return next((line for line in file if line.startswith("mnt_id:")), "")
