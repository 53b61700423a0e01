"""The child process that reads: copies Chroma directories, stores the blocks of all sources, and writes the staged archive.

It opens live database files itself, so it holds no connection to any database. Requests, in the order in which `create.py`
sends them:

======= ========================================================================= =====================================
do      does                                                                      answer
======= ========================================================================= =====================================
begin   opens the staged archive, reads the parent's tree                         why the parent cannot be used
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ..archive.reader import Archives, locate_in
from ..archive.table import Entry, EntryType, Identity, TableWriter, Tree
from ..archive.writer import ArchiveWriter
from ..chroma_files.tables import DATABASE
from ..errors import DamageFound
from ..runtime.child import Server
from ..runtime.threads import pool
from .block_store import BlockStore
from .files import Listed, walk
from .free_pages import blank_free_pages
from .staging import DirectoryCopy, Seen, identify, is_unchanged

_TRIES: Final = 3
"""Attempts to read a file that changes while it is read."""


@dataclass(slots=True)
class Tally:
    """What was read of one source."""

    bytes: int = 0
    files: int = 0
    read: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Packer:
    """The handlers of the requests above."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parent: Tree | None = None
        self._archives: Archives | None = None
        self._copies: dict[str, DirectoryCopy] = {}
        self._seen: dict[str, list[Seen]] = {}
        self._counting = threading.Lock()
        self._done = 0
        self._reported = 0.0

    def begin(self, owner: str, folder: str, set_folder: str, parent: str | None) -> str | None:
        """Begin, or begin again without a parent. Returns why the parent cannot be used, or None."""
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
        return why

    def stage(self, directories: list[list[str]]) -> None:
        for prefix, live, staged in directories:
            entries = {
                path.removeprefix(prefix + "/"): entry
                for path, entry in (self._parent.entries.items() if self._parent is not None else ())
                if path.startswith(prefix + "/")
            }
            self._copies[prefix] = DirectoryCopy(Path(live), Path(staged), entries)
        self.refresh()

    def refresh(self) -> dict[str, bool]:
        for prefix, copy in self._copies.items():
            self._seen[prefix] = copy.refresh()
        return {prefix: bool(copy.touched) for prefix, copy in self._copies.items()}

    def pack(self, sources: list[dict[str, Any]], partial_bytes: int, whole_bytes: int) -> dict[str, Any]:
        """*partial_bytes* and *whole_bytes* are those of the parent's table (`types.DataFile`)."""
        tallies: dict[str, Tally] = {}
        self._writer = ArchiveWriter(self._folder / "data.tar.zst", self._table, parent=self._parent_id)
        with pool() as threads:
            self._blocks = BlockStore(self._writer, self._tree, self._archives, threads, self._count)
            for source in sources:
                tally = tallies[source["prefix"]] = Tally()
                getattr(self, f"_pack_{source['kind']}")(source, tally)
        partial = self._parent if partial_bytes < whole_bytes else None
        written = self._writer.finish(self._tree, partial)
        return {
            "data": {
                **asdict(written),
                "table_whole": partial is None,
                "partial_bytes": 0 if partial is None else partial_bytes + written.table_bytes,
                "whole_bytes": written.table_bytes if partial is None else whole_bytes,
            },
            "sources": {prefix: asdict(tally) for prefix, tally in tallies.items()},
        }

    # One method for each kind of source

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
        self._blocks.find_moved(self._parent, prefix, {f"{prefix}/{item.path}" for item in found})
        self._folder_entry(prefix, root.stat())
        for item in found:
            path = f"{prefix}/{item.path}"
            if item.kind is EntryType.FOLDER:
                self._folder_entry(path, item.status)
            elif item.kind is EntryType.LINK:
                self._link(path, item)
            else:
                self._changing_file(path, root / item.path, tally)

    # Entries

    def _folder_entry(self, path: str, status: os.stat_result) -> None:
        entry = Entry(path=path, kind=EntryType.FOLDER, mode=stat.S_IMODE(status.st_mode), mtime_ns=status.st_mtime_ns)
        self._writer.begin_member(entry)
        self._tree.entries[path] = entry

    def _link(self, path: str, item: Listed) -> None:
        entry = Entry(path=path, kind=EntryType.LINK, mode=0o777, mtime_ns=item.status.st_mtime_ns, target=item.target)
        self._writer.begin_member(entry)
        self._tree.entries[path] = entry

    def _changing_file(self, path: str, place: Path, tally: Tally) -> None:
        """Store a file that other processes may write to: again if it changed meanwhile, with a note if it kept changing."""
        for attempt in range(_TRIES):
            mark = self._writer.mark()
            before = (tally.bytes, tally.files, tally.read)
            try:
                status = place.lstat()
                changed = not self._file(path, place, status, identify(status, time.time_ns()), tally, steady=False)
            except FileNotFoundError:
                tally.bytes, tally.files, tally.read = before
                self._writer.rewind(mark)
                self._tree.entries.pop(path, None)  # that of an earlier attempt names frames that were cut off
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
        tally.notes.append(f"{path} was being written to; the backup may hold a state between two writes")

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

        *status* and *identity* are those of the live file, *place* has its content. A *steady* file cannot change.
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
            self._blocks.store(descriptor, entry, before)
            self._writer.end_member(entry.size)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        self._tree.entries[path] = entry
        tally.bytes += entry.size
        tally.read += entry.size
        return steady or (opened.st_size, opened.st_mtime_ns) == (after.st_size, after.st_mtime_ns)

    def _count(self, amount: int) -> None:
        with self._counting:
            self._done += amount
            now = time.monotonic()
            if now - self._reported > 0.1:
                self._reported = now
                self._server.emit("packed", bytes=self._done)


def _open_regular(place: Path) -> int:
    """Open a file of a folder that may change. Raises ``FileNotFoundError`` for one that became a link, a pipe or a device."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.ENXIO):
            raise FileNotFoundError(problem.errno, os.strerror(problem.errno), str(place)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "no longer a regular file", str(place))
    return descriptor


def main() -> None:
    """Serve one backup."""
    server = Server()
    packer = Packer(server)
    names = ("begin", "stage", "refresh", "pack")
    server.serve({name: getattr(packer, name) for name in names})


if __name__ == "__main__":
    main()
