"""Write the files of a backup into a folder: each block read once, checked against its hash, written to its place."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from .archive.blocks import BLOCK
from .archive.reader import Archives
from .archive.table import Entry, FrameRef, Kind, Tree
from .context import Phase
from .durable import reach

_UNIT: Final = 4
_AHEAD: Final = 32


def extract(
    archives: Archives,
    tree: Tree,
    target: Path,
    phase: Phase,
    *,
    wanted: Callable[[str], bool] = lambda path: True,
    sync: bool = True,
) -> int:
    """Write the entries of *tree* whose path is *wanted* into the new folder *target*; return the number of bytes.

    Modes and modification times are restored. With *sync* all is durable on return. Raises `BlockDamaged` at the first
    block that is not what was stored, `Cancelled` and ``OSError``; *target* is then incomplete and the caller's to remove.
    """
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    chosen = [entry for path, entry in tree.entries.items() if wanted(path)]
    for entry in chosen:
        place = target / entry.path
        if entry.kind is Kind.FOLDER:
            place.mkdir(mode=0o700, parents=True)
        elif entry.kind is Kind.LINK:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.symlink_to(entry.target)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        pending: deque[Future[int]] = deque()
        try:
            for entry in chosen:
                if entry.kind is Kind.FILE:
                    _write_file(archives, tree, entry, target / entry.path, threads, pending, phase, sync)
            while pending:
                phase.advance(pending.popleft().result())
        except BaseException:
            for left in pending:
                left.cancel()
            raise
    folders = [entry for entry in chosen if entry.kind is Kind.FOLDER]
    for entry in reversed(folders):
        place = target / entry.path
        place.chmod(entry.mode & 0o777)
        os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))
    return sum(entry.size for entry in chosen)


def _write_file(
    archives: Archives,
    tree: Tree,
    entry: Entry,
    place: Path,
    threads: ThreadPoolExecutor,
    pending: deque[Future[int]],
    phase: Phase,
    sync: bool,
) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    units = max(1, -(-len(entry.blocks) // _UNIT))
    file = _OpenFile(place, entry, units, sync)
    for first in range(0, units * _UNIT, _UNIT):
        refs = [FrameRef(tree.backups[packed >> 32], packed & 0xFFFFFFFF) for packed in entry.blocks[first : first + _UNIT]]
        pending.append(threads.submit(_write_unit, archives, file, first, refs))
        if len(pending) >= _AHEAD:
            phase.advance(pending.popleft().result())


def _write_unit(archives: Archives, file: _OpenFile, first: int, refs: list[FrameRef]) -> int:
    written = 0
    try:
        for number, ref in enumerate(refs, start=first):
            content = archives.read(ref)
            reach("restore-write")
            os.pwrite(file.descriptor, content, number * BLOCK)
            written += len(content)
    finally:
        file.done()
    return written


class _OpenFile:
    """A file being written by several threads; finished by whichever ends last."""

    def __init__(self, place: Path, entry: Entry, units: int, sync: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(place, flags, 0o600)
        os.ftruncate(self.descriptor, entry.size)
        self._entry = entry
        self._units = units
        self._sync = sync
        self._lock = threading.Lock()

    def done(self) -> None:
        """Count a unit; after the last set mode and time, sync and close."""
        with self._lock:
            self._units -= 1
            if self._units:
                return
        try:
            os.fchmod(self.descriptor, self._entry.mode & 0o777)
            os.utime(self.descriptor, ns=(self._entry.mtime_ns, self._entry.mtime_ns))
            if self._sync:
                os.fsync(self.descriptor)
        finally:
            os.close(self.descriptor)
