"""The child process that opens a restored Chroma directory through Chroma's own client.

A damaged index can hang Chroma for minutes, so the caller does not open it. The child works on scratch copies only: a newer
chromadb migrates what it opens. It may run in the application's interpreter, so it imports nothing but numpy and chromadb.

======= =========================================================================================================
do      answer
======= =========================================================================================================
version the client's version; None if chromadb is not installed
chroma  ``{"collections": {name: {"count", "searched"}}, "problems": [message...], "older": bool}``; ``older``: it cannot be
        opened because a later version of chromadb has migrated it
======= =========================================================================================================
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from .chroma_files.records import as_client, count_records, find_records, stored_records
from .chroma_files.tables import ADD, DELETE, UPSERT, Collection, list_collections, log_rows, open_at_rest, pending_ids
from .chroma_files.vectors import stored_vectors
from .runtime.child import Server

_BEAT = 0.5
"""Seconds between two signs of life."""

_PAGE = 1000
_SEARCHES = 3
_TOLERANCE = 1e-5
"""The largest distance from the stored vector, relative to its length: Chroma normalizes those of cosine collections."""


class ClientProber:
    """The handlers of the requests above."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._next_beat = 0.0

    def version(self) -> str | None:
        try:
            import chromadb
        except ImportError:
            return None
        return str(chromadb.__version__)

    def chroma(self, directory: str) -> dict[str, Any]:
        """Compare everything that Chroma's client returns with the files, and search each collection."""
        versions = _versions(Path(directory))
        try:
            stored = _Stored(Path(directory), self._beat)
            problems: list[str] = []
            collections = {}
            for place in stored.listed:
                client = _open(directory, *stored.homes[place.id])
                collections[stored.label(place)] = self._collection(client, stored, place, problems)
        except BaseException as problem:
            if isinstance(problem, (SystemExit, KeyboardInterrupt)):
                raise
            if _is_older_than(versions, Path(directory).parent):
                return {"collections": {}, "problems": [], "older": True}
            return {"collections": {}, "problems": [f"Chroma cannot open it: {problem}"], "older": False}
        return {"collections": collections, "problems": problems, "older": False}

    def _collection(self, client: Any, stored: _Stored, place: Collection, problems: list[str]) -> dict[str, Any]:
        import numpy as np

        label = stored.label(place)
        collection = client.get_collection(place.name, embedding_function=None)
        count = collection.count()
        samples: list[Any] = []
        expected = stored.completed(place)
        for page in stored.pages(place):
            self._beat()
            got = collection.get(ids=list(page), include=["embeddings", "documents", "metadatas"])
            if len(got["ids"]) != len(page):
                problems.append(
                    f"{label}: {len(page) - len(got['ids'])} records are not returned, one near {next(iter(page))!r}"
                )
            vectors = np.asarray(got["embeddings"], dtype="<f4")
            for index, identifier in enumerate(got["ids"]):
                vector = stored.vector(place, identifier)
                wrong = _differs(
                    page[identifier], vector, vectors[index], got["documents"][index], got["metadatas"][index], place
                )
                if wrong and len(problems) < 20:
                    problems.append(f"{label}: {wrong} of {identifier!r}")
            samples = [*samples[: _SEARCHES - 1], *vectors[:1]]
        if expected != count:
            problems.append(f"{label}: Chroma counts {count} records, the files hold {expected}")
        searched = sum(_search(collection, sample) for sample in samples)
        if samples and not searched:
            problems.append(f"{label}: a search by a stored vector finds nothing")
        return {"count": count, "searched": searched}

    def _beat(self) -> None:
        if (now := time.monotonic()) >= self._next_beat:
            self._next_beat = now + _BEAT
            self._server.emit("working")


def _open(directory: str, tenant: str, database: str) -> Any:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(directory, settings=Settings(anonymized_telemetry=False), tenant=tenant, database=database)


def _versions(directory: Path) -> dict[str, int]:
    """The newest migration of each group of a directory's tables."""
    with closing(open_at_rest(directory)) as database:
        return dict(database.execute("SELECT dir, max(version) FROM migrations GROUP BY dir"))


