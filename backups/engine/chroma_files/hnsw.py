"""The HNSW files of a Chroma segment: header and structure (format version 1 of chroma-hnswlib, little-endian).

===================== ===================================================================================
file                  content
===================== ===================================================================================
header.bin            100 bytes, struct ``<i6QiI3QdQ`` (`Header`)
data_level0.bin       size_per_element bytes an element: links, the float32 vector, the label (u64) last
length.bin            4 bytes an element; with cosine distance the length of the vector (float32), of which
                      data_level0.bin holds the unit vector
link_lists.bin        links above level 0 (`graph`)
index_metadata.pickle ids and labels (`id_table`); written last
===================== ===================================================================================
"""

import contextlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from .errors import BrokenIndex, UnsupportedIndex
from .id_table import PICKLE, labels, total_added

FILES = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", PICKLE)
_HEADER = struct.Struct("<i6QiI3QdQ")
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Header:
    """``header.bin``; sizes and offsets in bytes."""

    version: int
    offset_level0: int
    max_elements: int
    count: int
    size_per_element: int
    label_offset: int
    vector_offset: int
    max_level: int
    enter_point: int
    max_m: int
    max_m0: int
    m: int
    mult: float
    ef_construction: int

    @property
    def dimension(self) -> int:
        """The number of float32 values of a vector."""
        return (self.label_offset - self.vector_offset) // 4


def read_header(folder: Path) -> Header | None:
    """The header of a segment, None before its first sync. Raises `BrokenIndex`; `UnsupportedIndex` for another version."""
    try:
        with (folder / "header.bin").open("rb") as file:
            content, size = file.read(_HEADER.size), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return None
    if not len(content) == size == _HEADER.size:
        raise BrokenIndex(f"header.bin has {size} bytes instead of {_HEADER.size}", "header.bin")
    header = Header(*_HEADER.unpack(content))
    if header.version < 1:
        raise BrokenIndex(f"the header has the format version {header.version}, which does not exist", "header.bin", 0)
    if header.version > 1:
        raise UnsupportedIndex(f"the index has format version {header.version}; 1 is supported", "header.bin", 0)
    in_order = header.vector_offset < header.label_offset <= header.size_per_element - _U64.size
    if not in_order or (header.label_offset - header.vector_offset) % 4:
        raise BrokenIndex("the header's offsets contradict each other", "header.bin", 36)
    return header


def check_structure(folder: Path) -> int:
    """Compare the sizes of a segment's files with each other and return the number of elements.

    They fit whenever the files are at rest, also after updates, deletes and additions. Two files may be longer than their
    elements need, by as many elements: they are created for 100 to 10,000, written in place and never truncated. When all
    elements of an index are deleted, the client that opens it next starts a new one, whose id table still counts them. Reads
    the sizes, 100 bytes of header and the head of the id table. Raises `BrokenIndex`.
    """
    header = read_header(folder)
    has_table = (folder / PICKLE).exists()
    if header is None:
        if has_table:
            raise BrokenIndex("there is an id table but no header.bin", "header.bin")
        return 0
    if not has_table:
        if header.count:
            raise BrokenIndex(f"the index holds {header.count} elements and has no id table", PICKLE)
        return 0
    if header.count == 0 and next(labels(folder), None) is None:
        return 0
    room = set()
    for name, width in {"length.bin": 4, "data_level0.bin": header.size_per_element}.items():
        needed = header.count * width
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            raise BrokenIndex(f"{name} is missing", name) from None
        if size < needed:
            raise BrokenIndex(f"{name} has {size} bytes; {header.count} elements need {needed}", name, size)
        room.add(size / width)
    if len(room) > 1:
        raise BrokenIndex("it has room for another number of elements than data_level0.bin", "length.bin")
    added = total_added(folder)
    if added != header.count:
        raise BrokenIndex(f"the id table counts {added} elements and header.bin {header.count}", PICKLE)
    return header.count


def index_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """The files of an index, each with its size and time of change."""
    found = []
    for name in FILES:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = (folder / name).stat()
            found.append((name, status.st_size, status.st_mtime_ns))
    return found
