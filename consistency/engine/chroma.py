"""A Chroma directory as its files tell it, read without a client: records from ``chroma.sqlite3``, vectors from index and log.

Chroma writes a change to its log (``embeddings_queue``), then to its metadata tables, and from time to time to the index
files, after which the log is purged. So a vector is in the index, unless the log after the index's position (``max_seq_id``)
says otherwise. Log records after the position of the metadata are changes that are under way.

While a query reads ``chroma.sqlite3``, Chroma's writers wait. So queries here are short: some thousands of records each.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import StoreUnreadable
from .index import Floats, Index, TornIndex, labels
from .mapping import Scalar

DATABASE = "chroma.sqlite3"
SUPPORTED = {"sysdb": 10, "metadb": 6, "embeddings_queue": 2}
"""The newest migration of each group of Chroma's tables that this reader was tried with (chromadb 1.0 to 1.5)."""

HNSW = "urn:chroma:segment/vector/hnsw-local-persisted"
DOCUMENT = "chroma:document"
_ADD, _UPDATE, _UPSERT, _DELETE = range(4)
_TRIES = 40
_PAUSE = 0.05
_PAGE = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A collection, and how far its metadata and its index are in the log (0: not at all)."""

    id: str
    name: str
    dimension: int | None
    cosine: bool
    metadata_segment: str
    vector_segment: str
    metadata_at: int
    vector_at: int


def check_supported(directory: Path, database: sqlite3.Connection) -> None:
    """Raise `StoreUnreadable` where the tables are not Chroma's, or those of a later Chroma."""
    try:
        found = dict(database.execute("SELECT dir, max(version) FROM migrations GROUP BY dir"))
    except sqlite3.DatabaseError as problem:
        if getattr(problem, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_INTERRUPT):
            raise
        raise StoreUnreadable(f"{directory / DATABASE} is no Chroma database: {problem}.") from None
    newer = [f"{group} {version}" for group, version in found.items() if version > SUPPORTED.get(group, -1)]
    if newer:
        raise StoreUnreadable(
            f"{directory} was written by a Chroma whose tables are newer than is known here: {', '.join(newer)}.",
            hint="Upgrade this package. Nothing was changed.",
        )


def find_collection(database: sqlite3.Connection, name: str) -> Collection | None:
    """The collection *name* of the default database, or None. `NAME@DATABASE` names another database."""
    name, _, home = name.partition("@")
    columns = {row[1] for row in database.execute("PRAGMA table_info(collections)")}
    row = database.execute(
        f"SELECT c.id, c.dimension, {'c.schema_str' if 'schema_str' in columns else 'NULL'},"
        f" {'c.config_json_str' if 'config_json_str' in columns else 'NULL'}"
        " FROM collections c JOIN databases d ON d.id = c.database_id WHERE c.name = ? AND d.name = ?",
        (name, home or "default_database"),
    ).fetchone()
    if row is None:
        return None
    identifier, dimension, schema, config = row
    segments = {
        scope: (segment, kind)
        for segment, kind, scope in database.execute("SELECT id, type, scope FROM segments WHERE collection = ?", (identifier,))
    }
    metadata, _ = segments.get("METADATA", ("", ""))
    vector, kind = segments.get("VECTOR", ("", HNSW))
    if kind != HNSW:
        raise StoreUnreadable(f"The collection {name} is kept in segments of type {kind}, which is not known.")
    reached = {
        segment: int.from_bytes(value, "big") if isinstance(value, bytes) else value
        for segment, value in database.execute(
            "SELECT segment_id, seq_id FROM max_seq_id WHERE segment_id IN (?, ?)", (metadata, vector)
        )
    }
    return Collection(
        id=identifier,
        name=name,
        dimension=dimension,
        cosine=_space(database, identifier, schema, config) == "cosine",
        metadata_segment=metadata,
        vector_segment=vector,
        metadata_at=reached.get(metadata, 0),
        vector_at=reached.get(vector, 0),
    )


def _space(database: sqlite3.Connection, collection: str, schema: str | None, config: str | None) -> str:
    """The distance of a collection, wherever its version of Chroma keeps it."""
    space: Any = None
    if schema:
        index = json.loads(schema).get("keys", {}).get("#embedding", {}).get("float_list", {}).get("vector_index", {})
        space = index.get("config", {}).get("space")
    if config and not space:
        space = (json.loads(config).get("hnsw") or {}).get("space")
    if not space:
        row = database.execute(
            "SELECT str_value FROM collection_metadata WHERE collection_id = ? AND key = 'hnsw:space'", (collection,)
        ).fetchone()
        space = row[0] if row else "l2"
    return str(space)


def record_pages(database: sqlite3.Connection, collection: Collection, size: int) -> Iterator[list[tuple[str, int]]]:
    """Each record's id and number, by id, *size* at a time; each page is a query of its own."""
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


def count_records(database: sqlite3.Connection, collection: Collection) -> int:
    """How many records the collection has."""
    row = database.execute("SELECT count(*) FROM embeddings WHERE segment_id = ?", (collection.metadata_segment,)).fetchone()
    return int(row[0])


