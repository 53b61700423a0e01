"""Notices writes to live stores between their safety backup and the exchange, which would be in neither.

A `Watch` is begun before the safety backup, and asked once a store is locked. Nothing is read or locked for it: a connection
tells whether others committed to a database in WAL mode (``PRAGMA data_version``); of all other files inode, size and
modification time are compared. In rollback-journal mode a commit changes these times before the lock is free again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path
from types import TracebackType

from ..capture.staging import LOGS
from ..capture.versions import Version, is_same_file, version_of
from ..names import printable
from ..runtime import folders
from ..runtime.sqlite import connect
from ..types import SourceKind
from .targets import Target

_Files = dict[str, tuple[int, ...]]


class StoreWritten(Exception):
    """A live store was written to after its safety backup was begun."""

    def __init__(self, place: Path) -> None:
        super().__init__(f"{printable(str(place))} was written to while the safety backup was made")


class Watch:
    """Remembers the state of live stores, and tells whether one was written to since."""

    def __init__(self, targets: list[Target]) -> None:
        self._open = contextlib.ExitStack()
        self._connections: dict[Path, tuple[sqlite3.Connection, int, Version | None]] = {}
        self._files: dict[Path, _Files] = {}
        self._kept: dict[Path, frozenset[str]] = {}
        for target in targets:
            if target.record.kind is not SourceKind.SQLITE:
                self._files[target.path] = _content(target, target.path)
            elif target.as_file or not target.is_database() or not self._connect(target):
                self._files[target.path] = _database_files(target.path)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def _connect(self, target: Target) -> bool:
        """Watch a database through a connection, if it is in WAL mode."""
        with contextlib.ExitStack() as opened:
            try:
                version = version_of(target.path)
                database = opened.enter_context(contextlib.closing(connect(target.path, timeout=10)))
                if str(database.execute("PRAGMA journal_mode").fetchone()[0]) != "wal":
                    return False
                self._connections[target.path] = database, _data_version(database), version
            except sqlite3.DatabaseError:
                return False
            self._open.push(opened.pop_all())
        return True

    def keeps(self, target: Target, paths: frozenset[str]) -> None:
        """Note what of a folder has a second name in its replacement: a write into it is not lost."""
        self._kept[target.path] = paths

    def refuse_written(self, target: Target, place: Path | None = None) -> None:
        """Raise `StoreWritten` if a store, which no writer can write to now, was written to since the beginning.

        *place* is where a folder was moved to.
        """
        if target.path in self._connections:
            database, before, version = self._connections[target.path]
            try:
                same = _data_version(database) == before and is_same_file(version_of(target.path), version)
            except sqlite3.DatabaseError:  # it has left WAL mode since
                same = False
            if not same:
                raise StoreWritten(target.path)
            return
        files = self._files[target.path]
        if target.record.kind is SourceKind.SQLITE:
            if _database_files(target.path) != files:
                raise StoreWritten(target.path)
            return
        now = _content(target, place or target.path)
        if now == files:
            return
        kept = self._kept.get(target.path, frozenset())
        for path in sorted(now.keys() | files.keys()):
            old, new = files.get(path), now.get(path)
            if old != new and not (path in kept and old and new and old[:2] == new[:2]):
                raise StoreWritten(target.path / path)


def _data_version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA data_version").fetchone()[0])


def _database_files(path: Path) -> _Files:
    """A database and its write-ahead log; an empty log is as good as none. A rollback journal may be that of the exchange."""
    found = {}
    for file in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            if file == path or status.st_size:
                found[file.name] = _file(status)
    return found


def _content(target: Target, folder: Path) -> _Files:
    """What is in a folder, without the times of folders: what changed in them is listed."""
    found: _Files = {}
    if not folder.is_dir():
        return found
    logs = LOGS if target.record.kind is SourceKind.CHROMA else ()
    for path, status in folders.below(folder):
        if stat.S_ISDIR(status.st_mode):
            found[path] = (stat.S_IFDIR, 0)
        elif path not in logs or (status.st_size and not path.endswith("-shm")):
            found[path] = _file(status)
    return found


def _file(status: os.stat_result) -> tuple[int, ...]:
    return stat.S_IFMT(status.st_mode), status.st_ino, status.st_size, status.st_mtime_ns
