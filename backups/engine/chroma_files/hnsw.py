"""The HNSW files of a Chroma segment, read directly (format version 1 of chroma-hnswlib, little-endian).

==================== ====================================================================================
file                 content
==================== ====================================================================================
header.bin           100 bytes, struct ``<i6QiI3QdQ`` (`Header`)
data_level0.bin      size_per_element bytes an element: links, the float32 vector, the label (u64) last
length.bin           4 bytes an element; with cosine distance the vector's length (float32), whose unit
                     vector is what data_level0.bin holds
link_lists.bin       links above level 0
index_metadata.pickle  ids and labels; written last, so it tells how far the others are
==================== ====================================================================================

The pickle is read by a scanner that knows only the opcodes which Chroma writes: nothing in it is ever executed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILES = ("header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle")
_HEADER = struct.Struct("<i6QiI3QdQ")
_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_U64 = struct.Struct("<Q")


class BrokenIndex(Exception):
    """The files of a segment do not fit each other; ``file`` and ``offset`` tell where that shows."""

    def __init__(self, message: str, file: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.offset = offset


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
        """The number of float32 values in a vector."""
        return (self.label_offset - self.vector_offset) // 4


def read_header(folder: Path) -> Header | None:
    """The header of a segment, None before its first sync. Raises `BrokenIndex`."""
    try:
        content = (folder / "header.bin").read_bytes()
    except FileNotFoundError:
        return None
    if len(content) != _HEADER.size:
        raise BrokenIndex(f"header.bin has {len(content)} bytes instead of {_HEADER.size}", "header.bin")
    header = Header(*_HEADER.unpack(content))
    if header.version != 1:
        raise BrokenIndex(f"the index has format version {header.version}; 1 is supported", "header.bin", 0)
    in_order = header.vector_offset < header.label_offset <= header.size_per_element - _U64.size
    if not in_order or (header.label_offset - header.vector_offset) % 4:
        raise BrokenIndex("the header's offsets contradict each other", "header.bin", 36)
    return header


def check_structure(folder: Path) -> int:
    """Compare the sizes of a segment's files with each other and return the number of elements.

    Holds whenever the files are at rest, also after updates, deletes and additions. The files may be longer than the elements
    need: they are made for 100, written in place, and never cut off. An index whose elements are all deleted is begun anew
    by the client that opens it, while its id table still counts them. Reads the sizes, 100 bytes of header and the head of
    the pickle. Raises `BrokenIndex`.
    """
    header = read_header(folder)
    pickle = folder / "index_metadata.pickle"
    if header is None:
        if pickle.exists():
            raise BrokenIndex("there is an id table but no header.bin", "header.bin")
        return 0
    if not pickle.exists():
        if header.count:
            raise BrokenIndex(f"the index holds {header.count} elements and has no id table", "index_metadata.pickle")
        return 0
    if header.count == 0 and next(labels(pickle), None) is None:
        return 0
    element = {"length.bin": 4, "data_level0.bin": header.size_per_element}
    for name, width in element.items():
        wanted = header.count * width
        try:
            size = (folder / name).stat().st_size
        except FileNotFoundError:
            raise BrokenIndex(f"{name} is missing", name) from None
        if size < wanted:
            raise BrokenIndex(f"{name} has {size} bytes; {header.count} elements need {wanted}", name, size)
    added = total_added(pickle)
    if added != header.count:
        raise BrokenIndex(f"the id table counts {added} elements and header.bin {header.count}", "index_metadata.pickle")
    return header.count


def check_links(folder: Path) -> None:
    """Walk ``link_lists.bin``: of each element the length in bytes of its links above level 0 (u32), then those links.

    Reads the file; a search survives much of what can be wrong with it, so nothing else would tell. Raises `BrokenIndex`.
    """
    header = read_header(folder)
    if header is None or not header.count:
        return
    try:
        content = (folder / "link_lists.bin").read_bytes()
    except FileNotFoundError:
        raise BrokenIndex("link_lists.bin is missing", "link_lists.bin") from None
    at = 0
    for element in range(header.count):
        if at + 4 > len(content):
            raise BrokenIndex(f"link_lists.bin ends after {element} of {header.count} elements", "link_lists.bin", at)
        at += 4 + _U32.unpack_from(content, at)[0]
    if at > len(content):
        raise BrokenIndex("link_lists.bin ends within the links of its last element", "link_lists.bin", len(content))


def total_added(pickle: Path) -> int:
    """``total_elements_added`` of an id table, which stands near its head."""
    for key, value in scan(pickle, _HEAD):
        if key == ("total_elements_added",):
            if not isinstance(value, int):
                break
            return value
    raise BrokenIndex("the id table does not say how many elements were added", "index_metadata.pickle")


def labels(pickle: Path) -> Iterator[tuple[str, int]]:
    """Each (id, label) of an id table, in its order.

    Reads on to the end, where the same pairs stand once more the other way round: half a table is one being written.
    """
    for key, value in scan(pickle):
        if len(key) == 2 and key[0] == "id_to_label":
            if not isinstance(value, int):
                raise BrokenIndex("an id has a label that is no number", "index_metadata.pickle")
            yield str(key[1]), value


Scalar = str | int | float | None
Key = tuple[Scalar, ...]


_HEAD = 1 << 16


def scan(pickle: Path, most: int = -1) -> Iterator[tuple[Key, Scalar]]:
    """Every scalar of a pickled tree of dictionaries with its path of keys, from left to right, of the first *most* bytes.

    Knows the opcodes for dict, str, int, float, bool and None (https://docs.python.org/3/library/pickletools.html) and
    raises `BrokenIndex` for any other, so an object that runs code when it is loaded is only ever looked at. The file is
    read and not mapped: Chroma cuts it off to write it anew, and a mapping would then end the process with SIGBUS.
    """
    name = "index_metadata.pickle"
    with pickle.open("rb") as file:
        content = file.read(most)
    if not content:
        raise BrokenIndex("the id table is empty", name, 0)
    try:
        yield from _scan(content, name)
    except (IndexError, struct.error):
        raise BrokenIndex("the id table ends too early", name, len(content)) from None
    except UnicodeDecodeError:
        raise BrokenIndex("the id table holds an id that is no UTF-8", name) from None


_PASSED_OVER = {0x94: 0, 0x71: 1, 0x72: 4, 0x80: 1, 0x95: 8}
"""MEMOIZE, BINPUT, LONG_BINPUT, PROTO and FRAME, each with the length of its argument."""


_MOST_NESTED = 8


def _scan(content: bytes, name: str) -> Iterator[tuple[Key, Scalar]]:
    at = 0
    path: Key = ()
    key: Scalar = None
    have_key = False
    depth = 0
    between = False  # after EMPTY_DICT or SETITEMS: a MARK says that more items of the same dictionary follow
    while True:
        start, op = at, content[at]
        at += 1
        if between and op not in _PASSED_OVER:
            between = False
            if op == 0x28:  # MARK
                continue
            path, depth = path[:-1], depth - 1
        value: Scalar
        if op == 0x58:  # BINUNICODE
            (length,) = _U32.unpack_from(content, at)
            if at + 4 + length > len(content):
                raise BrokenIndex("the id table ends too early", name, start)
            value = content[at + 4 : at + 4 + length].decode()
            at += 4 + length
        elif op == 0x4A:  # BININT
            (value,) = _I32.unpack_from(content, at)
            at += 4
        elif op == 0x4B:  # BININT1
            value = content[at]
            at += 1
        elif op == 0x4D:  # BININT2
            value = content[at] | content[at + 1] << 8
            at += 2
        elif op == 0x8A:  # LONG1
            length = content[at]
            value = int.from_bytes(content[at + 1 : at + 1 + length], "little", signed=True)
            at += 1 + length
        elif op == 0x8C:  # SHORT_BINUNICODE
            length = content[at]
            value = content[at + 1 : at + 1 + length].decode()
            at += 1 + length
        elif op == 0x47:  # BINFLOAT
            (value,) = struct.unpack_from(">d", content, at)
            at += 8
        elif op == 0x4E:  # NONE
            value = None
        elif op in (0x88, 0x89):  # NEWTRUE, NEWFALSE
            value = op == 0x88
        elif op == 0x7D:  # EMPTY_DICT: the value of the key before it, or the root
            if depth == _MOST_NESTED:
                raise BrokenIndex("the id table is nested too deep", name, start)
            if have_key:
                path, have_key = (*path, key), False
                yield path, None
            depth, between = depth + 1, True
            continue
        elif op == 0x75:  # SETITEMS ends some of a dictionary's items
            between = True
            continue
        elif op in _PASSED_OVER:
            at += _PASSED_OVER[op]
            continue
        elif op == 0x2E:  # STOP
            return
        else:
            raise BrokenIndex(f"the id table holds the opcode {op:#04x}, which Chroma does not write", name, start)
        if not depth:
            raise BrokenIndex("the id table is no dictionary", name, start)
        if have_key:
            have_key = False
            yield (*path, key), value
        else:
            key, have_key = value, True
