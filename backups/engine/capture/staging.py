"""Copying a Chroma directory: most of it before the lock, and under the lock only what changed since.

A file is taken to be unchanged when inode, size, mtime and ctime are those seen before, and the mtime is older than that
moment by more than a time stamp's grain (git's rule against racy time stamps). All else is compared byte by byte, which
runs at memory speed, and written only where it differs.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from ..archive.table import Entry, EntryType, Identity
from ..chroma_files.tables import DATABASE

GRAIN_NS = 2_000_000_000
"""The coarsest grain of a time stamp that is reckoned with."""

_PIECE = 1 << 20
_SKIPPED = ("chroma.sqlite3-journal", "chroma.sqlite3-wal", "chroma.sqlite3-shm")
"""They belong to the lock and the moment, not to the data."""


def identify(status: os.stat_result, now_ns: int) -> Identity:
    """The identity of a file, trusted when its last change is long enough ago at *now_ns*."""
    settled = max(status.st_mtime_ns, status.st_ctime_ns) + GRAIN_NS < now_ns
    return Identity(inode=status.st_ino, ctime_ns=status.st_ctime_ns, trusted=settled)


def is_unchanged(entry: Entry | None, status: os.stat_result) -> bool:
    """Whether a live file is certainly the one that *entry* describes, so that it need not be read."""
    return (
        entry is not None
        and entry.identity.trusted
        and (entry.size, entry.mtime_ns, entry.identity.inode, entry.identity.ctime_ns)
        == (status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns)
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A file or folder of a live directory as it was found under the lock."""

    path: str
    status: os.stat_result
    identity: Identity
    staged: bool

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)


class DirectoryCopy:
    """A copy, in *staged*, of the files of a live Chroma directory that differ from the parent's.

    *known* maps paths inside the directory to the parent's entries.
    """

    def __init__(self, live: Path, staged: Path, known: dict[str, Entry]) -> None:
        self.live = live
        self.staged = staged
        self._known = known
        self._copied: dict[str, tuple[os.stat_result, bool]] = {}
        self.touched: set[str] = set()
        """The folders, "" for the directory itself, in which a file changed or went since the parent."""

    def refresh(self) -> list[Seen]:
        """Bring the copy up to date and return what the live directory holds, folders before what is in them.

        What belongs together is copied together, so that it can be checked: where one file of a segment changed or went, all
        that are left of it, and where anything did, the database.
        """
        now = time.time_ns()
        walked = _walk(self.live, "")
        files = {path for path, status in walked if not stat.S_ISDIR(status.st_mode)}
        moved = {path for path, status in walked if path in files and not is_unchanged(self._known.get(path), status)}
        moved |= {path for path, entry in self._known.items() if entry.kind is EntryType.FILE and path not in files}
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
            if staged:
                self._bring(path, status, now)
            seen.append(Seen(path, status, identify(status, now), staged))
        self._drop(seen)
        return seen

    def _bring(self, path: str, status: os.stat_result, now: int) -> None:
        before = self._copied.get(path)
        if before is not None and before[1] and _stamp(before[0]) == _stamp(status):
            return
        source, target = self.live / path, self.staged / path
        if before is None or not target.exists():
            _copy(source, target)
        else:
            _patch(source, target)
        self._copied[path] = (status, identify(status, now).trusted)

    def _drop(self, seen: list[Seen]) -> None:
        wanted = {item.path for item in seen if item.staged}
        for path in self._copied.keys() - wanted:
            (self.staged / path).unlink(missing_ok=True)
            del self._copied[path]


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _walk(folder: Path, prefix: str) -> list[tuple[str, os.stat_result]]:
    found = []
    for entry in sorted(os.scandir(folder), key=lambda item: item.name):
        try:
            status = entry.stat(follow_symlinks=False)
            path = prefix + entry.name
            if stat.S_ISDIR(status.st_mode):
                found.extend([(path, status), *_walk(folder / entry.name, path + "/")])
            elif stat.S_ISREG(status.st_mode) and path not in _SKIPPED:
                found.append((path, status))
        except FileNotFoundError:
            continue  # the segment of a collection that was deleted a moment ago
    return found


def _copy(source: Path, target: Path) -> None:
    """Copy a file, by reference where the file system can (``copy_file_range``)."""
    try:
        with source.open("rb") as live, target.open("wb") as copy:
            while os.copy_file_range(live.fileno(), copy.fileno(), 1 << 30):
                pass
    except FileNotFoundError:
        target.unlink(missing_ok=True)
    except OSError:
        with source.open("rb") as live, target.open("wb") as copy:
            while piece := live.read(_PIECE):
                copy.write(piece)


def _patch(source: Path, target: Path) -> None:
    """Make *target* equal to *source*, writing only the pieces that differ."""
    with source.open("rb", buffering=0) as live, target.open("r+b", buffering=0) as copy:
        offset = 0
        while piece := live.read(_PIECE):
            if os.pread(copy.fileno(), len(piece), offset) != piece:
                os.pwrite(copy.fileno(), piece, offset)
            offset += len(piece)
        os.ftruncate(copy.fileno(), offset)