def pending_ids(database: sqlite3.Connection, collection: Collection) -> list[str]:
    """Ids of changes that are in the log and not yet in the metadata: they are under way."""
    rows = database.execute(
        "SELECT DISTINCT id FROM embeddings_queue WHERE seq_id > ? AND substr(topic, -36) = ?",
        (collection.metadata_at, collection.id),
    )
    return [identifier for (identifier,) in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record, whole. *written* is when its newest change was logged, where the log still tells."""

    id: str
    sequence: int
    written: str | None
    vector: bytes | None
    document: str | None
    metadata: dict[str, Any]


def find_records(database: sqlite3.Connection, collection: Collection, ids: Sequence[str]) -> dict[str, Record]:
    """Those of *ids* that the collection holds, but for their vectors."""
    asked = json.dumps(list(ids))
    found: dict[str, Record] = {}
    numbers: dict[int, str] = {}
    for identifier, number, sequence, written in database.execute(
        "SELECT e.embedding_id, e.id, e.seq_id, q.created_at FROM json_each(?) j CROSS JOIN embeddings e"
        " ON e.segment_id = ? AND e.embedding_id = j.value LEFT JOIN embeddings_queue q ON q.seq_id = e.seq_id",
        (asked, collection.metadata_segment),
    ):
        if isinstance(sequence, bytes):
            sequence = int.from_bytes(sequence, "big")
        numbers[number] = identifier
        found[identifier] = Record(id=identifier, sequence=sequence, written=written, vector=None, document=None, metadata={})
    tables = ["embedding_metadata"]
    if database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'embedding_metadata_array'").fetchone():
        tables.append("embedding_metadata_array")
    for table in tables:
        for number, key, *values in database.execute(
            f"SELECT m.id, m.key, m.string_value, m.int_value, m.float_value, m.bool_value FROM json_each(?) j"
            f" CROSS JOIN {table} m ON m.id = j.value ORDER BY m.id, m.rowid",
            (json.dumps(list(numbers)),),
        ):
            metadata, value = found[numbers[number]].metadata, _typed(*values)
            if table == "embedding_metadata":
                metadata[key] = value
            else:
                metadata.setdefault(key, []).append(value)
    for identifier, record in found.items():
        document = record.metadata.pop(DOCUMENT, None)
        metadata = {key: value for key, value in record.metadata.items() if not key.startswith("chroma:")}
        found[identifier] = Record(
            id=identifier,
            sequence=record.sequence,
            written=record.written,
            vector=None,
            document=document,
            metadata=metadata,
        )
    return found


def _typed(text: str | None, integer: int | None, real: float | None, boolean: int | None) -> Scalar:
    if text is not None:
        return text
    if integer is not None:
        return integer
    return real if real is not None else None if boolean is None else bool(boolean)


class Vectors:
    """Where the vector of each id is: in the index, by label, or in the log, by (negative) sequence number.

    The table of places lives in a temporary file of SQLite's, sorted by id; memory is some 16 MB at any size, and four to
    eight bytes a vector. `refresh` follows what was written since. Raises `TornIndex` when the files contradict each other,
    on live stores for seconds on end.
    """

    def __init__(
        self,
        directory: Path,
        database: sqlite3.Connection,
        name: str,
        *,
        at_rest: bool,
        check: Callable[[], None] = lambda: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory = directory
        self.database = database
        self._name = name
        self._tries = 1 if at_rest else _TRIES
        self._check = check
        self._wait = wait
        self._index: Index | None = None
        self._logged = 0
        self.collection: Collection | None = None
        self.places = _empty_places()
        self._load()

    def close(self) -> None:
        """Let go of files."""
        self.places.close()
        if self._index is not None:
            self._index.close()

    def is_current(self) -> bool:
        """Whether the index that was read is still the one that the log counts from."""
        now = find_collection(self.database, self._name)
        old = self.collection
        if now is None or old is None:
            return now is old
        return (now.id, now.vector_segment, now.vector_at) == (old.id, old.vector_segment, old.vector_at)

    def refresh(self) -> None:
        """Bring the places up to date: from the log alone where the index was not written anew."""
        if self.is_current() and self.collection is not None:
            self.collection = find_collection(self.database, self._name)
            self._replay()
        else:
            self._load()

    def stream(self) -> sqlite3.Cursor:
        """(id, place) of all vectors, by id."""
        return self.places.execute("SELECT id, at FROM place ORDER BY id")

    def count(self) -> int:
        """How many vectors there are."""
        return int(self.places.execute("SELECT count(*) FROM place").fetchone()[0])

    def places_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The places of those of *ids* that have a vector."""
        return dict(
            self.places.execute(
                "SELECT p.id, p.at FROM json_each(?) j JOIN place p ON p.id = j.value", (json.dumps(list(ids)),)
            )
        )

    def read(self, places: Sequence[int], dimension: int) -> tuple[Floats, list[int], dict[int, bytes]]:
        """The vectors at *places* as a matrix, the rows of it that could not be read, and vectors of another dimension."""
        wanted = np.asarray(places, dtype=np.int64)
        matrix = np.zeros((len(wanted), dimension), np.float32)
        failed: list[int] = []
        odd: dict[int, bytes] = {}
        indexed = np.flatnonzero(wanted >= 0)
        if len(indexed) and self._index is not None:
            vectors, there = self._index.gather(wanted[indexed])
            failed += indexed[~there].tolist()
            if self._index.dimension == dimension:
                matrix[indexed] = vectors
            else:
                odd |= {int(row): vectors[number].tobytes() for number, row in enumerate(indexed) if there[number]}
        elif len(indexed):
            failed += indexed.tolist()
        logged = np.flatnonzero(wanted < 0)
        if len(logged):
            found = dict(
                self.database.execute(
                    "SELECT q.seq_id, q.vector FROM json_each(?) j CROSS JOIN embeddings_queue q ON q.seq_id = j.value",
                    (json.dumps((-wanted[logged]).tolist()),),
                )
            )
            for row in logged.tolist():
                vector = found.get(-int(wanted[row]))
                if vector is None:  # purged meanwhile
                    failed.append(row)
                elif len(vector) != 4 * dimension:
                    odd[row] = vector
                else:
                    matrix[row] = np.frombuffer(vector, "<f4")
        return matrix, failed, odd

    def one(self, place: int) -> bytes | None:
        """The vector at one place."""
        dimension = self._index.dimension if place >= 0 and self._index is not None else 0
        matrix, failed, odd = self.read([place], dimension)
        return None if failed else odd.get(0, matrix[0].tobytes())

    def _load(self) -> None:
        for attempt in range(self._tries):
            self._check()
            try:
                self._read_files()
                return
            except TornIndex:
                if attempt == self._tries - 1:
                    raise
                self._wait(_PAUSE)  # a writer is at it

    def _read_files(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
        self._logged = 0
        self.collection = find_collection(self.database, self._name)
        self.places.close()
        self.places = _empty_places()
        if self.collection is None:
            return
        # The log first: files that are newer than it are fine, older ones are not.
        self._copy_log(self.collection.vector_at)
        folder = self._directory / self.collection.vector_segment
        if self.collection.vector_segment and folder.is_dir():
            self._index = Index(folder, cosine=self.collection.cosine)
            if self._index.count:
                self.places.execute("BEGIN")
                self.places.execute("CREATE TABLE read (id TEXT, at INTEGER)")
                self.places.executemany("INSERT INTO read VALUES (?, ?)", labels(folder, self._index.count))
                self._check()
                self.places.execute("INSERT OR REPLACE INTO place SELECT id, at FROM read ORDER BY id")
                self.places.execute("DROP TABLE read")
                self.places.execute("COMMIT")
        self._apply_log()

    def _replay(self) -> None:
        """Follow the log after what was applied of it already."""
        assert self.collection is not None
        self._copy_log(max(self.collection.vector_at, self._logged))
        self._apply_log()

    def _copy_log(self, after: int) -> None:
        """Copy what the log says of the collection after a position, some thousand records a query."""
        assert self.collection is not None
        while True:
            page = self.database.execute(
                "SELECT seq_id, operation, id, vector IS NOT NULL FROM embeddings_queue"
                " WHERE seq_id > ? AND substr(topic, -36) = ? ORDER BY seq_id LIMIT ?",
                (after, self.collection.id, _PAGE),
            ).fetchall()
            if not page:
                return
            after = page[-1][0]
            self.places.executemany("INSERT INTO logged VALUES (?, ?, ?, ?)", page)

    def _apply_log(self) -> None:
        """By Chroma's own rules: an add of an id that exists is ignored, as is an update of one that does not."""
        execute = self.places.execute
        execute("BEGIN")
        for sequence, operation, identifier, has_vector in execute("SELECT * FROM logged ORDER BY seq_id"):
            if operation == _DELETE:
                execute("DELETE FROM place WHERE id = ?", (identifier,))
            elif has_vector and operation == _ADD:
                execute("INSERT OR IGNORE INTO place VALUES (?, ?)", (identifier, -sequence))
            elif has_vector and operation == _UPDATE:
                execute("UPDATE place SET at = ? WHERE id = ?", (-sequence, identifier))
            elif has_vector:
                execute("INSERT OR REPLACE INTO place VALUES (?, ?)", (identifier, -sequence))
            self._logged = sequence
        execute("DELETE FROM logged")
        execute("COMMIT")


def _empty_places() -> sqlite3.Connection:
    places = sqlite3.connect("", isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16384", "temp_store = FILE"):
        places.execute(f"PRAGMA {pragma}")
    places.execute("CREATE TABLE place (id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID")
    places.execute("CREATE TABLE logged (seq_id INTEGER PRIMARY KEY, operation INTEGER, id TEXT, has_vector INTEGER)")
    return places


def unpacked(vector: bytes) -> Floats:
    """float32 values of *vector*, as far as its length allows."""
    return np.frombuffer(vector[: len(vector) // 4 * 4], "<f4")
