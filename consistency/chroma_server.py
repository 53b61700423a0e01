"""Downloads a Chroma server's collections into the files that the check reads.

A server is reached through its API alone, so all records are fetched, a page at a time, into a temporary folder: a
``chroma.sqlite3`` whose records are all in the log. The check then runs as on local files. Before a second look, the records in
question are fetched again.
"""

import json
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from backups.engine.chroma_files.records import DOCUMENT
from backups.engine.chroma_files.tables import DATABASE, HNSW_TYPE
from consistency.engine.context import Context
from consistency.engine.errors import Mistake, StoreUnreadable

_PAGE = 1000
_UPSERT, _DELETE = 2, 3
_SCHEMA = """
CREATE TABLE migrations (dir TEXT, version INTEGER);
CREATE TABLE databases (id TEXT, name TEXT, tenant_id TEXT);
CREATE TABLE collections (id TEXT, name TEXT, dimension INTEGER, database_id TEXT, config_json_str TEXT);
CREATE TABLE collection_metadata (collection_id TEXT, key TEXT, str_value TEXT, int_value INTEGER);
CREATE TABLE segments (id TEXT, type TEXT, scope TEXT, collection TEXT);
CREATE TABLE max_seq_id (segment_id TEXT PRIMARY KEY, seq_id INTEGER);
CREATE TABLE embeddings (
    id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id INTEGER, UNIQUE (segment_id, embedding_id));
CREATE TABLE embedding_metadata (
    id INTEGER, key TEXT, string_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER, PRIMARY KEY (id, key));
CREATE TABLE embedding_metadata_array (
    id INTEGER, key TEXT, string_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER);
CREATE INDEX array_of_record ON embedding_metadata_array (id);
CREATE TABLE embeddings_queue (
    seq_id INTEGER PRIMARY KEY, created_at TEXT, operation INTEGER, topic TEXT, id TEXT, vector BLOB, metadata TEXT);
"""


class ServerCopy:
    """A copy in *directory* of a server's collections, as far as they were fetched."""

    def __init__(self, client: Any, directory: Path) -> None:
        self.directory = directory
        self._client = client
        self._collections: dict[str, Any] = {}
        directory.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(directory / DATABASE, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = OFF"):  # a reader and this writer do not wait for each other
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def open(self, names: Collection[str]) -> None:
        """Create the collections, without records. Names that the server does not have are left out."""
        starts = range(0, self._client.count_collections(), 100)
        on_server = {one.name: one for start in starts for one in self._client.list_collections(limit=100, offset=start)}
        self._database.execute("INSERT INTO databases VALUES ('d', 'default_database', 'default_tenant')")
        for number, name in enumerate(sorted(set(names) & on_server.keys())):
            collection = self._collections[name] = on_server[name]
            identifier = f"{number:036}"
            settings = collection.configuration_json if isinstance(collection.configuration_json, dict) else {}
            space = (settings.get("hnsw") or {}).get("space") or (collection.metadata or {}).get("hnsw:space") or "l2"
            self._database.execute(
                "INSERT INTO collections VALUES (?, ?, NULL, 'd', ?)",
                (identifier, name, json.dumps({"hnsw": {"space": space}})),
            )
            self._database.executemany(
                "INSERT INTO segments VALUES (?, ?, ?, ?)",
                [(f"m{number}", "", "METADATA", identifier), (f"v{number}", HNSW_TYPE, "VECTOR", identifier)],
            )

    def fetch(self, ctx: Context) -> None:
        """Fetch all records of the open collections."""
        for name, collection in self._collections.items():
            total = collection.count()
            with ctx.phase("check", f"{name}: fetching", total) as phase:
                for start in range(0, total + _PAGE, _PAGE):  # one page more: records may be added meanwhile
                    page = _read(collection, limit=_PAGE, offset=start)
                    self._store(name, page)
                    phase.advance(len(page))

    def renew(self, name: str, ids: Sequence[str]) -> None:
        """Fetch some records again. An unchanged record keeps its number in the log."""
        if name not in self._collections:
            return
        page = _read(self._collections[name], ids=list(ids))
        self._remove(name, [identifier for identifier in ids if identifier not in page])
        self._store(name, page)

    def _store(self, name: str, page: dict[str, tuple[bytes, str | None, dict[str, Any]]]) -> None:
        identifier, segment = self._ids_of(name)
        execute = self._database.execute
        execute("BEGIN")
        for key, (vector, document, metadata) in page.items():
            content = json.dumps([document, metadata], sort_keys=True)
            before = execute(
                "SELECT e.id, q.vector, q.metadata FROM embeddings e JOIN embeddings_queue q ON q.seq_id = e.seq_id"
                " WHERE e.segment_id = ? AND e.embedding_id = ?",
                (segment, key),
            ).fetchone()
            if before is not None and before[1:] == (vector, content):
                continue
            if before is not None:
                self._drop(before[0])
            sequence = execute(
                "INSERT INTO embeddings_queue (operation, topic, id, vector, metadata) VALUES (?, ?, ?, ?, ?)",
                (_UPSERT, identifier, key, vector, content),
            ).lastrowid
            number = execute(
                "INSERT INTO embeddings (segment_id, embedding_id, seq_id) VALUES (?, ?, ?)", (segment, key, sequence)
            ).lastrowid
            for table, values in _rows(document, metadata):
                execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", (number, *values))
        if page:
            dimension = len(next(iter(page.values()))[0]) // 4
            execute("UPDATE collections SET dimension = ? WHERE id = ?", (dimension, identifier))
        self._set_last_sequence(segment)
        execute("COMMIT")

    def _remove(self, name: str, ids: Sequence[str]) -> None:
        identifier, segment = self._ids_of(name)
        execute = self._database.execute
        execute("BEGIN")
        for key in ids:
            row = execute("SELECT id FROM embeddings WHERE segment_id = ? AND embedding_id = ?", (segment, key)).fetchone()
            if row is not None:
                self._drop(row[0])
                execute("INSERT INTO embeddings_queue (operation, topic, id) VALUES (?, ?, ?)", (_DELETE, identifier, key))
        self._set_last_sequence(segment)
        execute("COMMIT")

    def _drop(self, number: int) -> None:
        for table in ("embeddings", "embedding_metadata", "embedding_metadata_array"):
            self._database.execute(f"DELETE FROM {table} WHERE id = ?", (number,))

    def _set_last_sequence(self, segment: str) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO max_seq_id SELECT ?, coalesce(max(seq_id), 0) FROM embeddings_queue", (segment,)
        )

    def _ids_of(self, name: str) -> tuple[str, str]:
        row = self._database.execute(
            "SELECT c.id, s.id FROM collections c JOIN segments s ON s.collection = c.id AND s.scope = 'METADATA'"
            " WHERE c.name = ?",
            (name,),
        ).fetchone()
        return str(row[0]), str(row[1])


