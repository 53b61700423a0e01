"""The child that opens restored stores: SQLite's own checks, and Chroma through its client.

A damaged index can hang Chroma for minutes, and a damaged database file can crash a library, so neither is opened in the
process that asks. The child works on scratch copies only; opening one with a newer chromadb migrates it.

======= =====================================================================================================
do      answer
======= =====================================================================================================
sqlite  ``{"integrity": [message...], "foreign_keys": n, "tables": {name: rows}}``
digests ``{"collections": {id: {"name", "count", "indexed", "recent", "records"}}}`` or ``{"problem": message}``
chroma  ``{"collections": {name: {"count", "searched"}}, "problems": [message...], "client": version or None}``
======= =====================================================================================================
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from .capture.chroma import Positions, positions
from .capture.hnsw import BrokenIndex
from .capture.records import digest_collections, open_at_rest, stored_records, stored_vectors
from .capture.sqlite import connect
from .child import Server

_PAGE = 1000
_TOLERANCE = 1e-5
"""How far a vector may be from the stored one, relative to its length: Chroma scales those of cosine collections."""


class Prober:
    """The handlers of the requests above."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def sqlite(self, path: str) -> dict[str, Any]:
        database = connect(Path(path), timeout=10)
        try:
            database.set_progress_handler(self._beat, 2_000_000)
            database.execute("PRAGMA cache_size = -65536")
            try:
                found = [str(row[0]) for row in database.execute("PRAGMA integrity_check(20)")]
                broken_keys = sum(1 for _ in database.execute("PRAGMA foreign_key_check"))
                tables = _row_counts(database)
            except sqlite3.DatabaseError as problem:
                return {"integrity": [str(problem)], "foreign_keys": 0, "tables": {}}
        finally:
            database.close()
        return {"integrity": [] if found == ["ok"] else found, "foreign_keys": broken_keys, "tables": tables}

    def digests(self, directory: str) -> dict[str, Any]:
        """The digests of every collection of a restored directory, read from its files."""
        try:
            found = digest_collections(Path(directory), {}, self._beat)
        except BrokenIndex as problem:
            return {"problem": f"{problem.file}: {problem}"}
        except sqlite3.DatabaseError as problem:
            return {"problem": f"chroma.sqlite3: {problem}"}
        collections = {}
        for item in found:
            assert not isinstance(item, Positions)
            collections[item.positions.id] = {
                "name": item.positions.name,
                "count": item.count,
                "indexed": item.indexed,
                "recent": item.recent,
                "records": item.records,
            }
        return {"collections": collections}

    def chroma(self, directory: str) -> dict[str, Any]:
        """Compare all that Chroma's client returns with the files, and search each collection."""
        try:
            import chromadb
            from chromadb.config import Settings
        except ImportError:
            return {"collections": {}, "problems": [], "client": None}
        folder = Path(directory)
        expected = open_at_rest(folder)
        try:
            listed = positions(expected)
            client = chromadb.PersistentClient(directory, settings=Settings(anonymized_telemetry=False))
            problems: list[str] = []
            collections = {place.name: self._collection(client, folder, expected, place, problems) for place in listed}
        except Exception as problem:  # noqa: BLE001 - whatever the client raises is the finding
            return {
                "collections": {},
                "problems": [f"Chroma cannot open it: {problem}"],
                "client": chromadb.__version__,
            }
        finally:
            expected.close()
        return {"collections": collections, "problems": problems, "client": chromadb.__version__}

    def _collection(
        self, client: Any, folder: Path, expected: sqlite3.Connection, place: Positions, problems: list[str]
    ) -> dict[str, Any]:
        import numpy as np

        collection = client.get_collection(place.name, embedding_function=None)
        count = collection.count()
        wanted = _Wanted(folder, expected, place)
        first: Any = None
        for ids in wanted.pages():
            self._beat()
            got = collection.get(ids=ids, include=["embeddings", "documents", "metadatas"])
            if len(got["ids"]) != len(ids):
                problems.append(f"{place.name}: {len(ids) - len(got['ids'])} records are not returned, one near {ids[0]!r}")
            vectors = np.asarray(got["embeddings"], dtype="<f4")
            for index, identifier in enumerate(got["ids"]):
                wrong = wanted.compare(
                    identifier, vectors[index], got["documents"][index], got["metadatas"][index], place.space
                )
                if wrong and len(problems) < 20:
                    problems.append(f"{place.name}: {wrong} of {identifier!r}")
            first = vectors[0] if first is None and len(vectors) else first
        if wanted.count != count:
            problems.append(f"{place.name}: Chroma counts {count} records, the files hold {wanted.count}")
        searched = 0
        if first is not None:
            answer = collection.query(query_embeddings=[first.tolist()], n_results=min(5, count))
            searched = len(answer["ids"][0])
            if not searched:
                problems.append(f"{place.name}: a search by a stored vector finds nothing")
        return {"count": count, "searched": searched}

    def _beat(self) -> None:
        self._server.emit("working")


