"""The records of a Chroma directory at rest, and digests of them that a restored copy must reproduce.

A digest of a collection is the sum, modulo 2**256, of the BLAKE3 of each of its records: a set hash (Bellare and Micciancio,
"A New Paradigm for Collision-free Hashing", 1997, AdHash), so records are read in whatever order they lie on disk and never
sorted or held in memory. It guards against loss and change, not against an adversary who makes up both sides.

=========== ==========================================================================================================
digest      hashed for each record
=========== ==========================================================================================================
``indexed`` ``u32 length of id, id, float32 values``, little-endian, of every record in the index files
``recent``  ``u64 sequence number, u32 operation, u32 length of id, id, vector as logged``, of every log record after them
``records`` ``repr`` of ``(id, ((key, string, integer, float, boolean), ...))``, by key; the document is the key
            ``chroma:document``; values of a list follow in their order, with the key's name
=========== ==========================================================================================================

Being sums, digests are carried on: where all that was digested before is still there and unchanged, which the sequence numbers
of the records tell (Chroma gives a record a new one with every change), only what is new is read and added.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from . import hnsw
from .directory import DATABASE, Positions, log_rows, positions

_MODULUS = 1 << 256
_CHUNK = 4 << 20
_ADD, _UPDATE, _UPSERT, _DELETE = range(4)


class SetHash:
    """A hash of a set of byte strings that does not depend on their order."""

    def __init__(self, count: int = 0, digest: str = "") -> None:
        self.count = count
        self._total = int.from_bytes(bytes.fromhex(digest), "little")

    def add(self, record: bytes) -> None:
        """Count one more member."""
        self.count += 1
        self._total += int.from_bytes(blake3(record).digest(), "little")

    def hexdigest(self) -> str:
        """The sum as 64 hexadecimal digits."""
        return (self._total % _MODULUS).to_bytes(32, "little").hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The digests that a parent backup has of a collection, and the positions at which it was then."""

    metadata_at: int
    vector_at: int
    count: int
    indexed_count: int | None
    indexed: str
    records: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionDigest:
    """The digests of one collection. ``indexed`` is None when its index was not there to be read: it has not changed."""

    positions: Positions
    count: int
    indexed_count: int | None
    indexed: str | None
    recent: str
    records: str


def open_at_rest(directory: Path) -> sqlite3.Connection:
    """A read-only connection to the database of a copy that nobody writes to; leaves no lock and no file behind."""
    return sqlite3.connect(f"file:{quote(str(directory / DATABASE))}?mode=ro&immutable=1", uri=True)


def digest_collections(
    directory: Path, known: dict[str, Known], check: Callable[[], None] = lambda: None
) -> list[CollectionDigest | Positions]:
    """The digests of the collections in a directory at rest, by name.

    *known* maps ids of collections to what is known of them: of those that have not moved the `Positions` alone are returned.
    An index whose files are not in *directory*, because they have not changed, is not digested. Raises `hnsw.BrokenIndex` and
    `sqlite3.DatabaseError`.
    """
    database = open_at_rest(directory)
    try:
        return [
            collection
            if _is_unmoved(known.get(collection.id), collection) and not _index_is_here(directory, collection)
            else _digest(directory, database, collection, known.get(collection.id), check)
            for collection in positions(database)
        ]
    finally:
        database.close()


def _is_unmoved(known: Known | None, collection: Positions) -> bool:
    return known is not None and (known.metadata_at, known.vector_at) == (collection.metadata_at, collection.vector_at)


def _index_is_here(directory: Path, collection: Positions) -> bool:
    """Whether the folder of the index was copied: something in it changed or went since the parent."""
    return collection.vector_segment != "" and (directory / collection.vector_segment).is_dir()


def _digest(
    directory: Path,
    database: sqlite3.Connection,
    collection: Positions,
    known: Known | None,
    check: Callable[[], None],
) -> CollectionDigest:
    records = _digest_records(database, collection, known, check)
    recent = SetHash()
    for number, operation, identifier, vector in log_rows(database, collection, collection.vector_at):
        recent.add(struct.pack("<QI", number, operation) + _prefixed(identifier) + (vector or b""))
    folder = directory / collection.vector_segment
    indexed: SetHash | None = None
    if known is None or _index_is_here(directory, collection):
        # files that changed without a write are no reason to believe the digest that was made of them before
        indexed = _digest_index(folder, database, collection, None if _is_unmoved(known, collection) else known, check)
        older = _unchanged_since(database, collection, collection.vector_at)
        if older > indexed.count:
            raise hnsw.BrokenIndex(
                f"{older} records of {collection.name} are older than its index, which holds {indexed.count}",
                "index_metadata.pickle",
            )
    return CollectionDigest(
        positions=collection,
        count=records.count,
        indexed_count=indexed.count if indexed is not None else None,
        indexed=indexed.hexdigest() if indexed is not None else None,
        recent=recent.hexdigest(),
        records=records.hexdigest(),
    )


