"""Chroma's tables in ``chroma.sqlite3``: their version, the collections, and how far each has read Chroma's log.

Chroma writes in three places, one after the other: its log (``embeddings_queue``), the metadata tables of the same file, and,
once every ``sync_threshold`` records, the HNSW files, outside any transaction. The log is then purged. ``max_seq_id`` holds
the position of each segment in the log.

A program that can write the file decides what a query does: a view may be endless, a value as long as the file. So views in
place of tables are refused, and what describes collections is bounded. What is left takes time in proportion to the file, or to
its square; callers that hold up writers set a `TimeLimit`.
"""

import functools
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SourceBroken
from ..runtime.sqlite import is_interrupted, is_locked, primary_code, uri
from .errors import NotChroma

DATABASE = "chroma.sqlite3"
SUPPORTED = {"sysdb": 10, "metadb": 6, "embeddings_queue": 2}
"""The newest migration of each group of Chroma's tables that this reader was tested with (chromadb 1.0 to 1.5)."""

_FIRST_METADB = 5
"""The migration of ``metadb`` that chromadb 1.0 added: a directory that has a lower number is one that 0.x works with."""

LONGEST = 1 << 20
"""Bytes of the longest value, and of the longest row, that describes a collection; Chroma writes some thousand."""

MOST_COLLECTIONS = 100_000
_MOST_GROUPS = 100
_LONGEST_KEPT = 1 << 14
_LONGEST_NAME = 1024
"""Characters; Chroma allows 512 for the name of a collection."""

_TABLES = (
    "migrations", "databases", "collections", "collection_metadata", "segments", "max_seq_id", "embeddings",
    "embedding_metadata", "embedding_metadata_array", "embeddings_queue",
)  # fmt: skip

DEFAULT_SPACE = "l2"
DEFAULT_SYNC_THRESHOLD = 1000
HNSW_TYPE = "urn:chroma:segment/vector/hnsw-local-persisted"
ADD, UPDATE, UPSERT, DELETE = range(4)
"""Operations of Chroma's log."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection and how far its metadata and vector segment are in the log (sequence numbers; 0 for not at all)."""

    id: str
    name: str
    dimension: int | None
    space: str
    sync_threshold: int
    metadata_segment: str
    vector_segment: str
    metadata_at: int
    vector_at: int

    @property
    def cosine(self) -> bool:
        """Whether the index holds unit vectors, and their lengths apart from them."""
        return self.space == "cosine"


def open_at_rest(directory: Path) -> sqlite3.Connection:
    """A read-only connection to the database of a copy that nobody writes to; leaves no lock and no file behind."""
    return sqlite3.connect(uri(directory / DATABASE, immutable=True), uri=True)


def check_supported(directory: Path, database: sqlite3.Connection) -> str:
    """The versions of the tables as text, such as ``embeddings_queue:2 metadb:6 sysdb:10``.

    Raises `NotChroma`, `SourceBroken` for tables of a later Chroma or of 0.x, and ``sqlite3.OperationalError`` for a database
    that is locked or a query that was interrupted.
    """
    try:
        with _bounded(database):
            grouped = f"SELECT dir, max(version) FROM migrations GROUP BY dir LIMIT {_MOST_GROUPS}"
            versions = dict(database.execute(grouped))
            if not all(isinstance(group, str) and isinstance(version, int) for group, version in versions.items()):
                raise sqlite3.DatabaseError("the table migrations holds something else than names and numbers")
    except sqlite3.DatabaseError as problem:
        if is_locked(problem) or is_interrupted(problem):
            raise
        raise NotChroma(
            f"{directory / DATABASE} is not a Chroma database: {problem}.",
            hint="Give the directory that PersistentClient or `chroma run --path` uses.",
        ) from None
    newer = [f"{group} {version}" for group, version in versions.items() if version > SUPPORTED.get(group, -1)]
    if newer:
        raise SourceBroken(
            f"{directory} was written by a newer Chroma than this version supports: {', '.join(newer)[:_LONGEST_NAME]}.",
            hint="Upgrade refbackup; it cannot prove copies of tables that it does not know.",
        )
    if versions.get("metadb", _FIRST_METADB) < _FIRST_METADB:
        raise SourceBroken(
            f"{directory} was written by chromadb 0.x, which keeps its files in another way.",
            hint="Upgrade the application to chromadb 1.0 or later: opening the directory once with it migrates it.",
        )
    return " ".join(f"{group}:{version}" for group, version in sorted(versions.items()))


def refuse_links(directory: Path) -> None:
    """Raise `SourceBroken` if ``chroma.sqlite3``, a segment, or a file of one is a symbolic link, which a copy would lack.

    The same for pipes and devices in place of the files of a segment: opening one may never end.
    """
    folders = (place for place in directory.iterdir() if place.is_dir())
    for place in (directory / DATABASE, *folders, *directory.glob("*/*.bin"), *directory.glob("*/*.pickle")):
        if place.is_symlink():
            raise SourceBroken(
                f"{place} is a symbolic link, and a Chroma directory is copied and replaced without what lies outside.",
                hint="Put what it leads to in its place, or make the whole directory a link instead.",
            )
        if place.exists() and not (place.is_file() or place.is_dir()):
            raise SourceBroken(f"{place} is not a regular file, as Chroma makes it.", hint="Remove it.")


