"""An archive as a file: written in order, with a way back, and read at any offset.

`sealed` has the encrypted forms of both.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ..runtime import durable

_BUFFER: Final = 1 << 20
_VECTOR: Final = 256
"""The most pieces in one call; every system accepts as many."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A point to which an output can go back."""

    offset: int


class Output(Protocol):
    """A staged archive. ``offset`` is where the next byte is written."""

    offset: int

    def write(self, content: bytes) -> None:
        """Append *content*."""

    def mark(self) -> Mark:
        """The current end."""

    def rewind(self, mark: Mark) -> None:
        """Forget what was written after *mark*."""

    def finish(self) -> tuple[int, str]:
        """Make all of it durable and close it; the size of the file in bytes and its SHA-256."""


class ArchiveFile(Protocol):
    """An archive to read from, by several threads. ``size`` is that of the archive in bytes."""

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """*length* bytes at *offset*, fewer at the end of the archive."""

    def close(self) -> None:
        """Close the descriptor."""


@dataclass(frozen=True, slots=True)
class _Mark(Mark):
    sums: "hashlib._Hash"


class PlainOutput:
    """A new file that holds an archive as it is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._begun = 0
        self._sums = hashlib.sha256()
        self.offset = 0

    def write(self, content: bytes) -> None:
        self._pending.append(content)
        self._pending_bytes += len(content)
        self.offset += len(content)
        self._sums.update(content)
        if self._pending_bytes >= _BUFFER or len(self._pending) >= _VECTOR:
            self._drain()

    def mark(self) -> Mark:
        return _Mark(self.offset, self._sums.copy())

    def rewind(self, mark: Mark) -> None:
        assert isinstance(mark, _Mark)
        self._drain()
        os.ftruncate(self._descriptor, mark.offset)
        os.lseek(self._descriptor, mark.offset, os.SEEK_SET)
        self.offset, self._sums = mark.offset, mark.sums.copy()
        self._begun = min(self._begun, mark.offset)

    def finish(self) -> tuple[int, str]:
        self._drain()
        durable.reach("archive-sync")
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        return self.offset, self._sums.hexdigest()

    def _drain(self) -> None:
        durable.reach("archive-write")
        written = os.writev(self._descriptor, self._pending)
        if written < self._pending_bytes:
            rest = memoryview(b"".join(self._pending))[written:]
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        if self.offset - self._begun >= durable.WRITEBACK_BYTES:
            durable.begin_writeback(self._descriptor, self._begun, self.offset - self._begun)
            self._begun = self.offset
        self._pending.clear()
        self._pending_bytes = 0


class PlainFile:
    """A file that holds an archive as it is, open to read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def close(self) -> None:
        os.close(self._descriptor)
