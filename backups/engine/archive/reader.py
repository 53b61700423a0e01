"""Reads backups: tables, trees and blocks. Every byte is checked before it is used."""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import zstandard

from ..errors import DamageFound, EngineError, from_os_error
from ..names import BACKUP_ID, DATA, MANIFEST
from ..runtime.enclosure import Enclosure, NotAllowed
from .blocks import ZEROS, ZEROS_DIGEST, BrokenFrame, decompress, digest
from .paths import check_path, link_stays_inside
from .table import MAX_TABLE_BYTES, EntryType, Frame, FrameRef, Frames, Table, Tree, decompress_table, unpack
from .writer import SKIPPABLE_BLOCK, SKIPPABLE_TABLE

_OPEN_FILES = 64
_LITTLE = 1 << 10
"""Compressed bytes decompressed at once where a size is not known: they become 32 MiB at most."""
MAX_MANIFEST_BYTES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The *folder* of a backup, the place of the table in its archive, and its parent, all from its manifest."""

    folder: Enclosure
    parent: str | None
    table_offset: int
    table_bytes: int
    table_blake3: str

    def open(self) -> int:
        """A new descriptor of the archive. Raises ``OSError``."""
        return self.folder.open_file(DATA)


Locate = Callable[[str], Stored]
"""From a backup's id to its archive. Raises `DamageFound`."""


def locate_in(set_folder: Enclosure, *, salvage: bool = False) -> Locate:
    """A `Locate` for the backups of one set that reads each manifest once, and of it only what it needs.

    With *salvage*, the archive itself says where its table is (`locate_table`) if the manifest cannot be read, is that of
    another backup, or names another place.
    """
    known: dict[str, Stored] = {}

    def locate(backup: str) -> Stored:
        if backup not in known:
            if not BACKUP_ID.fullmatch(backup):
                raise DamageFound(f"{backup!r} is not the id of a backup.")
            try:
                found = _located(set_folder.inside(backup), backup)
                if salvage:
                    read_table(found, backup)
                known[backup] = found
            except DamageFound:
                if not salvage:
                    raise
                known[backup] = locate_table(set_folder.inside(backup), backup)
        return known[backup]

    return locate


def _located(folder: Enclosure, backup: str) -> Stored:
    try:
        manifest = json.loads(read_manifest(folder))
        if manifest["id"] != backup:
            raise DamageFound(f"The manifest of {backup} is that of another backup.", hint=salvage_hint(backup), id=backup)
        data = manifest["data"]
        stored = Stored(
            folder=folder,
            parent=manifest["parent"],
            table_offset=int(data["table_offset"]),
            table_bytes=int(data["table_bytes"]),
            table_blake3=str(data["table_blake3"]),
        )
    except FileNotFoundError:
        if folder.is_folder():
            message = f"The backup {backup} has no manifest; its archive may be intact."
            raise DamageFound(message, hint=salvage_hint(backup), id=backup) from None
        raise DamageFound(f"The backup {backup}, which others need, is missing.", id=backup) from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as problem:
        raise DamageFound(
            f"The manifest of {backup} cannot be read: {problem}.", hint=salvage_hint(backup), id=backup
        ) from None
    in_bounds = 0 <= stored.table_offset <= 1 << 62 and 0 < stored.table_bytes <= MAX_TABLE_BYTES
    if not in_bounds or not isinstance(stored.parent, str | None):
        raise DamageFound(f"The manifest of {backup} names an impossible table or parent.", id=backup)
    return stored


def salvage_hint(backup: str) -> str:
    """What to do about a backup whose manifest is lost or wrong."""
    return (
        "Restore a sound backup: `refbackup verify --all` finds one. Without one, the archive may do without its manifest: "
        f"`refbackup restore {backup} --to DIR --salvage`, or --salvage with the id of a backup that builds on it."
    )