@contextmanager
def downloaded(address: str, collections: Collection[str], ctx: Context, *, whole: bool) -> Iterator[ServerCopy]:
    """Fetch *collections* of the server at *address* (``http://host:port``) into a temporary folder.

    With *whole* false, records are fetched only by `ServerCopy.renew`. The folder is removed at the end; a crash leaves it in
    the system's temporary folder. Raises `StoreUnreadable`.
    """
    client = _connect(address)
    with (
        tempfile.TemporaryDirectory(prefix="consistency-") as folder,
        closing(ServerCopy(client, Path(folder) / "chroma")) as copy,
    ):
        try:
            copy.open(collections)
            if whole:
                copy.fetch(ctx)
        except (OSError, ValueError) as problem:
            raise StoreUnreadable(f"Chroma at {address} gave an unexpected answer: {problem}.") from None
        yield copy


def _connect(address: str) -> Any:
    import chromadb
    from chromadb.config import Settings

    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Mistake(f"{address!r} is not the address of a Chroma server.", hint="Write it as http://host:port.")
    try:
        return chromadb.HttpClient(
            host=parts.hostname,
            port=parts.port or (443 if parts.scheme == "https" else 80),
            ssl=parts.scheme == "https",
            settings=Settings(anonymized_telemetry=False),
        )
    except (OSError, ValueError) as problem:
        raise StoreUnreadable(f"Chroma at {address} cannot be reached: {problem}.", hint="Is the server running?") from None


def _read(collection: Any, **which: Any) -> dict[str, tuple[bytes, str | None, dict[str, Any]]]:
    answer = collection.get(include=["embeddings", "documents", "metadatas"], **which)
    columns = (answer["ids"], answer["embeddings"], answer["documents"], answer["metadatas"])
    return {
        key: (np.asarray(vector, dtype="<f4").tobytes(), document, dict(metadata or {}))
        for key, vector, document, metadata in zip(*columns, strict=True)
    }


def _rows(document: str | None, metadata: dict[str, Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    if document is not None:
        yield "embedding_metadata", (DOCUMENT, document, None, None, None)
    for key, value in metadata.items():
        for one in value if isinstance(value, list) else (value,):
            typed = (
                one if isinstance(one, str) else None,
                one if isinstance(one, int) and not isinstance(one, bool) else None,
                one if isinstance(one, float) else None,
                int(one) if isinstance(one, bool) else None,
            )
            yield ("embedding_metadata_array" if isinstance(value, list) else "embedding_metadata"), (key, *typed)
