"""Writes ``data.tar.zst``: a tar compressed with zstd, one frame a block, that plain ``tar`` reads.

A full archive is the tar of everything, each block a frame of its own. An incremental archive is, to ``tar``, a small file
that says how to restore it. Its blocks, which may be deltas, are in skippable frames (RFC 8878, section 3.1.2), which ``zstd``
ignores. So is the table, at the end of both.
"""

from __future__ import annotations

import struct
import tarfile
from dataclasses import dataclass
from typing import Final

from .blocks import compress, digest
from .files import Mark as FileMark
from .files import Output
from .table import Entry, EntryType, Frame, FrameRef, TableWriter, Tree, compress_table

SKIPPABLE_BLOCK: Final = 0x184D2A50
SKIPPABLE_TABLE: Final = 0x184D2A5F
_SKIPPABLE = struct.Struct("<II")
_TAR_BLOCK = 512

README = """This is an incremental backup ({owner}).
It holds only what differs from its parent ({parent}) and cannot be unpacked by tar.
Restore it with:  refbackup restore {owner} --repo REPO --to FOLDER
Without refbackup, unpack the newest full backup of the same set instead:
sha256sum -c SHA256SUMS && tar --zstd -xf data.tar.zst
"""


@dataclass(frozen=True, slots=True)
class Written:
    """Sizes and checksums of a finished archive; fields of `types.DataFile`. ``bytes`` and ``sha256`` are those of the file."""

    bytes: int
    sha256: str
    table_offset: int
    table_bytes: int
    table_blake3: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point to which an archive can be truncated."""

    file: FileMark
    frames: int


class ArchiveWriter:
    """Appends to a staged archive, which is incomplete before `finish`. The caller publishes it."""

    def __init__(self, output: Output, table: TableWriter, *, parent: str | None) -> None:
        self.table = table
        self._plain = parent is None
        self._output = output
        self._gap = bytearray()
        if parent is not None:
            content = README.format(owner=table.owner, parent=parent).encode()
            info = tarfile.TarInfo("README.txt")
            info.size, info.mode = len(content), 0o644
            self._gap += info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % _TAR_BLOCK + 2 * _TAR_BLOCK)
            self._flush_gap()

    def begin_member(self, entry: Entry) -> None:
        """Write the tar header of *entry*; a no-op in an incremental archive."""
        if not self._plain:
            return
        info = tarfile.TarInfo(entry.path)
        info.mode = entry.mode
        info.mtime = entry.mtime_ns // 1_000_000_000
        if entry.kind is EntryType.FOLDER:
            info.type = tarfile.DIRTYPE
        elif entry.kind is EntryType.LINK:
            info.type, info.linkname = tarfile.SYMTYPE, entry.target
        else:
            info.size = entry.size
        self._gap += info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")

    def end_member(self, size: int) -> None:
        """Pad a file of *size* bytes to the next tar block."""
        if self._plain:
            self._gap += bytes(-size % _TAR_BLOCK)

    def add_block(self, hashed: bytes, stored: bytes, raw: int, base: FrameRef | None, depth: int) -> int:
        """Append the frame of a block and return its number."""
        self._flush_gap()
        if not self._plain:
            self._output.write(_SKIPPABLE.pack(SKIPPABLE_BLOCK, len(stored)))
        number = self.table.add_frame(Frame(hashed, self._output.offset, len(stored), raw, base, depth))
        self._output.write(stored)
        return number

    def mark(self) -> Mark:
        """The current end, to return to when a file changed while it was read."""
        self._flush_gap()
        return Mark(self._output.mark(), self.table.count)

    def rewind(self, mark: Mark) -> None:
        """Go back to *mark*."""
        self._output.rewind(mark.file)
        self._gap.clear()
        self.table.truncate(mark.frames)

    def finish(self, tree: Tree, parent: Tree | None) -> Written:
        """End the tar, append the table (partial when *parent* is given) and make all of it durable."""
        if self._plain:
            self._gap += bytes(2 * _TAR_BLOCK)
        self._flush_gap()
        table = compress_table(self.table.pack(tree, parent))
        self._output.write(_SKIPPABLE.pack(SKIPPABLE_TABLE, len(table)))
        offset = self._output.offset
        self._output.write(table)
        size, sha256 = self._output.finish()
        return Written(size, sha256, offset, len(table), digest(table).hex())

    def _flush_gap(self) -> None:
        if self._gap:
            self._output.write(compress(bytes(self._gap)))
            self._gap.clear()
