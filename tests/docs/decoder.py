"""A reader of version 1 of the format, written from ``docs/reference/format.md`` alone: it imports nothing of the engine.

``read_backup(set_folder, id)`` gives the files of a backup as path → content. It tests the document, and is an example
for another reader.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import zstandard
from blake3 import blake3

BLOCK = 262_144
PLAIN = 0xFFFFFFFF
FILE, FOLDER, LINK, REMOVED = 0, 1, 2, 255


class Refused(Exception):
    """The backup is not what the document says it must be."""


@dataclass
class Frame:
    """A record of "Frames"."""

    digest: bytes
    offset: int
    stored: int
    raw: int
    base_archive: int
    base_frame: int
    depth: int


@dataclass
class Entry:
    """A record of "Entries"; ``blocks`` are (backup, frame)."""

    kind: int
    mode: int
    mtime_ns: int
    size: int
    target: str
    runs: list[tuple[int, int, int, int]]
    blocks: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class Table:
    """A decompressed table."""

    whole: bool
    archives: list[str]
    frames: list[Frame]
    entries: dict[str, Entry]


class Fields:
    """Reads fields from left to right."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        if self.at + size > len(self.content):
            raise Refused("bytes are missing")
        values = struct.unpack_from("<" + layout, self.content, self.at)
        self.at += size
        return values

    def text(self) -> str:
        (length,) = self.take("H")
        return self.take(f"{length}s")[0].decode("utf-8", "surrogateescape")


def parse_table(owner: str, content: bytes) -> Table:
    """A decompressed table, read by the offset tables of the document."""
    fields = Fields(content)
    magic, flags, block, archives, frames, entries, zero = fields.take("8s6I")
    if magic != b"RBTABLE1" or block != BLOCK or zero != 0:
        raise Refused("another magic or block size")
    table = Table(bool(flags & 1), [owner, *(fields.text() for _ in range(archives))], [], {})
    for _ in range(frames):
        *values, zeros = fields.take("32sQIIIIB7s")
        frame = Frame(*values)
        if frame.depth > 8 or (frame.depth == 0) != (frame.base_archive == PLAIN) or zeros != bytes(7):
            raise Refused("a depth that cannot be")
        if not 1 <= frame.raw <= BLOCK:
            raise Refused("a raw size that cannot be")
        table.frames.append(frame)
    for _ in range(entries):
        path = fields.text()
        kind, mode, mtime_ns, size, _, _, _ = fields.take("BIqQQqB")
        target = fields.text()
        (runs,) = fields.take("I")
        table.entries[path] = Entry(kind, mode, mtime_ns, size, target, [fields.take("4I") for _ in range(runs)])
    if fields.at != len(content):
        raise Refused("bytes are left over")
    return table


class Reader:
    """Reads backups of one set."""

    def __init__(self, set_folder: Path) -> None:
        self.folder = set_folder
        self.tables: dict[str, Table] = {}

    def manifest(self, backup: str) -> dict:
        content = (self.folder / backup / "manifest.json").read_bytes()
        manifest = json.loads(content)
        if manifest["format"] > 1:
            raise Refused("a format above 1")
        sums = dict(line.split("  ")[::-1] for line in (self.folder / backup / "SHA256SUMS").read_text().splitlines())
        archive = (self.folder / backup / "data.tar.zst").read_bytes()
        if sums != {"manifest.json": _sha256(content), "data.tar.zst": _sha256(archive)}:
            raise Refused("a checksum differs")
        if manifest["data"]["sha256"] != _sha256(archive) or manifest["data"]["bytes"] != len(archive):
            raise Refused("the manifest names another archive")
        return manifest

    def table(self, backup: str) -> Table:
        if backup not in self.tables:
            data = self.manifest(backup)["data"]
            archive = (self.folder / backup / "data.tar.zst").read_bytes()
            offset = data["table_offset"]
            stored = archive[offset : offset + data["table_bytes"]]
            if struct.unpack_from("<II", archive, offset - 8) != (0x184D2A5F, len(stored)):
                raise Refused("the table is in no skippable frame")
            if blake3(stored).hexdigest() != data["table_blake3"]:
                raise Refused("the table has another hash")
            if not 0 < zstandard.frame_content_size(stored) <= 1 << 31:
                raise Refused("the table is too large")
            self.tables[backup] = parse_table(backup, zstandard.ZstdDecompressor().decompress(stored))
        return self.tables[backup]

    def entries(self, backup: str) -> dict[str, Entry]:
        table = self.table(backup)
        found = {} if table.whole else dict(self.entries(self.manifest(backup)["parent"]))
        for path, entry in table.entries.items():
            before = found.get(path)
            if entry.kind == REMOVED:
                found.pop(path, None)
                continue
            wanted = -(-entry.size // BLOCK) if entry.kind == FILE else 0
            blocks = dict(enumerate(before.blocks[:wanted])) if before else {}
            for first, many, archive, frame in entry.runs:
                blocks |= {first + step: (table.archives[archive], frame + step) for step in range(many)}
            if sorted(blocks) != list(range(wanted)):
                raise Refused("blocks are missing")
            entry.blocks = [blocks[number] for number in range(wanted)]
            found[path] = entry
        return found

    def block(self, backup: str, number: int) -> bytes:
        table = self.table(backup)
        frame = table.frames[number]
        stored = (self.folder / backup / "data.tar.zst").read_bytes()[frame.offset : frame.offset + frame.stored]
        dictionary = None
        if frame.base_archive != PLAIN:
            base = self.block(table.archives[frame.base_archive], frame.base_frame)
            dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        if zstandard.frame_content_size(stored) != frame.raw:
            raise Refused("a frame names another size")
        content = zstandard.ZstdDecompressor(dict_data=dictionary).decompress(stored)
        if blake3(content).digest() != frame.digest:
            raise Refused("a block has another hash")
        return content


def read_backup(set_folder: Path, backup: str) -> dict[str, bytes]:
    """The files of *backup*, path → content, each block checked."""
    reader = Reader(set_folder)
    files = {}
    for path, entry in reader.entries(backup).items():
        if entry.kind == FILE:
            files[path] = b"".join(reader.block(*where) for where in entry.blocks)
            if len(files[path]) != entry.size:
                raise Refused("a file has another size")
    return files


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
