"""Writes the files of a backup into a folder. Each block is read once and checked against its hash."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from .archive.blocks import BLOCK
from .archive.reader import Archives, BlockDamaged
from .archive.table import Entry, EntryType, FrameRef, Tree
from .errors import DamageFound
from .runtime.context import Phase
from .runtime.durable import WRITEBACK_BYTES, begin_writeback, reach
from .runtime.threads import pool, run_ahead

_UNIT: Final = 4
_AHEAD: Final = 32
_WRITEBACK: Final = WRITEBACK_BYTES // BLOCK


@dataclass(frozen=True, slots=True)
class Lost:
    """A block that could not be read: *bytes* at *offset* of the backup's file *path*, and the reason."""

    path: str
    offset: int
    bytes: int
    message: str


def extract(
    archives: Archives,
    tree: Tree,
    target: Path,
    phase: Phase,
    *,
    wanted: Callable[[str], bool] = lambda path: True,
    sync: bool = True,
    lost: Callable[[Lost], None] | None = None,
) -> int:
    """Write the entries of *tree* whose path is *wanted* into the new folder *target*; return the number of bytes.

    Modes and modification times are restored. With *sync*, the files are durable on return. Raises `BlockDamaged` at the first
    damaged block, `Cancelled` and ``OSError``; the caller then removes *target*. With *lost*, damaged blocks are passed to it,
    from any thread, and become zeros.
    """
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    chosen = [entry for path, entry in tree.entries.items() if wanted(path)]
    for entry in chosen:
        place = target / entry.path
        if entry.kind is EntryType.FOLDER:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif entry.kind is EntryType.LINK:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.symlink_to(entry.target)
    opened: list[_OpenFile] = []

    def units() -> Iterator[Callable[[], int]]:
        for entry in chosen:
            if entry.kind is EntryType.FILE:
                opened[:] = [file for file in opened if not file.closed]
                file = _OpenFile(target / entry.path, entry, sync, lost)
                opened.append(file)
                for first in range(0, file.units * _UNIT, _UNIT):
                    refs = [tree.ref(packed) for packed in entry.blocks[first : first + _UNIT]]
                    yield partial(_write_unit, archives, file, first, refs)

    try:
        with pool() as threads:
            for written in run_ahead(threads, units(), _AHEAD):
                phase.advance(written)
    finally:
        for file in opened:
            file.close()
    folders = [entry for entry in chosen if entry.kind is EntryType.FOLDER]
    for entry in reversed(folders):
        place = target / entry.path
        place.chmod(entry.mode & 0o777)
        os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))
    return sum(entry.size for entry in chosen)


def _write_unit(archives: Archives, file: _OpenFile, first: int, refs: list[FrameRef]) -> int:
    written = 0
    try:
        for number, ref in enumerate(refs, start=first):
            try:
                content = _read_block(archives, file, number, ref)
            except DamageFound as damage:
                if file.lost is None:
                    raise
                file.lost(Lost(file.path, number * BLOCK, file.block_size(number), damage.message))
                continue
            reach("restore-write")
            _write_at(file.descriptor, content, number * BLOCK)
            written += len(content)
        if file.sync and first % _WRITEBACK == 0:
            begin_writeback(file.descriptor, max(0, first - _WRITEBACK) * BLOCK, _WRITEBACK * BLOCK)
    finally:
        file.done()
    return written


def _read_block(archives: Archives, file: _OpenFile, number: int, ref: FrameRef) -> bytes:
    content = archives.read(ref)
    if len(content) != file.block_size(number):
        offset = archives.frame(ref).offset
        raise BlockDamaged(f"A block of {file.path} has the wrong size", backup=ref.backup, offset=offset)
    return content


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    """Write all of *content*; ``pwrite`` may write only part of it on a nearly full disk."""
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


class _OpenFile:
    """A file written by several threads in units of blocks; the last one closes it."""

    def __init__(self, place: Path, entry: Entry, sync: bool, lost: Callable[[Lost], None] | None) -> None:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.path = entry.path
        self.lost = lost
        self.units = max(1, -(-len(entry.blocks) // _UNIT))
        self.closed = False
        self.descriptor = os.open(place, flags, 0o600)
        self._entry = entry
        self._left = self.units
        self.sync = sync
        self._lock = threading.Lock()

    def block_size(self, number: int) -> int:
        """The bytes of block *number*."""
        return min(BLOCK, self._entry.size - number * BLOCK)

    def done(self) -> None:
        """Count a written unit; after the last one, set mode and time, sync and close."""
        with self._lock:
            self._left -= 1
            if self._left:
                return
        try:
            if self.lost is not None:
                os.ftruncate(self.descriptor, self._entry.size)  # the last block may be lost
            os.fchmod(self.descriptor, self._entry.mode & 0o777)
            os.utime(self.descriptor, ns=(self._entry.mtime_ns, self._entry.mtime_ns))
            if self.sync:
                os.fsync(self.descriptor)
        finally:
            self.close()

    def close(self) -> None:
        """Close the descriptor; no thread may be writing."""
        if not self.closed:
            self.closed = True
            os.close(self.descriptor)
