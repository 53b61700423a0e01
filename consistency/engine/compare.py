"""The pass over everything: compares rows and vectors by id, window by window, and finds the ids that are not certainly equal.

Both stores are read in order of ids. A window holds all that either has up to some id, so memory depends on the size of a
window alone. A second thread compares vectors as matrices, and metadata inside SQLite, which has both databases attached and
returns only differences; meanwhile the next window is read.
"""

import sqlite3
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np

from backups.engine.chroma_files.index import Floats
from backups.engine.chroma_files.records import DOCUMENT, record_pages
from backups.engine.chroma_files.tables import Collection
from backups.engine.chroma_files.vectors import Vectors

from .mapping import Field, Mapping
from .rows import Rows, RowTuple, document_expression, expression, joins, literal, orphan_expression, tables

_WINDOW_BYTES = 12 << 20
_FEWEST, _MOST = 128, 4096
COSINE_TOLERANCE = 1e-5
"""Tolerance for a vector of a cosine collection, relative to its length: Chroma stores a unit vector and a length."""

_first = itemgetter(0)


def window_size(dimension: int) -> int:
    """The number of records in a window: fewer for longer vectors."""
    return max(_FEWEST, min(_MOST, _WINDOW_BYTES // (4 * max(dimension, 1))))


class Sorted:
    """A sorted stream of tuples, from which all up to some first member can be taken."""

    def __init__(self, pages: Iterator[list[Any]]) -> None:
        self._pages = pages
        self._held: list[Any] = []
        self._ended = False

    def fill(self, size: int) -> str | None:
        """Read until *size* members are held. Returns the last one's key, or None at the end of the stream."""
        while len(self._held) < size and not self._ended:
            page = next(self._pages, None)
            if page is None:
                self._ended = True
            else:
                self._held += page
        return None if self._ended else self._held[size - 1][0]

    def take(self, bound: str | None) -> list[Any]:
        """All held members up to *bound*, or all."""
        cut = len(self._held) if bound is None else bisect_right(self._held, bound, key=_first)
        taken, self._held = self._held[:cut], self._held[cut:]
        return taken


def fetched(cursor: sqlite3.Cursor, size: int) -> Iterator[list[Any]]:
    """The rows of a cursor, *size* at a time."""
    while page := cursor.fetchmany(size):
        yield page


def windows(streams: Sequence[Sorted], size: int) -> Iterator[list[list[Any]]]:
    """The members of each of *streams*, for one range of ids after the other."""
    while True:
        ends = [end for stream in streams if (end := stream.fill(size)) is not None]
        parts = [stream.take(min(ends) if ends else None) for stream in streams]
        if any(parts):
            yield parts
        elif not ends:
            return


class MetadataQuery:
    """Compares the metadata of pairs of a record and a row inside SQLite: the application's database with Chroma's attached."""

    def __init__(self, database: sqlite3.Connection, mapping: Mapping) -> None:
        self._database = database
        fields = [(field.key, _same(field)) for field in _compared(mapping)]
        absent = [f"({expression(field.column)} IS NULL)" for field in _compared(mapping)]
        if mapping.document:
            fields.append((DOCUMENT, f"m.string_value IS {document_expression(mapping)}"))
        self.needed = bool(fields) or mapping.parent is not None
        cases = " ".join(f"WHEN {literal(key)} THEN {same}" for key, same in fields)
        total = f"total(CASE m.key {cases} END)" if fields else "0.0"
        database.execute("CREATE TEMP TABLE IF NOT EXISTS pair (record INTEGER PRIMARY KEY, row INTEGER NOT NULL)")
        self._sql = (
            f"SELECT p.record FROM temp.pair p CROSS JOIN {tables(mapping)} ON t0.rowid = p.row{joins(mapping)}"
            " LEFT JOIN chroma.embedding_metadata m ON m.id = p.record GROUP BY p.record"
            f" HAVING {total} IS NOT {'-'.join([f'{len(fields)}.0', *absent])} OR {orphan_expression(mapping)}"
        )

    def differing(self, pairs: list[tuple[int, int]]) -> list[int]:
        """The records of *pairs* (record, row) whose metadata differs from the row, or whose parent does not exist."""
        execute = self._database.execute
        execute("DELETE FROM temp.pair")
        execute("BEGIN")
        self._database.executemany("INSERT OR REPLACE INTO temp.pair VALUES (?, ?)", pairs)
        execute("COMMIT")
        return [number for (number,) in execute(self._sql)]


def _compared(mapping: Mapping) -> tuple[Field, ...]:
    return (*mapping.metadata, *((mapping.model,) if mapping.model else ()))


def _same(field: Field) -> str:
    """SQL for 1 if Chroma's value equals the row's, else 0; far below 0 if only Chroma has a value."""
    held = {
        "text": "m.string_value",
        "uuid": "m.string_value",
        "integer": "m.int_value",
        "real": "coalesce(m.float_value, m.int_value)",
        "boolean": "m.bool_value",
    }[field.column.type]
    value = expression(field.column)
    return f"iif({value} IS NULL, -1e6, {held} IS {value})"


@dataclass(slots=True, kw_only=True)
class Compared:
    """One window: its numbers of rows, records and vectors, and the ids that are not certainly equal."""

    rows: int
    records: int
    vectors: int
    suspects: list[str]


_Pair = tuple[RowTuple, int, int]
"""A row, the number of its record, and the place of its vector."""


def compare(
    mapping: Mapping, rows: Rows, records: sqlite3.Connection, metadata: sqlite3.Connection, vectors: Vectors
) -> Iterator[Compared]:
    """Compare all rows of *mapping* with all records of its collection, window by window.

    *records* and *metadata* are connections to Chroma's database and to the application's with Chroma's attached.
    """
    collection = vectors.collection
    dimension = (collection.dimension or 0) if collection else 0
    size = window_size(dimension)
    streams = [
        Sorted(fetched(rows.stream(), size)),
        Sorted(record_pages(records, collection, size) if collection else iter(())),
        Sorted(fetched(vectors.stream(), size)),
    ]
    query = MetadataQuery(metadata, mapping)
    tolerance = tolerance_of(mapping, collection)

    def differing(pairs: list[_Pair]) -> list[str]:
        """On the other thread: the ids of pairs whose vectors or metadata are not certainly equal."""
        ours = np.frombuffer(b"".join([row[2] for row, _, _ in pairs]), "<f4").reshape(len(pairs), dimension)
        theirs, failed, odd = vectors.read([place for _, _, place in pairs], dimension)
        wrong = ~_alike(ours, theirs, tolerance) | ~_usable(ours)
        wrong[[*failed, *odd]] = True
        found = [pairs[number][0][0] for number in np.flatnonzero(wrong)]
        if query.needed:
            ids = {record: row[0] for row, record, _ in pairs}
            found += [ids[record] for record in query.differing([(record, row[1]) for row, record, _ in pairs])]
        return found

    comparing: Future[list[str]] | None = None
    with ThreadPoolExecutor(max_workers=1) as other:
        for held_rows, held_records, held_vectors in windows(streams, size):
            suspects, pairs = _paired(held_rows, held_records, held_vectors, dimension)
            if comparing is not None:
                suspects += comparing.result()
            comparing = other.submit(differing, pairs) if pairs else None
            yield Compared(
                rows=len(held_rows),
                records=len(held_records),
                vectors=len(held_vectors),
                suspects=list(dict.fromkeys(suspects)),
            )
        if comparing is not None:
            yield Compared(rows=0, records=0, vectors=0, suspects=comparing.result())


def _paired(
    held_rows: list[RowTuple], held_records: list[tuple[str, int]], held_vectors: list[tuple[str, int]], dimension: int
) -> tuple[list[str], list[_Pair]]:
    """Of a window, the ids that are incomplete on a side, and pairs whose contents are still to be compared."""
    records, places = dict(held_records), dict(held_vectors)
    width = 4 * dimension
    pairs = [
        (row, records[row[0]], places[row[0]])
        for row in held_rows
        if len(row[2]) == width and width and row[3] in (None, dimension) and row[0] in records and row[0] in places
    ]
    known = {pair[0][0] for pair in pairs}
    if len(known) < len(pairs):  # several rows with one id
        pairs, known = [], set()
    return [identifier for identifier in chain(map(_first, held_rows), records, places) if identifier not in known], pairs


def tolerance_of(mapping: Mapping, collection: Collection | None) -> float:
    """The distance allowed between the two vectors of an id, relative to the length of the row's."""
    return max(mapping.tolerance, COSINE_TOLERANCE if collection and collection.cosine else 0.0)


def _alike(ours: Floats, theirs: Floats, tolerance: float) -> Any:
    """Which rows of two matrices are the same, bit for bit or within *tolerance*."""
    if theirs.shape != ours.shape:
        return np.zeros(len(ours), np.bool_)
    same = (ours.view("<u4") == np.ascontiguousarray(theirs, "<f4").view("<u4")).all(axis=1)
    if tolerance and not same.all():
        rest = np.flatnonzero(~same)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.linalg.norm((ours[rest] - theirs[rest]).astype(np.float64), axis=1)
            same[rest] = distance <= tolerance * np.linalg.norm(ours[rest].astype(np.float64), axis=1)
    return same


def _usable(vectors: Floats) -> Any:
    """Which rows are certainly usable for a search: the sum of their squares is finite and above zero."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    return np.isfinite(squares) & (squares > 0)


def differs(ours: bytes, theirs: bytes, tolerance: float) -> bool:
    """Whether two vectors of one dimension differ."""
    pair = [np.frombuffer(vector, "<f4").reshape(1, -1) for vector in (ours, theirs)]
    return not bool(_alike(pair[0], pair[1], tolerance)[0])
