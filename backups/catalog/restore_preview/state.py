"""The state of the live stores as one short value: whether they have been written to since a preview.

It is made of sizes, inodes and times of files, without opening any: closing a file drops the POSIX locks that SQLite holds
on it in the same process. A checkpoint changes it although no row changes, so it may differ for nothing; it does not stay the
same when something was written.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from backups.engine.chroma_files.tables import DATABASE
from backups.engine.types import Source, SourceKind

_LENGTH = 12
_LOGS = ("-wal", "-journal")
_SHARED = f"{DATABASE}-shm".encode()


def live_state(sources: Sequence[Source], only: str | None = None) -> str:
    """12 hexadecimal digits that change when a live store of *only* (``KIND``, ``KIND:NAME`` or all) is written to."""
    kind, _, name = (only or "").partition(":")
    digest = hashlib.sha256()
    for source in sources:
        if kind in ("", source.kind) and name in ("", source.name):
            digest.update(f"{source.kind}:{source.name}\0".encode())
            for line in sorted(_database(source.path) if source.kind is SourceKind.SQLITE else _folder(source.path)):
                digest.update(line + b"\n")
    return digest.hexdigest()[:_LENGTH]


def _database(path: Path) -> Iterator[bytes]:
    place = path.resolve()
    for end in ("", *_LOGS):
        with contextlib.suppress(FileNotFoundError):
            yield from _line(end.encode(), place.with_name(place.name + end).stat())


def _folder(folder: Path) -> Iterator[bytes]:
    waiting = [os.fsencode(folder)]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(here))
        except OSError as problem:
            yield here + b" " + str(problem.errno).encode()
            continue
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif entry.name != _SHARED:
                    yield from _line(entry.path, entry.stat(follow_symlinks=False))


def _line(name: bytes, status: os.stat_result) -> Iterator[bytes]:
    """Nothing for an empty log, which opening a database makes."""
    if status.st_size or not name.endswith(tuple(end.encode() for end in _LOGS)):
        yield b"%s %d %d %d" % (name, status.st_ino, status.st_size, status.st_mtime_ns)
