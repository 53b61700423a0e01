"""The HNSW files of a Chroma collection (format version 1 of chroma-hnswlib, little-endian), read directly.

``header.bin`` says how long an element of ``data_level0.bin`` is and where in it vector and label are; ``length.bin`` holds
the lengths of the vectors of a cosine collection, whose elements are unit vectors; ``index_metadata.pickle`` gives ids their
labels. The pickle is read by a scanner that knows only what Chroma writes, so nothing in it is ever executed.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import StoreUnreadable

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_HEADER = struct.Struct("<i6QiI3QdQ")
_CHUNK = 4 << 20
_GAP = 12
"""Elements between two wanted ones that are rather read along than skipped."""

PICKLE = "index_metadata.pickle"


class TornIndex(StoreUnreadable):
    """The files do not fit each other: they are being written, or they are damaged."""


class Index:
    """The vectors that *folder* holds, by label. Opens ``data_level0.bin`` for as long as it lives."""

    def __init__(self, folder: Path, *, cosine: bool) -> None:
        self.folder = folder
        self.count = self.dimension = 0
        self._file = -1
        self._slots: npt.NDArray[np.int32] = np.zeros(0, np.int32)
        self._lengths: Floats | None = None
        try:
            content = (folder / "header.bin").read_bytes()
        except FileNotFoundError:
            if (folder / PICKLE).exists():
                raise TornIndex(f"{folder} has an id table but no header.bin.") from None
            return
        if len(content) != _HEADER.size:
            raise TornIndex(f"{folder / 'header.bin'} has {len(content)} bytes instead of {_HEADER.size}.")
        version, _, _, self.count, self._size, self._label_at, self._vector_at, *_ = _HEADER.unpack(content)
        if version != 1:
            raise StoreUnreadable(f"{folder} has format version {version}; 1 is known.")
        if not self._vector_at < self._label_at <= self._size - 8 or (self._label_at - self._vector_at) % 4:
            raise TornIndex(f"The offsets in {folder / 'header.bin'} contradict each other.")
        if not (folder / PICKLE).exists():
            self.count = 0  # never synced: an empty index
        if not self.count:
            return
        self.dimension = (self._label_at - self._vector_at) // 4
        try:
            self._file = os.open(folder / "data_level0.bin", os.O_RDONLY | os.O_CLOEXEC)
            if cosine:
                self._lengths = np.fromfile(folder / "length.bin", dtype="<f4", count=self.count)
        except FileNotFoundError as problem:
            raise TornIndex(f"{problem.filename} is missing.") from None
        if self._lengths is not None and len(self._lengths) != self.count:
            raise TornIndex(f"{folder / 'length.bin'} ends too early.")
        self._read_labels()

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def gather(self, labels: Integers) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The vectors of *labels*, one a row, and which of them there are."""
        slots = np.full(len(labels), -1, np.int64)
        inside = (labels >= 0) & (labels < len(self._slots))
        slots[inside] = self._slots[labels[inside]]
        there = slots >= 0
        vectors = np.zeros((len(labels), self.dimension), np.float32)
        order = np.flatnonzero(there)
        order = order[np.argsort(slots[order], kind="stable")]
        for run in np.split(order, np.flatnonzero(np.diff(slots[order]) > _GAP) + 1):
            if not len(run):
                continue
            first = int(slots[run[0]])
            elements = self._elements(first, int(slots[run[-1]]) - first + 1)
            picked = elements[slots[run] - first, self._vector_at : self._label_at]
            vectors[run] = np.ascontiguousarray(picked).view("<f4")
        if self._lengths is not None:
            vectors[order] *= self._lengths[slots[order], None]
        return vectors, there

    def _read_labels(self) -> None:
        """Note in which place each label's element is."""
        per_chunk = max(1, _CHUNK // self._size)
        places = np.zeros(self.count, np.int64)
        for first in range(0, self.count, per_chunk):
            elements = self._elements(first, min(per_chunk, self.count - first))
            labels = np.ascontiguousarray(elements[:, self._label_at : self._label_at + 8]).view("<u8").ravel()
            places[first : first + len(labels)] = np.minimum(labels, 1 << 62).astype(np.int64)
        highest = int(places.max(initial=0))
        if highest > 16 * self.count + 1024:
            raise TornIndex(f"{self.folder / 'data_level0.bin'} holds a label that is out of bounds.")
        self._slots = np.full(highest + 1, -1, np.int32)
        self._slots[places] = np.arange(self.count, dtype=np.int32)

    def _elements(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        content = os.pread(self._file, count * self._size, first * self._size)
        if len(content) != count * self._size:
            raise TornIndex(f"{self.folder / 'data_level0.bin'} ends too early.")
        return np.frombuffer(content, np.uint8).reshape(count, self._size)


_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")


def labels(folder: Path, count: int) -> Iterator[tuple[str, int]]:
    """Each id of an index with its label, in the order of the table. *count* is what the header says.

    Memory does not grow with the table. Raises `TornIndex`.
    """
    pickle = folder / PICKLE
    try:
        with pickle.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b".":
                raise TornIndex(f"{pickle} ends too early.")
            file.seek(0)
            yield from _Scanner(file.read, pickle).pairs(count)
    except FileNotFoundError:
        raise TornIndex(f"{pickle} is missing.") from None
    except (OSError, IndexError, struct.error, UnicodeDecodeError):
        raise TornIndex(f"{pickle} is no id table, or ends too early.") from None


class _Scanner:
    """Reads the opcodes of a pickled tree of dictionaries (https://docs.python.org/3/library/pickletools.html)."""

    def __init__(self, read: Callable[[int], bytes], pickle: Path) -> None:
        self._read = read
        self._pickle = pickle
        self._content = b""
        self._at = 0

    def pairs(self, count: int) -> Iterator[tuple[str, int]]:
        """The members of ``id_to_label``; what stands before it is looked at, what follows repeats it."""
        self._more()
        if not re.match(rb"\x80.\}", self._content, re.DOTALL):  # PROTO, EMPTY_DICT
            raise self._torn("is no pickle of a dictionary")
        self._at = 3
        while (key := self._token()) != "id_to_label":
            if key == "total_elements_added" and (value := self._token()) != count:
                raise self._torn(f"counts {value} elements and header.bin {count}")
        if self._token() != "}":
            raise self._torn("has no table of labels")
        while self._peek() == 0x28:  # MARK; none where the table is empty
            self._at += 1
            yield from self._items()
        if self._token() != "label_to_id":
            raise self._torn("ends too early")

    def _items(self) -> Iterator[tuple[str, int]]:
        """The items between a MARK and its SETITEMS; most are a short text and a four-byte number."""
        content, at = self._content, self._at
        while True:
            if len(content) - at < 512:
                self._at = at
                self._more()
                content, at = self._content, self._at
            opcode = content[at]
            if opcode == 0x75:  # SETITEMS
                self._at = at + 1
                if len(content) == self._at:
                    self._more()
                return
            if opcode == 0x58:  # BINUNICODE
                end = at + 5 + _U32.unpack_from(content, at + 1)[0]
                if end + 5 <= len(content) and content[end] == 0x4A:  # BININT
                    yield content[at + 5 : end].decode(), _I32.unpack_from(content, end + 1)[0]
                    at = end + 5
                    continue
            self._at = at
            key, label = self._token(), self._token()
            if not isinstance(key, str) or not isinstance(label, int):
                raise self._torn("gives an id a label that is no number")
            yield key, label
            content, at = self._content, self._at

    def _token(self) -> str | int | None:
        """The next text or number; ``}`` for the beginning of a dictionary, None for what carries no value."""
        while True:
            if len(self._content) - self._at < 512:
                self._more()
            content, opcode = self._content, self._content[self._at]
            self._at += 1
            if opcode in (0x28, 0x75):  # MARK, SETITEMS
                continue
            if opcode == 0x7D:  # EMPTY_DICT
                return "}"
            if opcode == 0x58:  # BINUNICODE
                length = _U32.unpack_from(content, self._at)[0]
                while len(self._content) - self._at < 4 + length:
                    if not self._more():
                        raise self._torn("ends too early")
                text = self._content[self._at + 4 : self._at + 4 + length].decode()
                self._at += 4 + length
                return text
            if opcode == 0x4A:  # BININT
                self._at += 4
                return int(_I32.unpack_from(content, self._at - 4)[0])
            if opcode == 0x4B:  # BININT1
                self._at += 1
                return content[self._at - 1]
            if opcode == 0x4D:  # BININT2
                self._at += 2
                return int.from_bytes(content[self._at - 2 : self._at], "little")
            if opcode == 0x8A:  # LONG1
                length = content[self._at]
                self._at += 1 + length
                return int.from_bytes(content[self._at - length : self._at], "little", signed=True)
            if opcode in (0x4E, 0x88, 0x89):  # NONE, NEWTRUE, NEWFALSE
                return None
            raise self._torn(f"holds the opcode {opcode:#04x}, which Chroma does not write")

    def _peek(self) -> int:
        if len(self._content) - self._at < 512:
            self._more()
        return self._content[self._at]

    def _more(self) -> bool:
        """Read on, and forget what was used; False at the end of the file."""
        new = self._read(1 << 20)
        self._content = self._content[self._at :] + new
        self._at = 0
        return bool(new)

    def _torn(self, what: str) -> TornIndex:
        return TornIndex(f"{self._pickle} {what}.")
