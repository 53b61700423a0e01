"""The child that reads: copies Chroma directories, hashes, compares, compresses and writes the staged archive.

It reads live files raw and so holds no connection to any database. Requests, in the order in which `create.py` sends them:

======= ========================================================================= =====================================
do      does                                                                      answer
======= ========================================================================= =====================================
begin   opens the staged archive, reads the parent's tree                         whether the parent can be used
stage   copies Chroma directories ahead of the lock                               -
refresh the same under the lock: only what changed since                          whether anything differs from the parent
pack    reads every source, writes the archive                                    what was written, by source
======= ========================================================================= =====================================
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..archive.blocks import BLOCK, MAX_DEPTH, compress, compress_delta, digest
from ..archive.reader import Archives, locate_in
from ..archive.table import Entry, EntryType, FrameRef, Identity, TableWriter, Tree
from ..archive.writer import ArchiveWriter
from ..chroma_files.tables import DATABASE
from ..errors import DamageFound, EngineError
from ..runtime.child import Server
from .files import Found, walk
from .free_pages import blank_free_pages
from .staging import DirectoryCopy, Seen, identify, is_unchanged

_UNIT: Final = 4
"""Blocks that a thread reads and hashes in one go."""

_TRIES: Final = 3
"""How often a file that changes while it is read is read again."""


@dataclass(slots=True)
class Tally:
    """What was read of one source."""

    bytes: int = 0
    files: int = 0
    read: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Block:
    """A hashed block: found in the parent (``known``), or to be stored."""

    known: int | None
    hashed: bytes = b""
    stored: bytes = b""
    raw: int = 0
    base: FrameRef | None = None
    depth: int = 0


class Packer:
    """The handlers of the requests above."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parent: Tree | None = None
        self._archives: Archives | None = None
        self._copies: dict[str, DirectoryCopy] = {}
        self._seen: dict[str, list[Seen]] = {}
        self._moved: dict[bytes, int] = {}
        self._own_buffers = threading.local()
        self._counting = threading.Lock()
        self._done = 0
        self._told = 0.0

    def begin(self, owner: str, folder: str, set_folder: str, parent: str | None) -> dict[str, Any]:
        """Begin, or begin again without a parent. A damaged parent is an answer, not an error."""
        why = None
        self._parent = None
        if parent is not None:
            try:
                self._archives = Archives(locate_in(Path(set_folder)))
                self._parent = self._archives.tree(parent)
            except DamageFound as damage:
                why, parent = damage.message, None
        self._owner = owner
        self._folder = Path(folder)
        self._table = TableWriter(owner)
        self._parent_id = parent
        self._tree = Tree() if self._parent is None else self._parent.copy()
        self._tree.entries = {}
        return {"usable": why is None, "why": why}

    def stage(self, directories: list[list[str]]) -> None:
        for prefix, live, staged in directories:
            known = {
                path.removeprefix(prefix + "/"): entry
                for path, entry in (self._parent.entries.items() if self._parent is not None else ())
                if path.startswith(prefix + "/")
            }
            self._copies[prefix] = DirectoryCopy(Path(live), Path(staged), known)
        self.refresh()

    def refresh(self) -> dict[str, bool]:
        for prefix, copy in self._copies.items():
            self._seen[prefix] = copy.refresh()
        return {prefix: bool(copy.touched) for prefix, copy in self._copies.items()}

    def pack(self, sources: list[dict[str, Any]], partial_bytes: int, whole_bytes: int) -> dict[str, Any]:
        """*partial_bytes* and *whole_bytes* are those of the parent's table (`types.DataFile`)."""
        tallies: dict[str, Tally] = {}
        self._writer = ArchiveWriter(self._folder / "data.tar.zst", self._table, parent=self._parent_id)
        self._own = self._tree.ordinal(self._owner)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as self._threads:
            for source in sources:
                tally = tallies[source["prefix"]] = Tally()
                getattr(self, f"_pack_{source['kind']}")(source, tally)
        partial = self._parent if partial_bytes < whole_bytes else None
        written = self._writer.finish(self._tree, partial)
        return {
            "data": {
                "bytes": written.bytes,
                "sha256": written.sha256,
                "table_offset": written.table_offset,
                "table_bytes": written.table_bytes,
                "table_blake3": written.table_blake3,
                "table_whole": partial is None,
                "partial_bytes": 0 if partial is None else partial_bytes + written.table_bytes,
                "whole_bytes": written.table_bytes if partial is None else whole_bytes,
            },
            "sources": {
                prefix: {
                    "bytes": tally.bytes,
                    "files": tally.files,
                    "read": tally.read,
                    "problems": tally.problems,
                    "notes": tally.notes,
                }
                for prefix, tally in tallies.items()
            },
        }

    # One method a kind of source

    def _pack_sqlite(self, source: dict[str, Any], tally: Tally) -> None:
        path, live = Path(source["path"]), bool(source["live"])
        status = path.stat()
        now = time.time_ns()
        identity = identify(status, now) if live else Identity()
        self._file(source["prefix"], path, status, identity, tally, steady=True)
        for suffix in source["beside"]:  # the logs of a broken database, kept as they are
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                self._file(source["prefix"] + suffix, beside, beside.stat(), Identity(), tally, steady=False)

    def _pack_chroma(self, source: dict[str, Any], tally: Tally) -> None:
        prefix = source["prefix"]
        copy = self._copies[prefix]
        self._folder_entry(prefix, copy.live.stat())
        if source["intact"] and any(item.path == DATABASE and item.staged for item in self._seen[prefix]):
            blank_free_pages(copy.staged / DATABASE)
        for item in self._seen[prefix]:
            path = f"{prefix}/{item.path}"
            if item.is_folder:
                self._folder_entry(path, item.status)
            else:
                place = copy.staged / item.path
                self._file(path, place, item.status, item.identity, tally, steady=True)

    def _pack_files(self, source: dict[str, Any], tally: Tally) -> None:
        prefix, root = source["prefix"], Path(source["path"])
        found = list(walk(root, [Path(path) for path in source["exclude"]], tally.notes))
        self._learn_moved(prefix, {f"{prefix}/{item.path}" for item in found})
        self._folder_entry(prefix, root.stat())
        for item in found:
            path = f"{prefix}/{item.path}"
            if item.kind is EntryType.FOLDER:
                self._folder_entry(path, item.status)
            elif item.kind is EntryType.LINK:
                self._link(path, item)
            else:
                self._changing_file(path, root / item.path, tally)

    def _learn_moved(self, prefix: str, present: set[str]) -> None:
        """Remember the blocks of files that are gone: they may be found again under another name."""
        self._moved.clear()
        if self._parent is None or self._archives is None:
            return
        for path, entry in self._parent.entries.items():
            if path.startswith(prefix + "/") and path not in present:
                for packed in entry.blocks:
                    backup = self._parent.backups[packed >> 32]
                    self._moved[self._archives.frames(backup).digest(packed & 0xFFFFFFFF)] = packed

    # Entries

    def _folder_entry(self, path: str, status: os.stat_result) -> None:
        entry = Entry(path=path, kind=EntryType.FOLDER, mode=stat.S_IMODE(status.st_mode), mtime_ns=status.st_mtime_ns)
        self._writer.begin_member(entry)
        self._tree.entries[path] = entry

    def _link(self, path: str, item: Found) -> None:
        entry = Entry(path=path, kind=EntryType.LINK, mode=0o777, mtime_ns=item.status.st_mtime_ns, target=item.target)
        self._writer.begin_member(entry)
        self._tree.entries[path] = entry

    def _changing_file(self, path: str, place: Path, tally: Tally) -> None:
        """Store a file that others may write to, again when it changed meanwhile, and note it when it never rests."""
        for attempt in range(_TRIES):
            mark = self._writer.mark()
            before = (tally.bytes, tally.files, tally.read)
            try:
                status = place.lstat()
                changed = not self._file(path, place, status, identify(status, time.time_ns()), tally, steady=False)
            except FileNotFoundError:
                tally.bytes, tally.files, tally.read = before
                self._writer.rewind(mark)
                self._tree.entries.pop(path, None)  # that of an earlier try names frames that are gone
                tally.notes.append(f"{path} was deleted while the backup ran and is not in it")
                return
            except PermissionError as problem:
                tally.bytes, tally.files, tally.read = before
                self._writer.rewind(mark)
                self._tree.entries.pop(path, None)
                tally.problems.append(
                    {"code": "source_unreadable", "source": path.split("/")[1], "file": path, "message": str(problem)}
                )
                return
            if not changed:
                return
            if attempt < _TRIES - 1:
                tally.bytes, tally.files, tally.read = before
                self._writer.rewind(mark)
        tally.notes.append(f"{path} was being written to; the backup holds a state between two writes")

    def _file(
        self,
        path: str,
        place: Path,
        status: os.stat_result,
        identity: Identity,
        tally: Tally,
        *,
        steady: bool,
    ) -> bool:
        """Store one file, or take it from the parent unread. False when it changed while it was read.

        *status* and *identity* are the live file's. The content is read from *place*; a *steady* file cannot change.
        """
        before = self._parent.entries.get(path) if self._parent is not None else None
        tally.files += 1
        if is_unchanged(before, status):
            assert before is not None
            self._tree.entries[path] = before
            tally.bytes += before.size
            self._count(before.size)
            return True
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC) if steady else _open_regular(place)
        try:
            opened = os.fstat(descriptor)
            entry = Entry(
                path=path,
                kind=EntryType.FILE,
                mode=stat.S_IMODE(status.st_mode),
                mtime_ns=status.st_mtime_ns,
                size=opened.st_size,
                identity=identity,
            )
            self._writer.begin_member(entry)
            self._store(descriptor, entry, before)
            self._writer.end_member(entry.size)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        self._tree.entries[path] = entry
        tally.bytes += entry.size
        tally.read += entry.size
        return steady or (opened.st_size, opened.st_mtime_ns) == (after.st_size, after.st_mtime_ns)

    # Blocks

    def _store(self, descriptor: int, entry: Entry, before: Entry | None) -> None:
        """Read *entry*'s blocks with all threads and store in order those that the parent has not."""
        prior = before.blocks if before is not None and before.kind is EntryType.FILE else array("Q")
        for unit in self._units(descriptor, entry.size, prior):
            for block in unit:
                if block.known is not None:
                    entry.blocks.append(block.known)
                else:
                    number = self._writer.add_block(block.hashed, block.stored, block.raw, block.base, block.depth)
                    entry.blocks.append(self._own << 32 | number)

    def _units(self, descriptor: int, size: int, prior: array[int]) -> Iterator[list[Block]]:
        """The blocks of a file in order; a few units are worked on ahead."""
        ahead: deque[Future[list[Block]]] = deque()
        for first in range(0, -(-size // BLOCK), _UNIT):
            ahead.append(self._threads.submit(self._unit, descriptor, first, size, prior))
            if len(ahead) >= 8:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _unit(self, descriptor: int, first: int, size: int, prior: array[int]) -> list[Block]:
        start = first * BLOCK
        wanted = min(_UNIT * BLOCK, size - start)
        view = self._buffer()[:wanted]
        got = os.preadv(descriptor, [view], start)
        if got < wanted:
            view[got:] = bytes(wanted - got)  # cut off meanwhile: the caller sees it and reads again
        blocks = [
            self._block(view[at : at + BLOCK], prior[number] if number < len(prior) else None)
            for number, at in enumerate(range(0, wanted, BLOCK), start=first)
        ]
        self._count(wanted)
        return blocks

    def _buffer(self) -> memoryview:
        """A buffer of the calling thread's own, used again and again: fresh memory costs as much as reading into it."""
        if not hasattr(self._own_buffers, "view"):
            self._own_buffers.view = memoryview(bytearray(_UNIT * BLOCK))
        view: memoryview = self._own_buffers.view
        return view

    def _block(self, view: memoryview, prior: int | None) -> Block:
        hashed = digest(view)
        if prior is not None and self._frames_digest(prior) == hashed:
            return Block(prior)
        if hashed in self._moved:
            return Block(self._moved[hashed])
        if prior is not None:
            delta = self._delta(view, prior)
            if delta is not None:
                return Block(None, hashed, delta[0], len(view), delta[1], delta[2])
        return Block(None, hashed, compress(view), len(view))

    def _frames_digest(self, packed: int) -> bytes:
        assert self._archives is not None
        return self._archives.frames(self._tree.backups[packed >> 32]).digest(packed & 0xFFFFFFFF)

    def _delta(self, content: memoryview, prior: int) -> tuple[bytes, FrameRef, int] | None:
        """*content* as a delta against the block before it, or None where a plain frame is smaller.

        Where the chain would grow too deep, the delta is made against the plain frame at its root.
        """
        assert self._archives is not None
        ref = FrameRef(self._tree.backups[prior >> 32], prior & 0xFFFFFFFF)
        try:
            depth = self._archives.frame(ref).depth
            if depth >= MAX_DEPTH:
                while (base := self._archives.frame(ref).base) is not None:
                    ref = base
                depth = 0
            delta = compress_delta(content, self._archives.read(ref))
        except EngineError:
            return None  # the parent's block is damaged: store this one whole
        if len(delta) > len(content) // 4 and len(compress(content)) <= len(delta):
            return None
        return delta, ref, depth + 1

    def _count(self, amount: int) -> None:
        with self._counting:
            self._done += amount
            now = time.monotonic()
            if now - self._told > 0.1:
                self._told = now
                self._server.emit("packed", bytes=self._done)


def _open_regular(place: Path) -> int:
    """Open a file of a folder that others may change. One that became a link, a pipe or the like meanwhile is gone."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.ENXIO):
            raise FileNotFoundError(problem.errno, os.strerror(problem.errno), str(place)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "is no regular file any more", str(place))
    return descriptor


def main() -> None:
    """Serve one backup."""
    server = Server()
    packer = Packer(server)
    names = ("begin", "stage", "refresh", "pack")
    server.serve({name: getattr(packer, name) for name in names})


if __name__ == "__main__":
    main()