def _unchanged_since(database: sqlite3.Connection, collection: Positions, position: int) -> int:
    """The number of records that nobody changed after a position of the log."""
    return int(
        database.execute(
            "SELECT count(*) FROM embeddings WHERE segment_id = ? AND seq_id <= ?", (collection.metadata_segment, position)
        ).fetchone()[0]
    )


def _digest_records(
    database: sqlite3.Connection, collection: Positions, known: Known | None, check: Callable[[], None]
) -> SetHash:
    records, after = SetHash(), None
    if known is not None and _unchanged_since(database, collection, known.metadata_at) == known.count:
        records, after = SetHash(known.count, known.records), known.metadata_at
    for record in stored_records(database, collection, after):
        records.add(repr(record).encode("utf-8", "surrogatepass"))
        if not records.count % 1024:
            check()
    return records


def _digest_index(
    folder: Path, database: sqlite3.Connection, collection: Positions, known: Known | None, check: Callable[[], None]
) -> SetHash:
    vectors = SetHash()
    if not collection.vector_segment or not hnsw.check_structure(folder):
        return vectors
    hnsw.check_links(folder)
    pickle = folder / "index_metadata.pickle"
    wanted = _new_in_index(database, collection, known, pickle)
    if wanted is not None and known is not None:
        vectors = SetHash(known.indexed_count or 0, known.indexed)
    for identifier, vector in _indexed(folder, pickle, collection, wanted):
        vectors.add(_prefixed(identifier) + vector)
        if not vectors.count % 1024:
            check()
    return vectors


def _new_in_index(database: sqlite3.Connection, collection: Positions, known: Known | None, pickle: Path) -> set[str] | None:
    """The ids that are new in the index since *known*; None unless all others are as they were digested then."""
    if known is None or known.indexed_count is None:
        return None
    if _unchanged_since(database, collection, known.vector_at) != known.indexed_count:
        return None
    changed = {
        identifier
        for (identifier,) in database.execute(
            "SELECT embedding_id FROM embeddings WHERE segment_id = ? AND seq_id > ?",
            (collection.metadata_segment, known.vector_at),
        )
    }
    total = 0
    new = set()
    for identifier, _ in hnsw.labels(pickle):
        total += 1
        if identifier in changed:
            new.add(identifier)
    return new if total - len(new) == known.indexed_count else None


def _prefixed(identifier: str) -> bytes:
    encoded = identifier.encode("utf-8", "surrogatepass")
    return struct.pack("<I", len(encoded)) + encoded


Value = tuple[str | int | float | bool | None, ...]
"""A metadata row: key, string, integer, float, boolean, and a sixth field, true, for one value of a list."""


def stored_records(
    database: sqlite3.Connection, collection: Positions, after: int | None = None
) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Each record's id and its metadata rows, document included, ordered by key; with *after* those changed since then."""
    rows = database.execute(
        "SELECT e.id, e.embedding_id, m.key, m.string_value, m.int_value, m.float_value, m.bool_value FROM embeddings e"
        " LEFT JOIN embedding_metadata m ON m.id = e.id WHERE e.segment_id = ? AND (? IS NULL OR e.seq_id > ?)"
        " ORDER BY e.id, m.key",
        (collection.metadata_segment, after, after),
    )
    lists = _lists(database, collection, after)
    pending = next(lists, None)
    for (number, identifier), group in itertools.groupby(rows, key=lambda row: row[:2]):
        values = [row[2:] for row in group if row[2] is not None]
        while pending is not None and pending[0] <= number:
            if pending[0] == number:
                values.append((*pending[1:], True))
            pending = next(lists, None)
        yield identifier, tuple(values)


def _lists(
    database: sqlite3.Connection, collection: Positions, after: int | None
) -> Iterator[tuple[int, str, str, int, float, int]]:
    """The rows of metadata that holds lists, ordered as `stored_records` needs them."""
    if database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'embedding_metadata_array'").fetchone():
        yield from database.execute(
            "SELECT a.id, a.key, a.string_value, a.int_value, a.float_value, a.bool_value"
            " FROM embedding_metadata_array a JOIN embeddings e ON e.id = a.id WHERE e.segment_id = ?"
            " AND (? IS NULL OR e.seq_id > ?) ORDER BY a.id, a.key, a.rowid",
            (collection.metadata_segment, after, after),
        )


