"""Copies a Chroma directory: most of it before the lock, and under the lock only what changed since.

A file counts as unchanged when its inode, size, mtime and ctime are those seen before, and were older then than the granularity
of time stamps (git's rule for racy entries). Other files are compared byte by byte, and written only where they differ.
"""

import math
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from ..archive.table import Entry, EntryType, Identity
from ..chroma_files.tables import DATABASE
from ..runtime import folders

GRAIN_NS = 2_000_000_000
"""The coarsest granularity of time stamps that is allowed for."""

_PIECE = 1 << 20
_RANGE = 1 << 26
LOGS = ("chroma.sqlite3-journal", "chroma.sqlite3-wal", "chroma.sqlite3-shm")
"""Files of SQLite's locks and logs in a Chroma directory, not of the data."""


def identify(status: os.stat_result, now_ns: int) -> Identity:
    """The identity of a file, trusted if its last change was long enough before *now_ns*, and its times can be stored."""
    settled = max(status.st_mtime_ns, status.st_ctime_ns) + GRAIN_NS < now_ns
    return Identity(
        inode=status.st_ino,
        ctime_ns=storable_time(status.st_ctime_ns),
        trusted=settled and status.st_mtime_ns == storable_time(status.st_mtime_ns),
    )


def storable_time(nanoseconds: int) -> int:
    """A time as a table can hold it: one before 1677 or after 2262 becomes the first or the last moment between."""
    return max(-(1 << 63), min(nanoseconds, (1 << 63) - 1))


def is_unchanged(entry: Entry | None, status: os.stat_result) -> bool:
    """Whether a live file is certainly the one that *entry* describes, and need not be read."""
    return (
        entry is not None
        and entry.identity.trusted
        and (entry.size, entry.mtime_ns, entry.identity.inode, entry.identity.ctime_ns)
        == (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A file or folder of a live directory, and whether it was copied."""

    path: str
    status: os.stat_result
    identity: Identity
    staged: bool

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


class Overdue(Exception):
    """The time for copying is over; what was copied stays, and the next refresh goes on."""


class DirectoryCopy:
    """A copy, in *staged*, of the files of a live Chroma directory that differ from those in the parent backup.

    *parent* maps paths inside the directory to the parent's entries.
    """

    def __init__(self, live: Path, staged: Path, parent: dict[str, Entry]) -> None:
        self.live = live
        self.staged = staged
        self._parent = parent
        self._copied: dict[str, tuple[os.stat_result, bool]] = {}
        self.touched: set[str] = set()
        """The folders, "" for the directory itself, in which a file was changed or removed since the parent."""

    def refresh(self, *, raw: bool = False, until: float = math.inf) -> list[Seen]:
        """Update the copy and list the live directory, folders before their content. Raises `Overdue` after *until*.

        The database's logs are left out, because the lock is held and they are empty. A *raw* copy, of a database that SQLite
        cannot read, has them: a repair needs them.

        Files that are checked together are copied together: when one file of a segment was changed or removed, the rest of the
        segment; when anything was, the database.
        """
        now = time.time_ns()
        left_out = LOGS[-1:] if raw else LOGS
        walked = [
            (path, status)
            for path, status in folders.below(self.live, strict=True)  # but a segment may vanish with its collection
            if stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and path not in left_out)
        ]
        files = {path for path, status in walked if not stat.S_ISDIR(status.st_mode)}
        moved = {path for path, status in walked if path in files and not is_unchanged(self._parent.get(path), status)}
        moved |= {path for path, entry in self._parent.items() if entry.kind is EntryType.FILE and path not in files}
        self.touched = {path.rpartition("/")[0] for path in moved}
        for folder in sorted(self.touched):
            (self.staged / folder).mkdir(parents=True, exist_ok=True)
        seen = []
        for path, status in walked:
            if path not in files:
                seen.append(Seen(path, status, Identity(), False))
                continue
            folder = path.rpartition("/")[0]
            staged = path in moved or (folder != "" and folder in self.touched) or (bool(moved) and path == DATABASE)
            _check_time(until)
            if staged:
                self._update(path, status, now, until)
            seen.append(Seen(path, status, identify(status, now), staged))
        self._drop(seen)
        return seen

    def _update(self, path: str, status: os.stat_result, now: int, until: float) -> None:
        before = self._copied.get(path)
        if before is not None and before[1] and _stamp(before[0]) == _stamp(status):
            return
        source, target = self.live / path, self.staged / path
        if before is None or not target.exists():
            _copy(source, target, until)
        else:
            _patch(source, target, until)
        self._copied[path] = (status, identify(status, now).trusted)

    def _drop(self, seen: list[Seen]) -> None:
        wanted = {item.path for item in seen if item.staged}
        for path in self._copied.keys() - wanted:
            (self.staged / path).unlink(missing_ok=True)
            del self._copied[path]


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _check_time(until: float) -> None:
    if time.monotonic() > until:
        raise Overdue


def _copy(source: Path, target: Path, until: float) -> None:
    """Copy a file, by reference where the file system supports it (``copy_file_range``)."""
    try:
        with source.open("rb") as live, target.open("wb") as copy:
            while os.copy_file_range(live.fileno(), copy.fileno(), _RANGE):
                _check_time(until)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
    except OSError:
        with source.open("rb") as live, target.open("wb") as copy:
            while piece := live.read(_PIECE):
                _check_time(until)
                copy.write(piece)


def _patch(source: Path, target: Path, until: float) -> None:
    """Make *target* equal to *source*, writing only the pieces that differ."""
    with source.open("rb", buffering=0) as live, target.open("r+b", buffering=0) as copy:
        offset = 0
        while piece := live.read(_PIECE):
            _check_time(until)
            if os.pread(copy.fileno(), len(piece), offset) != piece:
                os.pwrite(copy.fileno(), piece, offset)
            offset += len(piece)
        os.ftruncate(copy.fileno(), offset)
