"""The vectors in the HNSW files of one segment: all in the order of the file, or some by label."""

import os
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import BrokenIndex
from .hnsw import read_header
from .id_table import PICKLE, labels

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

_DATA = "data_level0.bin"
_CHUNK = 4 << 20
_ROUNDING = 0.01
_SHORTEST, _LONGEST = 1e-15, 1e15
"""Lengths whose squares are far from the limits of float32, with which hnswlib computes them."""
_GAP = 12
"""Elements between two wanted ones that are read along rather than skipped."""


class Index:
    """The index in *folder*; empty before the first sync of its segment. Holds a file open until `close`.

    *cosine*: elements are unit vectors, and are multiplied by their lengths, as Chroma returns them. Raises `BrokenIndex` when
    the files contradict each other, also while they are being written.
    """

    def __init__(self, folder: Path, *, cosine: bool) -> None:
        self.folder = folder
        self.count = self.dimension = 0
        self._file = -1
        self._slots: npt.NDArray[np.int32] | None = None
        self._lengths: Floats | None = None
        header = read_header(folder)
        has_table = (folder / PICKLE).exists()
        if header is None:
            if has_table:
                raise BrokenIndex("there is an id table but no header.bin", "header.bin")
            return
        if not header.count or not has_table:
            return
        self.count, self.dimension = header.count, header.dimension
        self._size, self._vector_at, self._label_at = header.size_per_element, header.vector_offset, header.label_offset
        try:
            self._file = os.open(folder / _DATA, os.O_RDONLY | os.O_CLOEXEC)
            if cosine:
                self._lengths = np.fromfile(folder / "length.bin", dtype="<f4", count=self.count)
        except FileNotFoundError as problem:
            self.close()
            name = Path(problem.filename).name
            raise BrokenIndex(f"{name} is missing", name) from None
        if self._lengths is not None and len(self._lengths) != self.count:
            self.close()
            raise BrokenIndex("length.bin ends too early", "length.bin", 4 * len(self._lengths))

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def labels(self) -> Iterator[tuple[str, int]]:
        """Each (id, label), in the order of the id table. Raises `BrokenIndex`."""
        return labels(self.folder, self.count) if self.count else iter(())

    def stream(self, wanted: set[str] | None = None) -> Iterator[tuple[str, bytes]]:
        """Each id with its vector (float32, little-endian), in the order of the file; only those of *wanted* if it is given.

        Memory is some 20 bytes and the id for each record. Raises `BrokenIndex`.
        """
        ids = _PackedIds(self, wanted)
        width = 4 * self.dimension
        for first, elements in self.chunks():
            of_elements = self.labels_in(elements)
            rows = np.flatnonzero(ids.has(of_elements))
            vectors = self._vectors_in(elements, rows)
            if self._lengths is not None:
                vectors = vectors * self._lengths[first + rows, None]
            packed = memoryview(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            for number, label in enumerate(of_elements[rows].tolist()):
                yield ids.take(label), bytes(packed[number * width : (number + 1) * width])
        ids.check_all_taken()

    def map_labels(self) -> None:
        """Read every element's label, so that `gather` can find it: 4 bytes of memory each. Raises `BrokenIndex`."""
        places = np.zeros(self.count, np.int64)
        for first, elements in self.chunks():
            places[first : first + len(elements)] = np.minimum(self.labels_in(elements), 1 << 62).astype(np.int64)
        highest = int(places.max(initial=-1))
        if highest > highest_label(self.count):
            raise BrokenIndex(f"the label {highest} is out of bounds", _DATA)
        self._slots = np.full(highest + 1, -1, np.int32)
        self._slots[places] = np.arange(self.count, dtype=np.int32)

    def gather(self, labels: Integers) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """The vectors of *labels*, one a row, and a mask of the labels that exist. Needs `map_labels`."""
        assert self._slots is not None
        slots = np.full(len(labels), -1, np.int64)
        inside = (labels >= 0) & (labels < len(self._slots))
        slots[inside] = self._slots[labels[inside]]
        exist = slots >= 0
        vectors = np.zeros((len(labels), self.dimension), np.float32)
        order = np.flatnonzero(exist)
        order = order[np.argsort(slots[order], kind="stable")]
        for run in np.split(order, np.flatnonzero(np.diff(slots[order]) > _GAP) + 1):
            if len(run):
                first = int(slots[run[0]])
                elements = self._elements(first, int(slots[run[-1]]) - first + 1)
                vectors[run] = self._vectors_in(elements, slots[run] - first)
        if self._lengths is not None:
            vectors[order] *= self._lengths[slots[order], None]
        return vectors, exist

    def chunks(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """The elements as rows of bytes, in the order of the file and some MiB at a time, each time with the first's number."""
        per_chunk = max(1, _CHUNK // self._size) if self.count else 1
        for first in range(0, self.count, per_chunk):
            yield first, self._elements(first, min(per_chunk, self.count - first))

    def _elements(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        content = os.pread(self._file, count * self._size, first * self._size)
        if len(content) != count * self._size:
            raise BrokenIndex("the index ends too early", _DATA, first * self._size + len(content))
        return np.frombuffer(content, np.uint8).reshape(count, self._size)

    def labels_in(self, elements: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
        """The labels of *elements*."""
        return np.ascontiguousarray(elements[:, self._label_at : self._label_at + 8]).view("<u8").ravel()

    def wrong_lengths(self, first: int, elements: npt.NDArray[np.uint8]) -> Integers:
        """Which of *elements* have another length than 1, or a stored length that cannot be; the first has the number *first*.

        Only with cosine distance, and not where the stored length is so small or large that Chroma may fail to normalize.
        """
        if self._lengths is None:
            return np.zeros(0, np.int64)
        lengths = self._lengths[first : first + len(elements)]
        vectors = self._vectors_in(elements, np.arange(len(elements)))
        with np.errstate(over="ignore", invalid="ignore"):
            unit = np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1) < _ROUNDING
            return np.flatnonzero(np.where(unit, ~(lengths > 0), (lengths > _SHORTEST) & (lengths < _LONGEST)))

    def _vectors_in(self, elements: npt.NDArray[np.uint8], rows: Integers) -> Floats:
        return np.ascontiguousarray(elements[rows, self._vector_at : self._label_at]).view("<f4")


def highest_label(count: int) -> int:
    """The highest label accepted in an index of *count* elements; a damaged one could otherwise exhaust the memory."""
    return 4 * count + 1024


class _PackedIds:
    """The ids of an index by label, packed."""

    def __init__(self, index: Index, wanted: set[str] | None) -> None:
        self._text = bytearray()
        self._start = array("q")
        self._length = array("i")
        self._left = 0
        highest = highest_label(index.count)
        for identifier, label in index.labels():
            if not 0 <= label <= highest:
                raise BrokenIndex(f"the label {label} is out of bounds", PICKLE)
            if wanted is not None and identifier not in wanted:
                continue
            if label >= len(self._start):
                grow = label + 1 - len(self._start)
                self._start.extend([-1] * grow)
                self._length.extend([0] * grow)
            encoded = identifier.encode()
            self._start[label], self._length[label] = len(self._text), len(encoded)
            self._text += encoded
            self._left += 1

    def has(self, labels: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of *labels* have an id that was not taken yet; deleted elements have none."""
        found = np.zeros(len(labels), dtype=np.bool_)
        inside = np.flatnonzero(labels < len(self._start))
        if len(inside):
            found[inside] = np.frombuffer(self._start, dtype=np.int64)[labels[inside]] >= 0
        return found

    def take(self, label: int) -> str:
        """The id of a label, once. Raises `BrokenIndex` when two elements have the label."""
        start = self._start[label]
        if start < 0:
            raise BrokenIndex(f"two elements have the label {label}", _DATA)
        self._start[label] = -1
        self._left -= 1
        return self._text[start : start + self._length[label]].decode()

    def check_all_taken(self) -> None:
        """Raise `BrokenIndex` when an id names an element that the index does not hold."""
        if self._left:
            raise BrokenIndex(f"{self._left} ids name elements that the index does not hold", _DATA)
