"""The records of a collection, from Chroma's metadata tables: ids, documents and metadata, without their vectors."""

import itertools
import json
import operator
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .tables import Collection

DOCUMENT = "chroma:document"
Value = tuple[str | int | float | bool | None, ...]
"""A metadata row: key, string, integer, float, boolean, and a sixth field, true, for one value of a list."""

_WRITTEN = "e.segment_id = ?1 AND (?2 IS NULL OR e.seq_id > ?2) AND (?3 IS NULL OR e.seq_id <= ?3)"
_VALUES = "string_value, {0}.int_value, {0}.float_value, {0}.bool_value"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record. *sequence* is the position of its newest change in the log, *written* its time as long as the log has it."""

    id: str
    sequence: int
    written: str | None
    vector: bytes | None
    document: str | None
    metadata: dict[str, Any]


def record_pages(database: sqlite3.Connection, collection: Collection, size: int) -> Iterator[list[tuple[str, int]]]:
    """Each record's id and row number, by id, *size* at a time.

    Each page is a query of its own: Chroma's writers wait while a query reads.
    """
    after = None
    while True:
        page = database.execute(
            "SELECT embedding_id, id FROM embeddings WHERE segment_id = ? AND embedding_id > ? ORDER BY embedding_id LIMIT ?"
            if after is not None
            else "SELECT embedding_id, id FROM embeddings WHERE segment_id = ? AND ? IS NULL ORDER BY embedding_id LIMIT ?",
            (collection.metadata_segment, after, size),
        ).fetchall()
        if not page:
            return
        after = page[-1][0]
        yield page


def count_records(database: sqlite3.Connection, collection: Collection, until: int | None = None) -> int:
    """The number of records; with *until*, of those unchanged since that position of the log."""
    since = "" if until is None else " AND seq_id <= ?"
    arguments = (collection.metadata_segment, *(() if until is None else (until,)))
    row = database.execute(f"SELECT count(*) FROM embeddings WHERE segment_id = ?{since}", arguments).fetchone()
    return int(row[0])


def count_among(database: sqlite3.Connection, collection: Collection, ids: Sequence[str], until: int) -> int:
    """How many of *ids*, some hundred that differ, are records that are unchanged since that position of the log."""
    chosen = ", ".join("?" * len(ids))
    row = database.execute(
        f"SELECT count(*) FROM embeddings WHERE segment_id = ? AND seq_id <= ? AND embedding_id IN ({chosen})",
        (collection.metadata_segment, until, *ids),
    ).fetchone()
    return int(row[0])


def find_records(database: sqlite3.Connection, collection: Collection, ids: Sequence[str]) -> dict[str, Record]:
    """Those of *ids* that the collection holds, by id, without their vectors."""
    rows = database.execute(
        "SELECT e.embedding_id, e.id, e.seq_id, q.created_at FROM json_each(?) j CROSS JOIN embeddings e"
        " ON e.segment_id = ? AND e.embedding_id = j.value LEFT JOIN embeddings_queue q ON q.seq_id = e.seq_id",
        (json.dumps(list(ids)), collection.metadata_segment),
    ).fetchall()
    values: dict[int, list[Value]] = {number: [] for _, number, *_ in rows}
    for table in ("embedding_metadata", "embedding_metadata_array"):
        if table == "embedding_metadata" or _has_lists(database):
            for number, *value in database.execute(
                f"SELECT m.id, m.key, m.{_VALUES.format('m')} FROM json_each(?) j"
                f" CROSS JOIN {table} m ON m.id = j.value ORDER BY m.id, m.rowid",
                (json.dumps(list(values)),),
            ):
                values[number].append((*value, True) if table == "embedding_metadata_array" else tuple(value))
    records = {}
    for identifier, number, sequence, written in rows:
        document, metadata = as_client(values[number])
        at = int.from_bytes(sequence, "big") if isinstance(sequence, bytes) else sequence
        records[identifier] = Record(
            id=identifier, sequence=at, written=written, vector=None, document=document, metadata=metadata
        )
    return records


def stored_records(
    database: sqlite3.Connection, collection: Collection, after: int | None = None, until: int | None = None
) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Each record's id and its metadata rows, the document among them, by key; those written *after* and *until* a position."""
    rows = database.execute(
        f"SELECT e.id, e.embedding_id, m.key, m.{_VALUES.format('m')} FROM embeddings e"
        f" LEFT JOIN embedding_metadata m ON m.id = e.id WHERE {_WRITTEN} ORDER BY e.id, m.key",
        (collection.metadata_segment, after, until),
    )
    lists = _lists(database, collection, after, until)
    pending = next(lists, None)
    for number, group in itertools.groupby(rows, key=operator.itemgetter(0)):
        first = next(group)
        values = [row[2:] for row in itertools.chain((first,), group) if row[2] is not None]
        while pending is not None and pending[0] <= number:
            if pending[0] == number:
                values.append((*pending[1:], True))
            pending = next(lists, None)
        yield first[1], tuple(values)


def _lists(
    database: sqlite3.Connection, collection: Collection, after: int | None, until: int | None
) -> Iterator[tuple[int, str, str, int, float, int]]:
    """The rows of metadata that holds lists, ordered as `stored_records` needs them."""
    if _has_lists(database):
        yield from database.execute(
            f"SELECT a.id, a.key, a.{_VALUES.format('a')}"
            f" FROM embedding_metadata_array a JOIN embeddings e ON e.id = a.id WHERE {_WRITTEN}"
            " ORDER BY a.id, a.key, a.rowid",
            (collection.metadata_segment, after, until),
        )


def _has_lists(database: sqlite3.Connection) -> bool:
    """Whether the database is of a Chroma that stores lists."""
    return database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'embedding_metadata_array'").fetchone() is not None


def as_client(values: Iterable[Sequence[Any]]) -> tuple[str | None, dict[str, Any]]:
    """Document and metadata of a record's metadata rows, in the shape in which Chroma's client returns them."""
    document: str | None = None
    metadata: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    for key, text, integer, real, boolean, *in_list in values:
        value: Any = text
        if integer is not None:
            value = integer
        elif real is not None:
            value = real
        elif boolean is not None:
            value = bool(boolean)
        if key == DOCUMENT:
            document = text
        elif key.startswith("chroma:"):
            continue
        elif in_list:
            lists.setdefault(key, []).append(value)
        else:
            metadata[key] = value
    return document, metadata | lists
