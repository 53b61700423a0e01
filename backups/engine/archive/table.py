"""The table of an archive: which frames it stores, and which frames make up each file.

A *whole* table lists every file of the backup. A *partial* one lists what differs from the parent's table, so that an
incremental costs what changed. A table ends ``data.tar.zst`` as a skippable frame and is itself compressed. All numbers are
little-endian; ``docs/reference/format.md`` has the same layout as offset tables, and a worked example.

::

    table     = magic "RBTABLE1", u32 flags (1 = whole), u32 block size, u32 backups, u32 frames, u32 entries, u32 0,
                backup..., frame..., entry...
    backup    = u16 length, UTF-8 id                     ordinal 0 is this archive, the first listed is 1
    frame     = 32 bytes BLAKE3 of the raw block, u64 offset in data.tar.zst, u32 stored, u32 raw,
                u32 ordinal of the base's archive (0xFFFFFFFF: plain), u32 base's frame, u8 depth, 7 bytes 0
    entry     = u16 length, UTF-8 path, u8 kind, u32 mode, i64 mtime_ns, u64 size,
                u64 inode, i64 ctime_ns, u8 trusted, u16 length, UTF-8 link target, u32 runs, run...
    run       = u32 first block, u32 blocks, u32 ordinal, u32 first frame
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import zstandard

from ..errors import DamageFound, EngineError
from .blocks import BLOCK, HASH_BYTES, MAX_DEPTH

MAGIC: Final = b"RBTABLE1"
MAX_TABLE_BYTES: Final = 1 << 31
MAX_RATIO: Final = 256
"""The highest compression ratio of a table larger than `_SMALL_TABLE`: half of a frame's record is an incompressible hash."""

MAX_BLOCKS: Final = 1 << 26
"""The most blocks of one backup (16 TiB); a table that names more is damaged."""

_SMALL_TABLE: Final = 1 << 26
_MAX_STORED: Final = 2 * BLOCK
_MAX_OFFSET: Final = 1 << 62

NO_BASE: Final = 0xFFFFFFFF
_HEADER = struct.Struct("<8s6I")
_FRAME = struct.Struct("<32sQIIIIB7x")
_ENTRY = struct.Struct("<BIqQQqB")
_RUN = struct.Struct("<4I")
_LENGTH = struct.Struct("<H")
_COUNT = struct.Struct("<I")