def stored_vectors(directory: Path, database: sqlite3.Connection, collection: Positions) -> Iterator[tuple[str, bytes]]:
    """Each record's id and vector (float32, little-endian), from the index files and, where those lag behind, the log.

    A vector from the index of a cosine collection is its unit vector times its length, as Chroma returns it; one from the log
    is as it was added. Reads the index from front to back; memory is some 20 bytes a record.
    """
    folder = directory / collection.vector_segment
    pickle = folder / "index_metadata.pickle"
    indexed = bool(collection.vector_segment) and hnsw.check_structure(folder) > 0
    changed = _replay(database, collection, pickle if indexed else None)
    if indexed:
        for identifier, vector in _indexed(folder, pickle, collection):
            if identifier not in changed:
                yield identifier, vector
    for identifier, newest in changed.items():
        if newest is not None:
            yield identifier, newest


def _replay(database: sqlite3.Connection, collection: Positions, pickle: Path | None) -> dict[str, bytes | None]:
    """The vectors that the log changes after the index's position, None for a deleted one.

    By the rules that Chroma replays it with: an add of an id that exists is ignored, as is an update of one that does not.
    """
    rows = list(log_rows(database, collection, collection.vector_at))
    logged = {identifier for _, _, identifier, _ in rows}
    indexed = {name for name, _ in hnsw.labels(pickle) if name in logged} if pickle is not None and rows else set()
    changed: dict[str, bytes | None] = {}
    for _, operation, identifier, vector in rows:
        exists = changed[identifier] is not None if identifier in changed else identifier in indexed
        if operation == _DELETE:
            if exists:
                changed[identifier] = None
        elif vector is not None and not (operation == _ADD and exists) and not (operation == _UPDATE and not exists):
            changed[identifier] = vector
    return changed


def _indexed(folder: Path, pickle: Path, collection: Positions, wanted: set[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Each id of an index with its vector; those of *wanted* alone where it is given."""
    header = hnsw.read_header(folder)
    assert header is not None
    names = _Names(pickle, 4 * header.count + 1024, wanted)
    lengths = None
    if collection.space == "cosine":
        lengths = np.fromfile(folder / "length.bin", dtype="<f4", count=header.count)
    size = header.size_per_element
    per_chunk = max(1, _CHUNK // size)
    descriptor = os.open(folder / "data_level0.bin", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for first in range(0, header.count, per_chunk):
            count = min(per_chunk, header.count - first)
            content = os.pread(descriptor, count * size, first * size)
            if len(content) != count * size:
                raise hnsw.BrokenIndex("the index ends too early", "data_level0.bin", first * size + len(content))
            elements = np.frombuffer(content, dtype=np.uint8).reshape(count, size)
            labels = elements[:, header.label_offset : header.label_offset + 8].copy().view("<u8").ravel()
            rows = np.flatnonzero(names.has(labels))
            vectors = elements[rows, header.vector_offset : header.label_offset].copy().view("<f4")
            if lengths is not None:
                vectors = vectors * lengths[first + rows, None]
            packed = memoryview(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            width = header.dimension * 4
            for number, label in enumerate(labels[rows].tolist()):
                yield names.take(label), bytes(packed[number * width : (number + 1) * width])
    finally:
        os.close(descriptor)
    names.check_all_taken()


class _Names:
    """The ids of an index by label, packed: 20 bytes and the id itself a record."""

    def __init__(self, pickle: Path, most: int, wanted: set[str] | None) -> None:
        self._text = bytearray()
        self._start = array("q")
        self._length = array("i")
        self._left = 0
        for identifier, label in hnsw.labels(pickle):
            if not 0 <= label <= most:
                raise hnsw.BrokenIndex(f"the label {label} is out of bounds", pickle.name)
            if wanted is not None and identifier not in wanted:
                continue
            if label >= len(self._start):
                grow = label + 1 - len(self._start)
                self._start.extend([-1] * grow)
                self._length.extend([0] * grow)
            encoded = identifier.encode("utf-8", "surrogatepass")
            self._start[label], self._length[label] = len(self._text), len(encoded)
            self._text += encoded
            self._left += 1

    def has(self, labels: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of *labels* have an id that was not taken yet; deleted elements carry none."""
        known = np.zeros(len(labels), dtype=np.bool_)
        inside = np.flatnonzero(labels < len(self._start))
        if len(inside):
            known[inside] = np.frombuffer(self._start, dtype=np.int64)[labels[inside]] >= 0
        return known

    def take(self, label: int) -> str:
        """The id of a label that it has; once, for no two elements may have one label. Raises `hnsw.BrokenIndex`."""
        start = self._start[label]
        if start < 0:
            raise hnsw.BrokenIndex(f"two elements have the label {label}", "data_level0.bin")
        self._start[label] = -1
        self._left -= 1
        return self._text[start : start + self._length[label]].decode("utf-8", "surrogatepass")

    def check_all_taken(self) -> None:
        """Raise `hnsw.BrokenIndex` when an id names an element that the index has not."""
        if self._left:
            raise hnsw.BrokenIndex(f"{self._left} ids name elements that the index does not hold", "data_level0.bin")