def _is_older_than(versions: dict[str, int], scratch: Path) -> bool:
    """Whether this client has not all migrations of *versions*: a directory that it makes itself has all that it knows."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".client-") as folder:
        _open(folder, "default_tenant", "default_database")
        known = _versions(Path(folder))
    return any(version > known.get(group, 0) for group, version in versions.items())


def _search(collection: Any, vector: Any) -> int:
    """The number of records that a search for a stored vector finds; 0 is valid if most records were deleted."""
    try:
        answer = collection.query(query_embeddings=[vector.tolist()], n_results=1)
    except Exception as problem:
        if "contiguous 2D array" in str(problem):  # hnswlib finds fewer than requested; it has no error code for that
            return 0
        raise
    return len(answer["ids"][0])


class _Stored:
    """The records of all collections, read from the files before the client opens and may change them.

    They are copied into a temporary database on disk, so that memory use is constant.
    """

    def __init__(self, folder: Path, beat: Callable[[], None]) -> None:
        self._rows = sqlite3.connect("")
        self._rows.execute("CREATE TABLE vector (place TEXT, id TEXT, value BLOB, PRIMARY KEY (place, id)) WITHOUT ROWID")
        self._rows.execute("CREATE TABLE record (number INTEGER PRIMARY KEY, place TEXT, id TEXT, value TEXT)")
        database = open_at_rest(folder)
        try:
            self.listed = list_collections(database)
            self.homes: dict[str, tuple[str, str]] = {
                collection: (tenant, name)
                for collection, tenant, name in database.execute(
                    "SELECT c.id, d.tenant_id, d.name FROM collections c JOIN databases d ON d.id = c.database_id"
                )
            }
            self._completed = {place.id: _completed(database, place) for place in self.listed}
            pending = {place.id: set(pending_ids(database, place)) for place in self.listed}
            for place in self.listed:
                beat()
                vectors = ((place.id, *row) for row in stored_vectors(folder, database, place))
                self._rows.executemany("INSERT INTO vector VALUES (?, ?, ?)", vectors)
                records = (
                    (place.id, name, json.dumps(values))
                    for name, values in stored_records(database, place)
                    if name not in pending[place.id]
                )
                self._rows.executemany("INSERT INTO record (place, id, value) VALUES (?, ?, ?)", records)
        finally:
            database.close()
        self._rows.execute("CREATE INDEX by_place ON record (place, number)")

    def label(self, place: Collection) -> str:
        """The collection's name, with its database and tenant unless they are the default ones."""
        tenant, database = self.homes[place.id]
        parts = [tenant] if tenant != "default_tenant" else []
        parts += [database] if parts or database != "default_database" else []
        return "/".join([*parts, place.name])

    def completed(self, place: Collection) -> int:
        """The number of records once Chroma has completed what is in its log alone, as it does when it opens a collection."""
        return self._completed[place.id]

    def pages(self, place: Collection) -> Iterator[dict[str, list[Any]]]:
        """The rows of the records by id, in pages, except records that the log changes."""
        last = 0
        while True:
            rows = self._rows.execute(
                "SELECT number, id, value FROM record WHERE place = ? AND number > ? ORDER BY number LIMIT ?",
                (place.id, last, _PAGE),
            ).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield {identifier: json.loads(value) for _, identifier, value in rows}

    def vector(self, place: Collection, identifier: str) -> bytes | None:
        """The vector of a record; None if the files hold none."""
        row = self._rows.execute("SELECT value FROM vector WHERE place = ? AND id = ?", (place.id, identifier)).fetchone()
        return row[0] if row is not None else None


def _completed(database: sqlite3.Connection, place: Collection) -> int:
    """The number of records after the log is replayed: it adds ids that do not exist yet, and deletes ones that do."""
    ids: dict[str, bool] = {}
    for _, operation, identifier, _ in log_rows(database, place, place.metadata_at):
        if operation in (ADD, UPSERT):
            ids[identifier] = True
        elif operation == DELETE:
            ids[identifier] = False
    return count_records(database, place) - len(find_records(database, place, list(ids))) + sum(ids.values())


def _differs(
    values: list[Any], stored: bytes | None, vector: Any, document: str | None, metadata: Any, place: Collection
) -> str | None:
    """What differs between a returned record and the stored one, or None."""
    import numpy as np

    if stored is None:
        return "there is no stored vector, but one was returned,"
    held = np.frombuffer(stored, dtype="<f4")
    if held.shape != vector.shape:
        return "the dimension"
    if not np.array_equal(held, vector, equal_nan=True):
        with np.errstate(over="ignore", invalid="ignore"):
            allowed = _TOLERANCE * float(np.linalg.norm(held)) if place.space == "cosine" else 0.0
            if not float(np.linalg.norm(held - vector)) <= allowed:
                return "the vector"
    stored_document, stored_metadata = as_client(values)
    if stored_document != document:
        return "the document"
    if stored_metadata != (dict(metadata) if metadata else {}):
        return "the metadata"
    return None


def main() -> None:
    """Serve one verification."""
    server = Server()
    prober = ClientProber(server)
    server.serve({"version": prober.version, "chroma": prober.chroma})


if __name__ == "__main__":
    main()
