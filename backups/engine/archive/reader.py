"""Reads backups: tables, trees and blocks. Every byte is checked before it is used."""

from __future__ import annotations

import errno
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing

import zstandard

from ..errors import DamageFound, from_os_error
from .blocks import ZEROS, ZEROS_DIGEST, BrokenFrame, decompress, digest
from .files import ArchiveFile
from .locate import BlockDamaged, Locate, Stored, read_table, unreadable
from .paths import check_path, link_stays_inside
from .sealed import NotAuthentic
from .table import EntryType, Frame, FrameRef, Frames, Table, Tree, decompress_table, unpack
from .writer import SKIPPABLE_BLOCK, SKIPPABLE_TABLE

_OPEN_FILES = 64
_LITTLE = 1 << 10
"""Compressed bytes decompressed at once where a size is not known: they become 32 MiB at most."""


class Archives:
    """Reads blocks out of the archives of a repository; safe to use from several threads.

    Tables are loaded when first needed and kept (64 bytes a block); up to 64 files are kept open.
    """

    def __init__(self, locate: Locate) -> None:
        self._locate = locate
        self._tables: dict[str, Table] = {}
        self._files: OrderedDict[str, _File] = OrderedDict()
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close all descriptors."""
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()

    def __enter__(self) -> Archives:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def table(self, backup: str) -> Table:
        """The table of *backup*'s archive. Raises `DamageFound`."""
        with self._lock:
            found = self._tables.get(backup)
            if found is None:
                found = self._tables[backup] = self._read_table(backup)
            return found

    def frames(self, backup: str) -> Frames:
        """The frames stored in *backup*'s own archive."""
        return self.table(backup).frames

    def frame(self, ref: FrameRef) -> Frame:
        """The record of the frame that *ref* names."""
        return self.frames(ref.backup)[ref.frame]

    def tree(self, backup: str) -> Tree:
        """All entries of *backup*, from its table and those of its ancestors. Raises `DamageFound`."""
        tables: list[Table] = []
        wanted: str | None = backup
        while wanted is not None:
            if any(table.owner == wanted for table in tables):
                raise DamageFound(f"The parents of {backup} form a circle.", id=backup)
            table = self._read_table(wanted)
            tables.append(table)
            with self._lock:
                self._tables.setdefault(wanted, table)
            wanted = None if table.whole else self._locate(wanted).parent
            if not table.whole and wanted is None:
                raise DamageFound(f"The table of {table.owner} builds on a parent that its manifest does not name.")
        tree: Tree | None = None
        for table in reversed(tables):
            tree = table.apply(tree)
        assert tree is not None
        self._check_keys(backup, tree)
        _check_links(tree)
        return tree

    def _check_keys(self, backup: str, tree: Tree) -> None:
        """Raise `DamageFound` if a backup that *backup* builds on has another key: it was put in the place of the real one."""
        chain = self._locate(backup).chain
        for other in tree.backups if chain is not None else ():
            if self._locate(other).chain != chain:
                raise DamageFound(f"{other}, on which {backup} builds, is not encrypted with the same key.", id=other)

    def read(self, ref: FrameRef) -> bytes:
        """The block in the frame *ref*, decompressed and compared with its hash. Raises `BlockDamaged`."""
        frame = self.frame(ref)
        base: bytes | None = None
        if frame.base is not None:
            below = self.frame(frame.base)
            if below.depth >= frame.depth:
                raise BlockDamaged("a delta builds on one that is not below it", backup=ref.backup, offset=frame.offset)
            base = self.read(frame.base)
        try:
            content = decompress(self.stored(ref, frame), frame.raw, base)
        except BrokenFrame as problem:
            raise BlockDamaged(f"A block cannot be decompressed: {problem}", backup=ref.backup, offset=frame.offset) from None
        if (ZEROS_DIGEST if content is ZEROS else digest(content)) != frame.digest:
            raise BlockDamaged("A block has another hash than when it was written", backup=ref.backup, offset=frame.offset)
        return content

    def stored(self, ref: FrameRef, frame: Frame) -> bytes:
        """The bytes of a frame as the archive holds them. Raises `BlockDamaged` if the archive is truncated."""
        file = self._file(ref.backup)
        try:
            content = file.read(frame.offset, frame.stored)
        except NotAuthentic as problem:
            raise BlockDamaged(f"A block cannot be decrypted: {problem}", backup=ref.backup, offset=frame.offset) from None
        except OSError as problem:
            if problem.errno == errno.EIO:
                raise BlockDamaged("The disk cannot read a block", backup=ref.backup, offset=frame.offset) from None
            raise from_os_error(problem, f"Reading the archive of {ref.backup}") from problem
        finally:
            file.release()
        if len(content) != frame.stored:
            raise BlockDamaged("The archive is cut off", backup=ref.backup, offset=frame.offset)
        return content

    def first_corrupt_gap(self, backup: str) -> int | None:
        """The offset of the first gap between the blocks of *backup*'s archive that is not as it was written, or None.

        Gaps hold tar headers and padding, compressed with a checksum, and the heads of skippable frames.
        """
        return _first_corrupt_gap(self.frames(backup), self._locate(backup))

    def _file(self, backup: str) -> _File:
        with self._lock:
            found = self._files.get(backup)
            if found is None:
                found = self._files[backup] = _File(self._locate(backup).open, backup)
            self._files.move_to_end(backup)
            found.take()
            while len(self._files) > _OPEN_FILES:
                _, oldest = self._files.popitem(last=False)
                oldest.close()
            return found

    def _read_table(self, backup: str) -> Table:
        return unpack(backup, decompress_table(backup, read_table(self._locate(backup), backup)), check_path)


