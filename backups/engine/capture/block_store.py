"""Stores the blocks of files: reads and hashes with all cores, and compresses what the parent backup does not have."""

from __future__ import annotations

import errno
import os
import threading
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..archive.blocks import BLOCK, MAX_DEPTH, ZEROS_DIGEST, ZEROS_FRAME, compress, compress_delta, digest
from ..archive.reader import Archives
from ..archive.table import Entry, EntryType, FrameRef, Tree
from ..archive.writer import ArchiveWriter
from ..errors import EngineError
from ..runtime.threads import run_ahead

_UNIT: Final = 4
"""Blocks that a thread reads and hashes at once."""

_AHEAD: Final = 8
"""Units that are worked on ahead of the one being stored."""


class ReadFailed(OSError):
    """What is being backed up cannot be read, as opposed to an error of the repository."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A hashed block: one that an archive holds already (``stored_as``, a packed reference), or one to be stored."""

    stored_as: int | None
    hashed: bytes = b""
    frame: bytes = b""
    raw: int = 0
    base: FrameRef | None = None
    depth: int = 0


class BlockStore:
    """Adds blocks to *writer*, with packed references in terms of *tree*.

    *archives* reads the parent's blocks, None without a parent. *count* is called with numbers of bytes, from several threads.
    """

    def __init__(
        self,
        writer: ArchiveWriter,
        tree: Tree,
        archives: Archives | None,
        threads: ThreadPoolExecutor,
        count: Callable[[int], None],
    ) -> None:
        self._writer = writer
        self._tree = tree
        self._archives = archives
        self._threads = threads
        self._count = count
        self._own = tree.ordinal(writer.table.owner)
        self._moved: dict[bytes, int] = {}
        self._buffers = threading.local()
        self._ended_early = False

    def find_moved(self, parent: Tree | None, prefix: str, present: set[str]) -> None:
        """Index the blocks of *parent*'s files below *prefix* that are not *present*: they may return under another name."""
        self._moved.clear()
        if parent is None or self._archives is None:
            return
        for path, entry in parent.entries.items():
            if path.startswith(prefix + "/") and path not in present:
                for packed in entry.blocks:
                    ref = parent.ref(packed)
                    self._moved[self._archives.frames(ref.backup).digest(ref.frame)] = packed

    def store(self, descriptor: int, entry: Entry, before: Entry | None) -> bool:
        """Read the ``entry.size`` bytes of *descriptor*, store new blocks in order, and fill ``entry.blocks``.

        *before* is the same file in the parent. Returns False if the file ended before its size: zeros were stored for the
        rest. Raises `ReadFailed`.
        """
        self._ended_early = False
        prior = before.blocks if before is not None and before.kind is EntryType.FILE else array("Q")
        for unit in self._units(descriptor, entry.size, prior):
            for block in unit:
                if block.stored_as is not None:
                    entry.blocks.append(block.stored_as)
                else:
                    number = self._writer.add_block(block.hashed, block.frame, block.raw, block.base, block.depth)
                    entry.blocks.append(self._own << 32 | number)
        return not self._ended_early

    def _units(self, descriptor: int, size: int, prior: array[int]) -> Iterator[list[_Block]]:
        sparse = os.fstat(descriptor).st_blocks * 512 < size
        units = (partial(self._unit, descriptor, first, size, prior, sparse) for first in range(0, -(-size // BLOCK), _UNIT))
        return run_ahead(self._threads, units, _AHEAD)

    def _unit(self, descriptor: int, first: int, size: int, prior: array[int], sparse: bool) -> list[_Block]:
        start = first * BLOCK
        length = min(_UNIT * BLOCK, size - start)
        if sparse and length == _UNIT * BLOCK and _is_hole(descriptor, start, length):
            self._count(length)
            return [self._hole(prior[number] if number < len(prior) else None) for number in range(first, first + _UNIT)]
        view = self._buffer()[:length]
        read = 0
        while read < length:
            try:
                got = os.preadv(descriptor, [view[read:]], start + read)
            except OSError as problem:
                raise ReadFailed(problem.errno, problem.strerror) from problem
            if not got:
                view[read:] = bytes(length - read)
                self._ended_early = True
                break
            read += got
        blocks = [
            self._block(view[at : at + BLOCK], prior[number] if number < len(prior) else None)
            for number, at in enumerate(range(0, length, BLOCK), start=first)
        ]
        self._count(length)
        return blocks

    def _buffer(self) -> memoryview:
        """A buffer of the calling thread, used again and again: allocating memory costs as much as reading into it."""
        if not hasattr(self._buffers, "view"):
            self._buffers.view = memoryview(bytearray(_UNIT * BLOCK))
        view: memoryview = self._buffers.view
        return view

    def _block(self, view: memoryview, prior: int | None) -> _Block:
        hashed = digest(view)
        if prior is not None and self._stored_digest(prior) == hashed:
            return _Block(prior)
        if hashed in self._moved:
            return _Block(self._moved[hashed])
        if prior is not None:
            delta = self._delta(view, prior)
            if delta is not None:
                return _Block(None, hashed, delta[0], len(view), delta[1], delta[2])
        return _Block(None, hashed, compress(view), len(view))

    def _hole(self, prior: int | None) -> _Block:
        if prior is not None and self._stored_digest(prior) == ZEROS_DIGEST:
            return _Block(prior)
        return _Block(None, ZEROS_DIGEST, ZEROS_FRAME, BLOCK)

    def _stored_digest(self, packed: int) -> bytes:
        assert self._archives is not None
        ref = self._tree.ref(packed)
        return self._archives.frames(ref.backup).digest(ref.frame)

    def _delta(self, content: memoryview, prior: int) -> tuple[bytes, FrameRef, int] | None:
        """*content* as a delta of the block *prior*, with its base and depth; None where a plain frame is smaller.

        Where the chain would grow too deep, the base is the plain frame at its root.
        """
        assert self._archives is not None
        ref = self._tree.ref(prior)
        try:
            depth = self._archives.frame(ref).depth
            if depth >= MAX_DEPTH:
                while (base := self._archives.frame(ref).base) is not None:
                    ref = base
                depth = 0
            delta = compress_delta(content, self._archives.read(ref))
        except EngineError:
            return None  # the parent's block is damaged, so this one is stored whole
        if len(delta) > len(content) // 4 and len(compress(content)) <= len(delta):
            return None
        return delta, ref, depth + 1


def _is_hole(descriptor: int, start: int, length: int) -> bool:
    """Whether there is no data in a range of a file (lseek(2)). A file system without holes reports none."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) >= start + length
    except OSError as problem:
        return problem.errno == errno.ENXIO  # no data up to the end