def list_collections(database: sqlite3.Connection) -> list[Collection]:
    """All collections of a directory, by name.

    Raises ``sqlite3.DatabaseError`` for tables that cannot be read or exceed a bound, `SourceBroken` for a kind of index that
    is not supported.
    """
    with _bounded(database):
        listed = list(_collections(database, "", order=f"ORDER BY c.name, c.id LIMIT {MOST_COLLECTIONS + 1}"))
    if len(listed) > MOST_COLLECTIONS:
        raise sqlite3.DatabaseError(f"there are more than {MOST_COLLECTIONS:,} collections")
    return listed


def find_collection(database: sqlite3.Connection, name: str) -> Collection | None:
    """The collection *name* of the default database, or None. ``NAME@DATABASE`` names another database. Raises as above."""
    name, _, home = name.partition("@")
    clause = "JOIN databases d ON d.id = c.database_id WHERE c.name = ? AND d.name = ?"
    with _bounded(database):
        return next(_collections(database, clause, name, home or "default_database"), None)


def reread(database: sqlite3.Connection, collection: Collection) -> Collection | None:
    """*collection* as it is now, or None if it was deleted. Raises as above."""
    with _bounded(database):
        return next(_collections(database, "WHERE c.id = ?", collection.id), None)


@contextmanager
def _bounded(database: sqlite3.Connection) -> Iterator[None]:
    """Refuse views and virtual tables with names of Chroma's tables, and, inside the context, values longer than `LONGEST`."""
    named = ", ".join("?" * len(_TABLES))
    listed = f"SELECT name, type FROM pragma_table_list WHERE type <> 'table' AND schema = 'main' AND lower(name) IN ({named})"
    for name, kind in database.execute(listed, _TABLES):
        raise sqlite3.DatabaseError(f"{name} is not an ordinary table, as Chroma makes it: {kind}")
    before = database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
    try:
        yield
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) != sqlite3.SQLITE_TOOBIG:
            raise
        raise sqlite3.DatabaseError("what describes a collection is longer than 1 MiB") from None
    finally:
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, before)


def _collections(database: sqlite3.Connection, clause: str, *arguments: str, order: str = "") -> Iterator[Collection]:
    """Collections by one query for each table: tables without an index are not searched again for every collection."""
    present = {row[1] for row in database.execute("PRAGMA table_info(collections)")}
    settings = ", ".join(f"c.{column}" if column in present else "NULL" for column in ("schema_str", "config_json_str"))
    chosen = f"IN (SELECT c.id FROM collections c {clause})"
    segments_of: dict[str, dict[str, tuple[str, str, object]]] = {}
    for collection, segment, kind, scope, at in database.execute(
        "SELECT s.collection, s.id, s.type, s.scope, m.seq_id FROM segments s LEFT JOIN max_seq_id m ON m.segment_id = s.id"
        f" WHERE s.collection {chosen} LIMIT {4 * MOST_COLLECTIONS}",
        arguments,
    ):
        segments_of.setdefault(collection, {})[scope] = (segment, kind, at)
    legacy_of: dict[str, dict[str, Any]] = {}
    for collection, key, value in database.execute(
        "SELECT collection_id, key, coalesce(str_value, int_value) FROM collection_metadata"
        f" WHERE key IN ('hnsw:space', 'hnsw:sync_threshold') AND collection_id {chosen} LIMIT {4 * MOST_COLLECTIONS}",
        arguments,
    ):
        legacy_of.setdefault(collection, {})[key] = value
    rows = database.execute(f"SELECT c.id, c.name, c.dimension, {settings} FROM collections c {clause} {order}", arguments)
    for identifier, name, dimension, schema, config in rows:
        if not all(isinstance(text, str) and len(text) <= _LONGEST_NAME for text in (identifier, name)):
            raise sqlite3.DatabaseError("a collection has no name or id, or one that Chroma does not allow")
        if not isinstance(dimension, int | None):
            raise sqlite3.DatabaseError(f"the dimension of the collection {name} is not a number")
        segments = segments_of.get(identifier, {})
        metadata, _, metadata_at = segments.get("METADATA", ("", "", 0))
        vector, kind, vector_at = segments.get("VECTOR", ("", HNSW_TYPE, 0))
        if not all(isinstance(one, str) and "/" not in one and "\0" not in one and one != ".." for one in (metadata, vector)):
            raise sqlite3.DatabaseError(f"a segment of the collection {name} has no id, or one that cannot be a folder's name")
        if kind != HNSW_TYPE:
            raise SourceBroken(f"The collection {name} uses segments of type {kind}, which are not supported.")
        try:
            space, threshold = _settings(legacy_of.get(identifier, {}), schema, config)
        except _UNREADABLE as problem:
            raise sqlite3.DatabaseError(f"the settings of the collection {name} cannot be read: {problem}") from None
        at = _position(metadata_at), _position(vector_at)
        yield Collection(identifier, name, dimension, space, threshold, metadata, vector, *at)