def locate_table(folder: Enclosure, backup: str) -> Stored:
    """The archive of *backup* without its manifest: the table is the skippable frame that ends it. Raises `DamageFound`.

    The parent of an incremental is the newest backup that its table names; writers name it since version 0.3.
    """
    try:
        with os.fdopen(folder.open_file(DATA), "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            head = -1
            while (head := content.rfind(struct.pack("<I", SKIPPABLE_TABLE), 0, head if head >= 0 else len(content))) >= 0:
                size = int.from_bytes(content[head + 4 : head + 8], "little")
                if head + 8 + size == len(content):
                    break
            stored = content[head + 8 :] if head >= 0 else b""
    except (OSError, ValueError) as problem:
        raise DamageFound(f"The archive of {backup} cannot be read: {problem}.", id=backup) from None
    if not stored:
        raise DamageFound(f"The archive of {backup} does not end with its table.", id=backup)
    table = unpack(backup, decompress_table(backup, stored), check_path)
    named = [name for name in table.backups if name != backup]
    return Stored(
        folder=folder,
        parent=None if table.whole else max(named, default=None),
        table_offset=head + 8,
        table_bytes=len(stored),
        table_blake3=digest(stored).hex(),
    )


def read_manifest(folder: Enclosure) -> bytes:
    """The bytes of a backup's manifest. Raises ``OSError``, also for a file that is too large."""
    return folder.read(MANIFEST, MAX_MANIFEST_BYTES)


class BlockDamaged(DamageFound):
    """A stored frame was changed or lost; the message names its archive and offset."""

    def __init__(self, message: str, *, backup: str, offset: int) -> None:
        super().__init__(f"{message} (archive of {backup}, byte {offset})", id=backup, offset=offset)
        self.backup = backup
        self.offset = offset


def read_table(where: Stored, backup: str) -> bytes:
    """The compressed table at its place, compared with its hash. Raises `DamageFound`."""
    try:
        with os.fdopen(where.open(), "rb") as file:
            file.seek(where.table_offset)
            stored = file.read(where.table_bytes)
    except OSError as problem:
        raise _unreadable(backup, problem) from problem
    if len(stored) != where.table_bytes or digest(stored).hex() != where.table_blake3:
        raise BlockDamaged("The table was changed after it was written", backup=backup, offset=where.table_offset)
    return stored


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
        _check_links(tree)
        return tree

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
    """A descriptor that `close` closes once no thread reads it."""

    def __init__(self, opened: Callable[[], int], backup: str) -> None:
        try:
            self._descriptor = opened()
        except OSError as problem:
            raise _unreadable(backup, problem) from problem
        self._users = 0
        self._closing = False
        self._lock = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)

    def take(self) -> None:
        with self._lock:
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._closing and not self._users:
                os.close(self._descriptor)

    def close(self) -> None:
        with self._lock:
            self._closing = True
            if not self._users:
                os.close(self._descriptor)


def _unreadable(backup: str, problem: OSError) -> EngineError:
    if isinstance(problem, FileNotFoundError):
        return DamageFound(f"The archive of {backup} is missing.", id=backup)
    if isinstance(problem, NotAllowed):
        return DamageFound(f"The archive of {backup} cannot be read: {problem}.", id=backup)
    return from_os_error(problem, f"Reading the archive of {backup}")


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
    with os.fdopen(where.open(), "rb") as file:
        for offset, stored, magic in [*extents, (where.table_offset, where.table_bytes, SKIPPABLE_TABLE)]:
            if offset < at:
                return offset
            end = offset
            if magic == SKIPPABLE_TABLE or where.parent is not None:
                head = struct.pack("<II", magic, stored)
                end = offset - len(head)
                file.seek(max(at, end))
                if end < at or file.read(len(head)) != head:
                    return max(at, end)
            file.seek(at)
            if not _decompresses(file, end - at):
                return at
            at = offset + stored
        file.seek(at)
        return at if file.read(1) else None


def _decompresses(file: BinaryIO, left: int) -> bool:
    """Whether the next *left* bytes are complete zstd frames with correct checksums. Reads and decompresses them in pieces."""
    one, piece = None, b""
    while piece or left:
        if not piece:
            piece = file.read(min(_LITTLE, left))
            left -= len(piece)
            if not piece:
                return False
        one = one or zstandard.ZstdDecompressor().decompressobj()
        try:
            one.decompress(piece)
        except zstandard.ZstdError:
            return False
        one, piece = (None, one.unused_data) if one.eof else (one, b"")
    return one is None