class _File:
    """An archive that `close` closes once no thread reads it."""

    def __init__(self, opened: Callable[[], ArchiveFile], backup: str) -> None:
        try:
            self._archive = opened()
        except OSError as problem:
            raise unreadable(backup, problem) from problem
        self._users = 0
        self._closing = False
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        return self._archive.read(offset, length)

    def take(self) -> None:
        with self._lock:
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._closing and not self._users:
                self._archive.close()

    def close(self) -> None:
        with self._lock:
            self._closing = True
            if not self._users:
                self._archive.close()


def _check_links(tree: Tree) -> None:
    """Raise `DamageFound` for a link that points out of its source, and for an entry whose parent is not a folder."""
    for path, entry in tree.entries.items():
        if path.count("/") == 1 and entry.kind is not (EntryType.FILE if path.startswith("sqlite/") else EntryType.FOLDER):
            raise DamageFound(f"The archive holds {path!r} as a {entry.kind.name.lower()}. Nothing was written.")
        if entry.kind is EntryType.LINK and not link_stays_inside(path, entry.target):
            raise DamageFound(f"The archive holds a link that points out of its folder: {path!r}. Nothing was written.")
        above = path.rpartition("/")[0]
        parent = tree.entries.get(above)
        if path.count("/") > 1 and (parent is None or parent.kind is not EntryType.FOLDER):
            raise DamageFound(f"The archive holds {path!r} under {above!r}, which is not a folder. Nothing was written.")


def _first_corrupt_gap(frames: Frames, where: Stored) -> int | None:
    extents = [(frame.offset, frame.stored, SKIPPABLE_BLOCK) for frame in map(frames.__getitem__, range(len(frames)))]
    at = 0
    with closing(where.open()) as archive:
        for offset, stored, magic in [*extents, (where.table_offset, where.table_bytes, SKIPPABLE_TABLE)]:
            if offset < at:
                return offset
            end = offset
            if magic == SKIPPABLE_TABLE or where.parent is not None:
                head = struct.pack("<II", magic, stored)
                end = offset - len(head)
                if end < at or archive.read(end, len(head)) != head:
                    return max(at, end)
            if not _decompresses(archive, at, end):
                return at
            at = offset + stored
        return at if archive.read(at, 1) else None


def _decompresses(archive: ArchiveFile, at: int, end: int) -> bool:
    """Whether the bytes from *at* to *end* are complete zstd frames with correct checksums. It reads pieces."""
    one, piece = None, b""
    while piece or at < end:
        if not piece:
            piece = archive.read(at, min(_LITTLE, end - at))
            at += len(piece)
            if not piece:
                return False
        one = one or zstandard.ZstdDecompressor().decompressobj()
        try:
            one.decompress(piece)
        except zstandard.ZstdError:
            return False
        one, piece = (None, one.unused_data) if one.eof else (one, b"")
    return one is None
