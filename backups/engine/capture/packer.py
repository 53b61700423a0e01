"""The child process that reads: copies Chroma directories, stores the blocks of all sources, and writes the staged archive.

It opens live database files itself, so it holds no connection to any database. Requests, in the order in which `create.py`
sends them:

======= ========================================================================= =====================================
do      does                                                                      answer
======= ========================================================================= =====================================
begin   opens the staged archive, reads the parent's tree                         why the parent cannot be used
stage   copies Chroma directories ahead of the lock                               -
refresh the same under the lock: only what changed since                          whether anything differs from the parent,
                                                                                  or None: not done within the given seconds
pack    reads every source, writes the archive                                    what was written, by source
======= ========================================================================= =====================================
"""

import errno
import math
import os
import stat
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ..archive.files import Output, PlainOutput
from ..archive.locate import locate_in
from ..archive.reader import Archives
from ..archive.sealed import SALT_BYTES, SealedOutput
from ..archive.table import Entry, EntryType, Identity, TableWriter, Tree
from ..archive.writer import ArchiveWriter
from ..chroma_files.tables import DATABASE
from ..encryption.chain import ChainKey
from ..encryption.chains import OneChain
from ..errors import DamageFound, KeyMissing
from ..left_out import Absence, Patterns, bounded
from ..names import DATA, SEALED_DATA
from ..runtime import folders
from ..runtime.child import Server
from ..runtime.enclosure import Enclosure
from ..runtime.threads import pool
from .block_store import BlockStore, ReadFailed
from .files import LeaveOut, Listed, devices_without_times, has_attributes, open_regular, reason_of, status_of, walk
from .free_pages import blank_free_pages
from .staging import DirectoryCopy, Overdue, Seen, identify, is_unchanged, storable_time
from .versions import replaced, version_of

_TRIES: Final = 3
"""Attempts to read a file that changes while it is read."""

_MOST_NOTES: Final = 100