def _position(at: object) -> int:
    """A position in the log; older versions of Chroma wrote eight bytes."""
    position = int.from_bytes(at, "big") if isinstance(at, bytes) else at or 0
    if not isinstance(position, int) or not 0 <= position < 1 << 63:
        raise sqlite3.DatabaseError("a position in Chroma's log is not a number")
    return position


_UNREADABLE = (ValueError, TypeError, AttributeError, OverflowError, RecursionError)
"""What Python raises for settings that are not JSON, or not of the form that Chroma writes."""


def _settings(legacy: Mapping[str, Any], schema: str | None, config: str | None) -> tuple[str, int]:
    """The distance and the sync threshold of a collection, from wherever its version of Chroma keeps them.

    From 1.3 on that is ``schema_str``; 1.0 to 1.2 wrote ``config_json_str``, as ``{"vector_index": {"hnsw": ...}}``; 0.x wrote
    keys of the collection's metadata, which Chroma still prefers to a configuration of defaults. Later versions leave them.
    """
    declared, configured = _read(_declared, schema), _read(_configured, config)
    if (configured.get("space"), configured.get("sync_threshold")) == (DEFAULT_SPACE, DEFAULT_SYNC_THRESHOLD):
        configured = {}
    space = declared.get("space") or configured.get("space") or legacy.get("hnsw:space") or DEFAULT_SPACE
    hnsw = declared.get("hnsw") or configured
    threshold = hnsw.get("sync_threshold") or legacy.get("hnsw:sync_threshold") or DEFAULT_SYNC_THRESHOLD
    return str(space), int(threshold)


def _read(how: Callable[[str], dict[str, Any]], settings: str | None) -> dict[str, Any]:
    """What *how*, which has a cache, finds in *settings*: most collections have the same. Long ones are not kept."""
    if not settings:
        return {}
    return how(settings) if len(settings) < _LONGEST_KEPT else how.__wrapped__(settings)  # type: ignore[attr-defined]


@functools.lru_cache(maxsize=128)
def _declared(schema: str) -> dict[str, Any]:
    index = json.loads(schema).get("keys", {}).get("#embedding", {}).get("float_list", {}).get("vector_index", {})
    declared: dict[str, Any] = index.get("config") or {}
    return declared


@functools.lru_cache(maxsize=128)
def _configured(config: str) -> dict[str, Any]:
    configured: dict[str, Any] = json.loads(config)
    found: dict[str, Any] = configured.get("vector_index", configured).get("hnsw") or {}
    return found


def embedding_functions(database: sqlite3.Connection) -> dict[str, str]:
    """The embedding functions that collections name, as JSON with ``name`` and ``config``, several joined by commas.

    Chroma's client builds them when it opens the collection. Collections without one are left out. Raises
    ``sqlite3.DatabaseError`` for settings that cannot be read.
    """
    present = {row[1] for row in database.execute("PRAGMA table_info(collections)")}
    settings = [column for column in ("schema_str", "config_json_str") if column in present]
    found = {}
    with _bounded(database):
        columns = ", ".join(["name", *settings])
        for name, *texts in database.execute(f"SELECT {columns} FROM collections LIMIT {MOST_COLLECTIONS}"):
            try:
                named = {one for text in texts if text for one in _functions_in(json.loads(text))}
            except _UNREADABLE as problem:
                raise sqlite3.DatabaseError(f"the settings of the collection {name} cannot be read: {problem}") from None
            if named:
                found[str(name)] = ", ".join(sorted(named))
    return found


def _functions_in(settings: Any) -> Iterator[str]:
    if isinstance(settings, dict):
        for key, value in settings.items():
            if key == "embedding_function" and isinstance(value, dict) and value.get("name"):
                yield json.dumps({"name": value["name"], "config": value.get("config") or {}}, sort_keys=True)
            else:
                yield from _functions_in(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _functions_in(value)


def log_rows(database: sqlite3.Connection, collection: Collection, after: int) -> Iterator[tuple[int, int, str, bytes | None]]:
    """(sequence number, operation, id, vector) of a collection's log records after a position, oldest first.

    Raises ``sqlite3.DatabaseError`` for tables that cannot be read.
    """
    for number, operation, identifier, vector in database.execute(
        "SELECT seq_id, operation, id, vector FROM embeddings_queue"
        " WHERE seq_id > ? AND substr(topic, -36) = ? ORDER BY seq_id",
        (after, collection.id),
    ):
        numbers = isinstance(number, int) and isinstance(operation, int) and 0 <= operation < 1 << 32
        if not (numbers and isinstance(identifier, str) and isinstance(vector, bytes | None)):
            raise sqlite3.DatabaseError("a record of Chroma's log is not of the form that Chroma writes")
        yield number, operation, identifier, vector


def pending_ids(database: sqlite3.Connection, collection: Collection) -> list[str]:
    """Ids whose change is in the log and not yet in the metadata tables."""
    rows = database.execute(
        "SELECT DISTINCT id FROM embeddings_queue WHERE seq_id > ? AND substr(topic, -36) = ?",
        (collection.metadata_at, collection.id),
    )
    return [identifier for (identifier,) in rows]
