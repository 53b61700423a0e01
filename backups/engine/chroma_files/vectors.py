"""The newest vector of each id: from the index files, and from the log where those are behind it.

A vector is in the index, unless the log after the index's position says otherwise.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from .errors import BrokenIndex
from .index import Floats, Index
from .tables import ADD, DELETE, UPDATE, Collection
from .whole import check_index

_TRIES = 40
_PAUSE = 0.05
_PAGE = 5000


class Vectors:
    """The place of each id's vector: its label in the index, or, in the log, its sequence number made negative.

    The table of places is a temporary file of SQLite's, sorted by id; memory is some 16 MB, and four to eight bytes a vector.
    `refresh` applies what was written since. *find* looks the collection up. Queries are short, some thousand records each,
    because Chroma's writers wait while ``chroma.sqlite3`` is read. Raises `BrokenIndex` when the files contradict each other;
    without *at_rest*, when they do so for 2 seconds.
    """

    def __init__(
        self,
        directory: Path,
        database: sqlite3.Connection,
        find: Callable[[], Collection | None],
        *,
        at_rest: bool,
        check: Callable[[], None] = lambda: None,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._directory = directory
        self.database = database
        self._find = find
        self._tries = 1 if at_rest else _TRIES
        self._check = check
        self._wait = wait
        self._index: Index | None = None
        self._logged = 0
        self.collection: Collection | None = None
        self.places = _empty_places()
        self._load()

    def close(self) -> None:
        """Close all files; the connection to the database is the caller's."""
        self.places.close()
        if self._index is not None:
            self._index.close()

    def is_current(self) -> bool:
        """Whether the log still counts from the index that was read."""
        now = self._find()
        old = self.collection
        if now is None or old is None:
            return now is old
        return (now.id, now.vector_segment, now.vector_at) == (old.id, old.vector_segment, old.vector_at)

    def refresh(self) -> None:
        """Update the places: from the log alone unless the index was rewritten."""
        if self.is_current() and self.collection is not None:
            self.collection = self._find()
            self._follow_log()
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
        """The vectors at *places* as float32 rows of a matrix; the rows without a vector; vectors of another dimension, by row.

        A vector in the log may be gone since `refresh`: Chroma purges the log when it writes the index.
        """
        wanted = np.asarray(places, dtype=np.int64)
        matrix = np.zeros((len(wanted), dimension), np.float32)
        failed: list[int] = []
        odd: dict[int, bytes] = {}
        indexed = np.flatnonzero(wanted >= 0)
        if len(indexed) and self._index is not None:
            vectors, exist = self._index.gather(wanted[indexed])
            failed += indexed[~exist].tolist()
            if self._index.dimension == dimension:
                matrix[indexed] = vectors
            else:
                odd |= {int(row): vectors[number].tobytes() for number, row in enumerate(indexed) if exist[number]}
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
                if vector is None:
                    failed.append(row)
                elif len(vector) != 4 * dimension:
                    odd[row] = vector
                else:
                    matrix[row] = np.frombuffer(vector, "<f4")
        return matrix, failed, odd

    def one(self, place: int) -> bytes | None:
        """The vector at one place, None where it cannot be read."""
        dimension = self._index.dimension if place >= 0 and self._index is not None else 0
        matrix, failed, odd = self.read([place], dimension)
        return None if failed else odd.get(0, matrix[0].tobytes())

    def check_index(self) -> None:
        """Check that the index is whole, as its collection is now. Raises `BrokenIndex`."""
        self._until_whole(self._check_index)

    def _check_index(self) -> None:
        collection = self._find()
        if collection is not None:
            check_index(self._directory, self.database, collection, self._check)

    def _load(self) -> None:
        self._until_whole(self._read_files)

    def _until_whole(self, read: Callable[[], object]) -> None:
        for attempt in range(self._tries):
            self._check()
            try:
                read()
                return
            except BrokenIndex:
                if attempt == self._tries - 1:
                    raise
                self._wait(_PAUSE)  # it may be being written

    def _read_files(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None
        self._logged = 0
        self.collection = self._find()
        self.places.close()
        self.places = _empty_places()
        if self.collection is None:
            return
        # The log first: files newer than it are fine, older ones are not
        self._copy_log(self.collection.vector_at)
        folder = self._directory / self.collection.vector_segment
        if self.collection.vector_segment and folder.is_dir():
            self._index = Index(folder, cosine=self.collection.cosine)
            self._index.map_labels()
            if self._index.count:
                self.places.execute("BEGIN")
                self.places.execute("CREATE TABLE read (id TEXT, at INTEGER)")
                self.places.executemany("INSERT INTO read VALUES (?, ?)", self._index.labels())
                self._check()
                self.places.execute("INSERT OR REPLACE INTO place SELECT id, at FROM read ORDER BY id")
                self.places.execute("DROP TABLE read")
                self.places.execute("COMMIT")
        self._apply_log()

    def _follow_log(self) -> None:
        """Apply what was added to the log."""
        assert self.collection is not None
        self._copy_log(max(self.collection.vector_at, self._logged))
        self._apply_log()

    def _copy_log(self, after: int) -> None:
        """Copy the log of the collection after a position."""
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
        """Replay the log as Chroma does: it ignores an add of an id that exists, and an update of one that does not."""
        execute = self.places.execute
        execute("BEGIN")
        for sequence, operation, identifier, has_vector in execute("SELECT * FROM logged ORDER BY seq_id"):
            if operation == DELETE:
                execute("DELETE FROM place WHERE id = ?", (identifier,))
            elif has_vector and operation == ADD:
                execute("INSERT OR IGNORE INTO place VALUES (?, ?)", (identifier, -sequence))
            elif has_vector and operation == UPDATE:
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


def stored_vectors(directory: Path, database: sqlite3.Connection, collection: Collection) -> Iterator[tuple[str, bytes]]:
    """Each id of a collection at rest, in order, with its vector (float32, little-endian).

    A vector from the index of a cosine collection is its unit vector times its length, as Chroma returns it; one from the log
    is as it was added. Raises `BrokenIndex`.
    """
    dimension = collection.dimension or 0
    with closing(Vectors(directory, database, lambda: collection, at_rest=True)) as vectors:
        stream = vectors.stream()
        while page := stream.fetchmany(_PAGE):
            matrix, failed, odd = vectors.read([place for _, place in page], dimension)
            if failed:
                raise BrokenIndex(f"{page[failed[0]][0]!r} names an element that the index does not hold", "data_level0.bin")
            for row, (identifier, _) in enumerate(page):
                yield identifier, odd.get(row) or matrix[row].tobytes()
