"""Writes the files of a backup into a folder. Each block is read once and checked against its hash."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from .archive.blocks import BLOCK, ZEROS, ZEROS_DIGEST
from .archive.locate import BlockDamaged
from .archive.reader import Archives
from .archive.table import Entry, EntryType, FrameRef, Tree
from .errors import DamageFound
from .runtime import folders
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
    modes: int = 0o777,
) -> int:
    """Write the entries of *tree* whose path is *wanted* into the new folder *target*; return the number of bytes.

    Modification times are restored, and the bits *modes* of the modes; blocks of zeros become holes. With *sync*, files and
    folders are durable on return. Raises `BlockDamaged` at the first damaged block, `Cancelled` and ``OSError``; the caller
    then removes *target*. With *lost*, damaged blocks are passed to it, from any thread, and become zeros.
    """
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    chosen = [entry for path, entry in tree.entries.items() if wanted(path)]
    with folders.opened(target) as root:
        made = _make_folders(root, chosen)
        for entry in chosen:
            if entry.kind is EntryType.LINK:
                os.symlink(entry.target, entry.path, dir_fd=root)
        files = [entry for entry in chosen if entry.kind is EntryType.FILE]
        _write_files(archives, tree, files, root, phase, sync, lost, modes)
        entries = {entry.path: entry for entry in chosen if entry.kind is EntryType.FOLDER}
        for path in sorted(made, reverse=True):  # what is in a folder before the folder
            _finish_folder(path, entries.get(path), root, sync, modes)
        if sync:
            os.fsync(root)
    return sum(entry.size for entry in chosen)


def data_bytes(archives: Archives, tree: Tree, wanted: Callable[[str], bool]) -> int:
    """The bytes that `extract` allocates for the files that are *wanted*: their sizes without blocks of zeros."""
    total = 0
    for path, entry in tree.entries.items():
        if wanted(path):
            total += entry.size
            for ref in tree.refs(entry) if entry.size >= BLOCK else ():
                with contextlib.suppress(DamageFound):
                    if archives.frames(ref.backup).digest(ref.frame) == ZEROS_DIGEST:
                        total -= BLOCK
    return total


def _make_folders(root: int, chosen: list[Entry]) -> set[str]:
    """Create the folders among *chosen* and the parents of the others; returns their paths."""
    made: set[str] = set()
    for entry in chosen:
        path = entry.path if entry.kind is EntryType.FOLDER else entry.path.rpartition("/")[0]
        missing = []
        while path and path not in made:
            missing.append(path)
            path = path.rpartition("/")[0]
        for above in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(above, 0o700, dir_fd=root)
        made.update(missing)
    return made


def _finish_folder(path: str, entry: Entry | None, root: int, sync: bool, modes: int) -> None:
    """Give a folder its mode and time, and make it durable. Without an *entry*, it has none."""
    with folders.opened(path, root) as descriptor:
        if entry is not None:
            os.fchmod(descriptor, entry.mode & modes)
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        if sync:
            os.fsync(descriptor)


def _write_files(
    archives: Archives,
    tree: Tree,
    entries: list[Entry],
    root: int,
    phase: Phase,
    sync: bool,
    lost: Callable[[Lost], None] | None,
    modes: int,
) -> None:
    opened: list[_OpenFile] = []

    def units() -> Iterator[Callable[[], int]]:
        for entry in entries:
            opened[:] = [file for file in opened if not file.closed]
            file = _OpenFile(root, entry, sync, lost, modes)
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
            if content is not ZEROS:
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

    def __init__(self, root: int, entry: Entry, sync: bool, lost: Callable[[Lost], None] | None, modes: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.path = entry.path
        self.lost = lost
        self.units = max(1, -(-len(entry.blocks) // _UNIT))
        self.closed = False
        self.descriptor = os.open(entry.path, flags, 0o600, dir_fd=root)
        self._entry = entry
        self._mode = entry.mode & modes
        self._left = self.units
        self.sync = sync
        self._lock = threading.Lock()
        try:
            os.ftruncate(self.descriptor, entry.size)  # what is not written stays a hole
        except BaseException:
            self.close()
            raise

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
            os.fchmod(self.descriptor, self._mode)
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