class _Wanted:
    """The records of a collection as its files hold them; vectors are fetched through an index on disk."""

    def __init__(self, folder: Path, database: sqlite3.Connection, place: Positions) -> None:
        self.count = 0
        self._records = stored_records(database, place)
        self._page: dict[str, tuple[Any, ...]] = {}
        self._vectors = sqlite3.connect("")  # a temporary database on disk: memory stays flat
        self._vectors.execute("CREATE TABLE vector (id TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._vectors.executemany("INSERT INTO vector VALUES (?, ?)", stored_vectors(folder, database, place))

    def pages(self) -> Any:
        """Lists of ids, each with its records at hand for `compare`."""
        while True:
            self._page = {}
            for identifier, values in self._records:
                self._page[identifier] = values
                if len(self._page) == _PAGE:
                    break
            if not self._page:
                return
            self.count += len(self._page)
            yield list(self._page)

    def compare(self, identifier: str, vector: Any, document: str | None, metadata: Any, space: str) -> str | None:
        """What differs between a returned record and the stored one, or None."""
        import numpy as np

        row = self._vectors.execute("SELECT value FROM vector WHERE id = ?", (identifier,)).fetchone()
        if row is None:
            return "a vector was returned that the files do not hold,"
        stored = np.frombuffer(row[0], dtype="<f4")
        if stored.shape != vector.shape:
            return "the dimension"
        if not np.array_equal(stored, vector, equal_nan=True):
            allowed = _TOLERANCE * float(np.linalg.norm(stored)) if space == "cosine" else 0.0
            if not float(np.linalg.norm(stored - vector)) <= allowed:
                return "the vector"
        stored_document, stored_metadata = _as_client(self._page[identifier])
        if stored_document != document:
            return "the document"
        if stored_metadata != (dict(metadata) if metadata else {}):
            return "the metadata"
        return None


def _as_client(values: tuple[Any, ...]) -> tuple[str | None, dict[str, Any]]:
    """Document and metadata of stored rows in the shape in which the client returns them."""
    document: str | None = None
    metadata: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    for key, text, integer, real, boolean, *is_list in values:
        value: Any = text
        if integer is not None:
            value = integer
        elif real is not None:
            value = real
        elif boolean is not None:
            value = bool(boolean)
        if key == "chroma:document":
            document = text
        elif key.startswith("chroma:"):
            continue
        elif is_list:
            lists.setdefault(key, []).append(value)
        else:
            metadata[key] = value
    return document, metadata | lists


def _row_counts(database: sqlite3.Connection) -> dict[str, int]:
    """Rows a table, those of virtual tables left out: they may need a module that is not here."""
    listed = database.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        " AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall()
    counts = {}
    for (name,) in listed:
        quoted = name.replace('"', '""')
        counts[name] = int(database.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()[0])
    return counts


def main() -> None:
    """Serve one verification."""
    server = Server()
    prober = Prober(server)
    server.serve({name: getattr(prober, name) for name in ("sqlite", "digests", "chroma")})


if __name__ == "__main__":
    main()