class EntryType(IntEnum):
    """What an entry is."""

    FILE = 0
    FOLDER = 1
    LINK = 2
    REMOVED = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What identifies a live file as the one captured without reading it (git's rule for its index).

    ``trusted`` is false if the file was changed so shortly before the capture that a later change could have the same time
    stamp.
    """

    inode: int = 0
    ctime_ns: int = 0
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """One stored block: ``stored`` bytes at ``offset`` that decompress to ``raw`` bytes with the hash ``digest``."""

    digest: bytes
    offset: int
    stored: int
    raw: int
    base: FrameRef | None
    depth: int


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Frame number ``frame`` of the archive of backup ``backup``."""

    backup: str
    frame: int


@dataclass(slots=True, kw_only=True)
class Entry:
    """One file, folder or link of a backup.

    ``blocks`` holds a packed reference for each block, ``archive index << 32 | frame``, the index into `Tree.backups`.
    """

    path: str
    kind: EntryType
    mode: int
    mtime_ns: int
    size: int = 0
    identity: Identity = field(default_factory=Identity)
    target: str = ""
    blocks: array[int] = field(default_factory=lambda: array("Q"))


class Frames:
    """The frames of one archive, each unpacked on access; 64 bytes each in memory."""

    def __init__(self, packed: bytes, names: Callable[[int], str]) -> None:
        self._packed = packed
        self._names = names

    def __len__(self) -> int:
        return len(self._packed) // _FRAME.size

    def __getitem__(self, number: int) -> Frame:
        if not 0 <= number < len(self):
            raise DamageFound(f"Frame {number} is not in the table.")
        digest, offset, stored, raw, base, base_frame, depth = _FRAME.unpack_from(self._packed, number * _FRAME.size)
        ref = None if base == NO_BASE else FrameRef(self._names(base), base_frame)
        if depth > MAX_DEPTH or (ref is None) != (depth == 0):
            raise DamageFound(f"Frame {number} names a delta of depth {depth}.")
        if not (0 < raw <= BLOCK and 0 < stored <= _MAX_STORED and offset <= _MAX_OFFSET):
            raise DamageFound(f"Frame {number} names {stored} bytes at {offset} for a block of {raw}.")
        return Frame(digest, offset, stored, raw, ref, depth)

    def digest(self, number: int) -> bytes:
        """The hash of the block in frame *number*."""
        start = number * _FRAME.size
        return self._packed[start : start + HASH_BYTES]


@dataclass(slots=True)
class Tree:
    """Every entry of a backup by path, and the archives that its blocks come from."""

    backups: list[str] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    _index: dict[str, int] = field(default_factory=dict)

    def ordinal(self, backup: str) -> int:
        """The index of *backup* in `backups`, to which a new one is added."""
        found = self._index.get(backup)
        if found is None:
            found = self._index[backup] = len(self.backups)
            self.backups.append(backup)
        return found

    def ref(self, packed: int) -> FrameRef:
        """The frame that a packed reference names."""
        return FrameRef(self.backups[packed >> 32], packed & 0xFFFFFFFF)

    def refs(self, entry: Entry) -> Iterator[FrameRef]:
        """The frames of *entry*'s blocks in order."""
        return map(self.ref, entry.blocks)

    def copy(self) -> Tree:
        """A tree that may be changed without touching this one; block lists are shared until they are replaced."""
        return Tree(list(self.backups), dict(self.entries), dict(self._index))


class TableWriter:
    """Collects the frames and entries of the archive of backup *owner* and packs them as a table, which names *parent*."""

    def __init__(self, owner: str, parent: str | None = None) -> None:
        self.owner = owner
        self._frames = bytearray()
        self._ordinals: dict[str, int] = {owner: 0} if parent is None else {owner: 0, parent: 1}

    @property
    def count(self) -> int:
        """The number of frames so far, which is the number of the next."""
        return len(self._frames) // _FRAME.size

    def add_frame(self, frame: Frame) -> int:
        """Append *frame* and return its number."""
        base, base_frame = NO_BASE, 0
        if frame.base is not None:
            base, base_frame = self._ordinal(frame.base.backup), frame.base.frame
        self._frames += _FRAME.pack(frame.digest, frame.offset, frame.stored, frame.raw, base, base_frame, frame.depth)
        return self.count - 1

    def truncate(self, count: int) -> None:
        """Forget all frames but the first *count*."""
        del self._frames[count * _FRAME.size :]

    def pack(self, tree: Tree, parent: Tree | None) -> bytes:
        """The table's bytes: whole without *parent*, else what differs between *parent* and *tree*.

        *tree* must have been made from a copy of *parent*, so that packed references mean the same in both. Raises
        `EngineError` for more blocks than `Table.apply` accepts.
        """
        if (blocks := sum(len(entry.blocks) for entry in tree.entries.values())) > MAX_BLOCKS:
            raise _too_large(f"The files take {blocks * BLOCK >> 40} TiB")
        body = bytearray()
        entries = 0
        for entry in tree.entries.values():
            before = parent.entries.get(entry.path) if parent is not None else None
            if before != entry:
                body += self._entry(entry, self._runs(tree, entry, before))
                entries += 1
        for path in sorted(parent.entries.keys() - tree.entries.keys()) if parent is not None else []:
            body += self._entry(Entry(path=path, kind=EntryType.REMOVED, mode=0, mtime_ns=0), [])
            entries += 1
        backups = b"".join(_text(name) for name in list(self._ordinals)[1:])
        flags = 1 if parent is None else 0
        head = _HEADER.pack(MAGIC, flags, BLOCK, len(self._ordinals) - 1, self.count, entries, 0)
        return head + backups + bytes(self._frames) + bytes(body)

    def _ordinal(self, backup: str) -> int:
        return self._ordinals.setdefault(backup, len(self._ordinals))

    def _runs(self, tree: Tree, entry: Entry, before: Entry | None) -> list[list[int]]:
        """Runs of consecutive frames, leaving out blocks that *before* holds at the same place."""
        runs: list[list[int]] = []
        inherited = before.blocks if before is not None else array("Q")
        for block, packed in enumerate(entry.blocks):
            if block < len(inherited) and inherited[block] == packed:
                continue
            ref = tree.ref(packed)
            ordinal = self._ordinal(ref.backup)
            last = runs[-1] if runs else None
            if last is not None and last[2] == ordinal and last[0] + last[1] == block and last[3] + last[1] == ref.frame:
                last[1] += 1
            else:
                runs.append([block, 1, ordinal, ref.frame])
        return runs

    @staticmethod
    def _entry(entry: Entry, runs: list[list[int]]) -> bytes:
        identity = entry.identity
        return b"".join(
            (
                _text(entry.path),
                _ENTRY.pack(
                    entry.kind, entry.mode, entry.mtime_ns, entry.size, identity.inode, identity.ctime_ns, identity.trusted
                ),
                _text(entry.target),
                _COUNT.pack(len(runs)),
                *(_RUN.pack(*run) for run in runs),
            )
        )


def _text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogateescape")
    return _LENGTH.pack(len(encoded)) + encoded


class _Cursor:
    """Reads a table from left to right. Raises `DamageFound` at its end."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def take(self, length: int) -> bytes:
        taken = self._content[self._at : self._at + length]
        if len(taken) != length:
            raise DamageFound("A table ends too early.")
        self._at += length
        return taken

    def text(self) -> str:
        (length,) = self.unpack(_LENGTH)
        return self.take(length).decode("utf-8", "surrogateescape")

    def at_end(self) -> bool:
        return self._at == len(self._content)


@dataclass(frozen=True, slots=True)
class Table:
    """An unpacked table: the archive's own frames, and its entries as they are written."""

    owner: str
    whole: bool
    frames: Frames
    backups: list[str]
    entries: list[tuple[Entry, list[tuple[int, ...]]]]

    def apply(self, parent: Tree | None) -> Tree:
        """The tree of the backup, given the *parent*'s, which a whole table does not need."""
        if self.whole:
            tree = Tree()
        elif parent is None:
            raise DamageFound(f"The table of {self.owner} is partial, and its parent is missing.")
        else:
            tree = parent.copy()
        left = MAX_BLOCKS
        for entry, runs in self.entries:
            if entry.kind is EntryType.REMOVED:
                tree.entries.pop(entry.path, None)
                continue
            before = None if self.whole else tree.entries.get(entry.path)
            entry.blocks = self._blocks(entry, runs, before, tree, left)
            left -= len(entry.blocks)
            tree.entries[entry.path] = entry
        return tree

    def _blocks(self, entry: Entry, runs: list[tuple[int, ...]], before: Entry | None, tree: Tree, most: int) -> array[int]:
        """The references of *entry*'s blocks, at most *most*: those of *before*, and over them the *runs*, which ascend."""
        wanted = -(-entry.size // BLOCK) if entry.kind is EntryType.FILE else 0
        blocks = array("Q", before.blocks[:wanted] if before is not None else ())
        if wanted > most:
            raise DamageFound(f"The table of {self.owner} names more blocks than a backup may have.")
        end = 0
        for first, count, ordinal, frame in runs:
            if first < end or first + count > wanted or ordinal >= len(self.backups):
                raise DamageFound(f"The table of {self.owner} names a block that {entry.path} does not have.")
            if frame + count > (len(self.frames) if ordinal == 0 else NO_BASE):
                raise DamageFound(f"The table of {self.owner} names a missing frame for {entry.path}.")
            if first > len(blocks):
                break  # the parent lacks a block between two runs
            high = tree.ordinal(self.backups[ordinal]) << 32
            blocks[first : first + count] = array("Q", range(high | frame, (high | frame) + count))
            end = first + count
        if len(blocks) != wanted:
            raise DamageFound(f"The table of {self.owner} lacks blocks of {entry.path}.")
        return blocks


def unpack(owner: str, content: bytes, check_path: Callable[[str], None]) -> Table:
    """Read the table of backup *owner*. *check_path* raises for a path that must not be written to. Raises `DamageFound`."""
    cursor = _Cursor(content)
    magic, flags, block, backups, frames, entries, _ = _HEADER.unpack(cursor.take(_HEADER.size))
    if magic != MAGIC or block != BLOCK:
        raise DamageFound(f"{owner} has no table that this version can read.")
    names = [owner, *(cursor.text() for _ in range(backups))]
    packed = cursor.take(frames * _FRAME.size)
    listed = [_unpack_entry(cursor, check_path) for _ in range(entries)]
    if not cursor.at_end():
        raise DamageFound(f"The table of {owner} is longer than it says.")
    if len({entry.path for entry, _ in listed}) != len(listed):
        raise DamageFound(f"The table of {owner} names a path twice.")

    def name(ordinal: int) -> str:
        if ordinal >= len(names):
            raise DamageFound(f"The table of {owner} names archive {ordinal}, which it does not list.")
        return names[ordinal]

    return Table(owner, bool(flags & 1), Frames(packed, name), names, listed)


def _unpack_entry(cursor: _Cursor, check_path: Callable[[str], None]) -> tuple[Entry, list[tuple[int, ...]]]:
    path = cursor.text()
    check_path(path)
    kind, mode, mtime_ns, size, inode, ctime_ns, trusted = cursor.unpack(_ENTRY)
    try:
        entry_type = EntryType(kind)
    except ValueError:
        raise DamageFound(f"A table says that {path!r} is of the unknown kind {kind}.") from None
    target = cursor.text()
    (count,) = cursor.unpack(_COUNT)
    runs = [cursor.unpack(_RUN) for _ in range(count)]
    identity = Identity(inode=inode, ctime_ns=ctime_ns, trusted=bool(trusted))
    entry = Entry(path=path, kind=entry_type, mode=mode, mtime_ns=mtime_ns, size=size, identity=identity, target=target)
    return entry, runs


def compress_table(content: bytes) -> bytes:
    """A table as it is stored. Raises `EngineError` for one that `decompress_table` would refuse."""
    stored = zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content)
    if not _may_hold(stored, len(content)):
        raise _too_large(f"Names and block numbers take {len(content) >> 20} MiB")
    return stored


def _too_large(what: str) -> EngineError:
    hint = "Exclude files, or back up folders in sets of their own. Nothing was published."
    return EngineError(f"{what}, more than one backup can hold.", hint=hint)


def _may_hold(stored: bytes, size: int) -> bool:
    """Whether a compressed table can be one of *size* bytes; a bomb is not."""
    return 0 < size <= min(MAX_TABLE_BYTES, max(_SMALL_TABLE, MAX_RATIO * len(stored)))


def decompress_table(owner: str, stored: bytes) -> bytes:
    """The table that `compress_table` stored; its size is checked before memory is allocated. Raises `DamageFound`."""
    try:
        size = zstandard.frame_content_size(stored)
        if not _may_hold(stored, size):
            raise DamageFound(f"The table of {owner} names an impossible size.")
        content: bytes = zstandard.ZstdDecompressor().decompress(stored, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as problem:
        raise DamageFound(f"The table of {owner} cannot be read: {problem}.") from None
    if len(content) != size:
        raise DamageFound(f"The table of {owner} has another size than it names.")
    return content