@dataclass(slots=True)
class Tally:
    """What was read of one source."""

    bytes: int = 0
    files: int = 0
    read: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """Fields of `types.LeftOut`."""

    def note(self, line: str) -> None:
        """Keep *line* for the log, of many only the first."""
        if len(self.notes) < _MOST_NOTES:
            self.notes.append(line)
        elif len(self.notes) == _MOST_NOTES:
            self.notes.append("further notes about its files were left away")


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
        self._without_times = devices_without_times()

    def begin(
        self,
        owner: str,
        folder: str,
        repository: str,
        set_name: str,
        parent: str | None,
        *,
        chain: dict[str, str] | None = None,
        reread: bool = False,
    ) -> str | None:
        """Begin, or begin again without a parent. Returns why the parent cannot be used, or None.

        *chain* is the id and the key, in hexadecimal digits, with which the parent is read and the archive is encrypted.
        With *reread*, every file is read, also one that seems to be the same as in the parent.
        """
        self._chain = ChainKey(set_name, chain["id"], bytes.fromhex(chain["key"])) if chain is not None else None
        why = None
        self._reread = reread
        self._parent = None
        if parent is not None:
            try:
                self._archives = Archives(locate_in(Enclosure(Path(repository), f"backups/{set_name}"), OneChain(self._chain)))
                self._parent = self._archives.tree(parent)
            except (DamageFound, KeyMissing) as damage:
                why, parent = damage.message, None
        self._owner = owner
        self._folder = Path(folder)
        self._table = TableWriter(owner, parent)
        self._parent_id = parent
        self._tree = Tree() if self._parent is None else self._parent.copy()
        self._tree.entries = {}
        return why

    def stage(self, directories: list[list[str]]) -> None:
        for prefix, live, staged in directories:
            entries = {
                path.removeprefix(prefix + "/"): replace(entry, identity=Identity()) if self._reread else entry
                for path, entry in (self._parent.entries.items() if self._parent is not None else ())
                if path.startswith(prefix + "/")
            }
            self._copies[prefix] = DirectoryCopy(Path(live), Path(staged), entries)
        self.refresh([])

    def refresh(self, raw: list[str], seconds: float | None = None) -> dict[str, bool] | None:
        until = math.inf if seconds is None else time.monotonic() + seconds
        try:
            for prefix, copy in self._copies.items():
                self._seen[prefix] = copy.refresh(raw=prefix in raw, until=until)
        except Overdue:
            return None
        return {prefix: bool(copy.touched) for prefix, copy in self._copies.items()}

    def pack(self, sources: list[dict[str, Any]], partial_bytes: int, whole_bytes: int) -> dict[str, Any]:
        """*partial_bytes* and *whole_bytes* are those of the parent's table (`types.DataFile`)."""
        tallies: dict[str, Tally] = {}
        self._writer = ArchiveWriter(self._output(), self._table, parent=self._parent_id)
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
            "read_all": self._reread or self._parent is None,
            "sources": {prefix: asdict(tally) for prefix, tally in tallies.items()},
        }

    def _output(self) -> Output:
        if self._chain is None:
            return PlainOutput(self._folder / DATA)
        salt = os.urandom(SALT_BYTES)
        return SealedOutput(PlainOutput(self._folder / SEALED_DATA), self._chain.of_archive(self._owner, salt), salt)

    # One method for each kind of source

    def _pack_sqlite(self, source: dict[str, Any], tally: Tally) -> None:
        path, pinned = Path(source["path"]), source["pinned"] and tuple(source["pinned"])
        if pinned and version_of(path) != pinned:
            raise replaced(path)
        status = path.stat()
        now = time.time_ns()
        identity = identify(status, now) if pinned else Identity()
        self._steady_file(source["prefix"], path, status, identity, tally)
        if pinned and version_of(path) != pinned:
            raise replaced(path)  # the file that was read must be the one that was pinned, which nobody writes to
        for suffix in source["beside"]:  # the logs of a broken database, kept as they are
            beside = path.with_name(path.name + suffix)
            if beside.exists():
                self._steady_file(source["prefix"] + suffix, beside, beside.stat(), Identity(), tally)

    def _pack_chroma(self, source: dict[str, Any], tally: Tally) -> None:
        prefix = source["prefix"]
        copy = self._copies[prefix]
        status = copy.live.stat()
        self._folder_entry(prefix, status.st_mode, status.st_mtime_ns)
        if source["intact"] and any(item.path == DATABASE and item.staged for item in self._seen[prefix]):
            blank_free_pages(copy.staged / DATABASE)
        for item in self._seen[prefix]:
            path = f"{prefix}/{item.path}"
            if item.is_folder:
                self._folder_entry(path, item.status.st_mode, item.status.st_mtime_ns)
            else:
                place = copy.staged / item.path
                self._steady_file(path, place, item.status, item.identity, tally)

    def _pack_files(self, source: dict[str, Any], tally: Tally) -> None:
        prefix, place = source["prefix"], Path(source["path"]).resolve()
        others = (Path(path).resolve() for path in source["elsewhere"])
        elsewhere = frozenset(str(path.relative_to(place)) for path in others if path.is_relative_to(place))
        absent: list[tuple[str, Absence, str]] = []

        def leave_out(path: str, reason: Absence, detail: str) -> None:
            absent.append((path, reason, detail))

        with folders.opened(place) as root:
            found = list(walk(root, prefix, elsewhere, Patterns(source["exclude"]), leave_out))
            self._blocks.find_moved(self._parent, prefix, {f"{prefix}/{item.path}" for item in found})
            self._folder_entry(prefix, os.fstat(root).st_mode, os.fstat(root).st_mtime_ns)
            more = [item.path for item in found if item.kind is not EntryType.LINK and has_attributes(item.path, root)]
            if more:
                tally.note(
                    f"{len(more):,} have extended attributes or access control lists, which are not stored; first {more[0]}"
                )
            for item in found:
                path = f"{prefix}/{item.path}"
                if item.mtime_ns != storable_time(item.mtime_ns):
                    tally.note(f"{item.path} has a date that cannot be stored; the nearest one that can is stored instead")
                if item.kind is EntryType.FOLDER:
                    self._folder_entry(path, item.mode, item.mtime_ns)
                elif item.kind is EntryType.LINK:
                    self._link(path, item)
                else:
                    self._changing_file(path, item.path, root, tally, leave_out)
        tally.left_out = bounded(sorted(absent))

    # Entries

    def _folder_entry(self, path: str, mode: int, mtime_ns: int) -> None:
        mtime_ns = storable_time(mtime_ns)
        entry = Entry(path=path, kind=EntryType.FOLDER, mode=stat.S_IMODE(mode), mtime_ns=mtime_ns)
        self._writer.begin_member(entry)
        self._tree.entries[path] = entry

    def _link(self, path: str, item: Listed) -> None:
        mtime_ns = storable_time(item.mtime_ns)
        entry = Entry(path=path, kind=EntryType.LINK, mode=0o777, mtime_ns=mtime_ns, target=item.target)
        self._writer.begin_member(entry)
        self._tree.entries[path] = entry

    def _changing_file(self, path: str, name: str, root: int, tally: Tally, leave_out: LeaveOut) -> None:
        """Store the file *name* in the folder *root*, which other processes may write to.

        It is read again if it changed meanwhile, with a note if it kept changing. What cannot be read is left out.
        """
        before = (tally.bytes, tally.files, tally.read)
        mark = self._writer.mark()

        def undo() -> None:
            tally.bytes, tally.files, tally.read = before
            self._writer.rewind(mark)
            self._tree.entries.pop(path, None)  # that of an earlier attempt names frames that were cut off

        for attempt in range(_TRIES):
            if attempt:
                undo()
            try:
                if self._live_file(path, name, root, tally, last=attempt == _TRIES - 1):
                    return
            except FileNotFoundError:
                undo()
                tally.note(f"{name} was deleted while the backup ran and is not in it")
                return
            except ReadFailed as problem:
                undo()
                leave_out(name, reason_of(problem), problem.strerror or "")
                return
        tally.note(f"{name} was being written to; the backup may hold a state between two writes")

    def _live_file(self, path: str, name: str, root: int, tally: Tally, *, last: bool) -> bool:
        """Store a file that may change; False if it did. Raises `ReadFailed`, at the *last* attempt also if it ends early."""
        if self._is_taken(path, status_of(name, root), tally):
            return True
        descriptor = open_regular(name, root)
        try:
            status = os.fstat(descriptor)
            identity = identify(status, time.time_ns())
            if status.st_dev in self._without_times:
                identity = Identity()
            complete = self._store(path, descriptor, status, identity, tally)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if last and not complete:
            raise ReadFailed(errno.ENODATA, "it ends before its size", name)
        return complete and (status.st_size, status.st_mtime_ns) == (after.st_size, after.st_mtime_ns)

    def _steady_file(self, path: str, place: Path, status: os.stat_result, identity: Identity, tally: Tally) -> None:
        """Store a file that cannot change, or take it from the parent unread.

        *status* and *identity* are those of the live file, *place* has its content.
        """
        if not self._is_taken(path, status, tally):
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._store(path, descriptor, status, identity, tally)
            finally:
                os.close(descriptor)

    def _is_taken(self, path: str, status: os.stat_result, tally: Tally) -> bool:
        """Take a file that did not change from the parent; False if there is none."""
        before = self._parent.entries.get(path) if self._parent is not None else None
        if self._reread or before is None or not is_unchanged(before, status):
            return False
        self._tree.entries[path] = before
        tally.files += 1
        tally.bytes += before.size
        self._count(before.size)
        return True

    def _store(self, path: str, descriptor: int, status: os.stat_result, identity: Identity, tally: Tally) -> bool:
        """Store an open file under *path*. False if it ended before its size."""
        entry = Entry(
            path=path,
            kind=EntryType.FILE,
            mode=stat.S_IMODE(status.st_mode),
            mtime_ns=storable_time(status.st_mtime_ns),
            size=os.fstat(descriptor).st_size,
            identity=identity,
        )
        self._writer.begin_member(entry)
        complete = self._blocks.store(descriptor, entry, self._parent.entries.get(path) if self._parent is not None else None)
        self._writer.end_member(entry.size)
        self._tree.entries[path] = entry
        tally.files += 1
        tally.bytes += entry.size
        tally.read += entry.size
        return complete

    def _count(self, amount: int) -> None:
        with self._counting:
            self._done += amount
            now = time.monotonic()
            if now - self._reported > 0.1:
                self._reported = now
                self._server.emit("packed", bytes=self._done)


def main() -> None:
    """Serve one backup."""
    server = Server()
    packer = Packer(server)
    names = ("begin", "stage", "refresh", "pack")
    server.serve({name: getattr(packer, name) for name in names})


if __name__ == "__main__":
    main()
