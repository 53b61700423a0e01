"""A Chroma directory as its files tell it: collections, segments, and whether the files are at rest.

Chroma writes in three places, one after the other: its log (``embeddings_queue`` in ``chroma.sqlite3``), the metadata tables
of the same file, and, once every ``sync_threshold`` records, the HNSW files, outside any transaction. So a lock on
``chroma.sqlite3`` alone is not enough; `unrest` tells from the positions in the log whether a write is still under way.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..capture.sqlite import is_locked
from ..errors import SourceBroken, SourceBusy
from . import hnsw

DATABASE = "chroma.sqlite3"
SUPPORTED = {"sysdb": 10, "metadb": 6, "embeddings_queue": 2}
"""The newest migration of each group of Chroma's tables that this reader was tried with (chromadb 1.0 to 1.5)."""

DEFAULT_THRESHOLD = 1000
HNSW_TYPE = "urn:chroma:segment/vector/hnsw-local-persisted"


@dataclass(frozen=True, slots=True)
class Positions:
    """A collection and how far each part of it is in the log (sequence numbers; 0 for none)."""

    id: str
    name: str
    dimension: int | None
    space: str
    threshold: int
    metadata_segment: str
    vector_segment: str
    metadata_at: int
    vector_at: int


def migrations(database: sqlite3.Connection) -> dict[str, int]:
    """The newest migration of each group of tables."""
    return dict(database.execute("SELECT dir, max(version) FROM migrations GROUP BY dir"))


class NotChroma(SourceBroken):
    """A ``chroma.sqlite3`` that is no database, or one without Chroma's tables."""


def check_supported(directory: Path, database: sqlite3.Connection) -> str:
    """The versions of the tables as text. Raises `NotChroma`, and `SourceBroken` for tables of a later Chroma."""
    try:
        found = migrations(database)
    except sqlite3.DatabaseError as problem:
        if is_locked(problem):
            raise SourceBusy(f"{directory / DATABASE} stayed locked by a writer.") from None
        raise NotChroma(
            f"{directory / DATABASE} is no Chroma database: {problem}.",
            hint="Give the directory that PersistentClient or `chroma run --path` uses.",
        ) from None
    newer = [f"{group} {version}" for group, version in found.items() if version > SUPPORTED.get(group, -1)]
    if newer:
        raise SourceBroken(
            f"{directory} was written by a Chroma whose tables are newer than this version knows: {', '.join(newer)}.",
            hint="Upgrade refbackup. A copy of tables that it does not know could not be proven.",
        )
    return " ".join(f"{group}:{version}" for group, version in sorted(found.items()))


def positions(database: sqlite3.Connection) -> list[Positions]:
    """All collections of a directory, by name. Raises `sqlite3.DatabaseError` where the tables cannot be read."""
    columns = {row[1] for row in database.execute("PRAGMA table_info(collections)")}
    schema = "schema_str" if "schema_str" in columns else "NULL"
    config = "config_json_str" if "config_json_str" in columns else "NULL"
    segments: dict[tuple[str, str], tuple[str, str]] = {}
    for identifier, kind, scope, collection in database.execute("SELECT id, type, scope, collection FROM segments"):
        segments[collection, scope] = (identifier, kind)
    reached = {segment: _number(value) for segment, value in database.execute("SELECT * FROM max_seq_id")}
    found = []
    listed = database.execute(f"SELECT id, name, dimension, {schema}, {config} FROM collections ORDER BY name, id")
    for identifier, name, dimension, schema_json, config_json in listed.fetchall():
        metadata, _ = segments.get((identifier, "METADATA"), ("", ""))
        vector, kind = segments.get((identifier, "VECTOR"), ("", ""))
        if vector and kind != HNSW_TYPE:
            raise SourceBroken(f"The collection {name} is kept in segments of type {kind}, which is not supported.")
        try:
            space, threshold = _settings(database, identifier, schema_json, config_json)
        except (ValueError, TypeError, AttributeError) as problem:
            raise sqlite3.DatabaseError(f"the settings of the collection {name} cannot be read: {problem}") from None
        found.append(
            Positions(
                id=identifier,
                name=name,
                dimension=dimension,
                space=space,
                threshold=threshold,
                metadata_segment=metadata,
                vector_segment=vector,
                metadata_at=reached.get(metadata, 0),
                vector_at=reached.get(vector, 0),
            )
        )
    return found


def _number(value: int | bytes) -> int:
    return int.from_bytes(value, "big") if isinstance(value, bytes) else value


def _settings(
    database: sqlite3.Connection, collection: str, schema_json: str | None, config_json: str | None
) -> tuple[str, int]:
    """The distance and the sync threshold of a collection, wherever its version of Chroma keeps them."""
    hnsw_settings: dict[str, Any] = {}
    space: str | None = None
    if schema_json:
        index = json.loads(schema_json).get("keys", {}).get("#embedding", {}).get("float_list", {}).get("vector_index", {})
        space = index.get("config", {}).get("space")
        hnsw_settings = index.get("config", {}).get("hnsw") or {}
    if config_json and not hnsw_settings:
        hnsw_settings = json.loads(config_json).get("hnsw") or {}
    legacy = dict(
        database.execute(
            "SELECT key, coalesce(str_value, int_value) FROM collection_metadata WHERE collection_id = ?", (collection,)
        )
    )
    space = space or hnsw_settings.get("space") or legacy.get("hnsw:space") or "l2"
    threshold = hnsw_settings.get("sync_threshold") or legacy.get("hnsw:sync_threshold") or DEFAULT_THRESHOLD
    return str(space), int(threshold)


def log_rows(database: sqlite3.Connection, collection: Positions, after: int) -> Iterator[tuple[int, int, str, bytes | None]]:
    """(sequence number, operation, id, vector) of a collection's log records after a position, oldest first."""
    yield from database.execute(
        "SELECT seq_id, operation, id, vector FROM embeddings_queue"
        " WHERE seq_id > ? AND substr(topic, -36) = ? ORDER BY seq_id",
        (after, collection.id),
    )


def unrest(directory: Path, database: sqlite3.Connection) -> str | None:
    """Why the files are not at rest, or None when they are and stay so while ``chroma.sqlite3`` is locked.

    Call it with the lock held. Cases (capture.md, "The cut"): a write sits between its log entry and its apply, waiting for
    the very lock; or the HNSW files are being rewritten, or were and the log has not heard of it yet.
    """
    for collection in positions(database):
        after = min(collection.metadata_at, collection.vector_at)
        newest, waiting = database.execute(
            "SELECT coalesce(max(seq_id), 0), coalesce(sum(seq_id > ?), 0) FROM embeddings_queue"
            " WHERE seq_id > ? AND substr(topic, -36) = ?",
            (collection.vector_at, after, collection.id),
        ).fetchone()
        if collection.metadata_at < newest:
            return f"a write to {collection.name} is under way"
        if waiting >= collection.threshold and not _synced(directory, database, collection):
            return f"the index of {collection.name} is being written"
    return None


def _synced(directory: Path, database: sqlite3.Connection, collection: Positions) -> bool:
    """Whether the HNSW files hold together, know every id of the metadata segment, and the one written last is the newest."""
    folder = directory / collection.vector_segment
    try:
        hnsw.check_structure(folder)
        written = {name: (folder / name).stat().st_mtime_ns for name in hnsw.FILES}
        if written["index_metadata.pickle"] < max(written.values()):
            return False  # updates change no size: only the order of writing shows that they are under way
        known = {identifier for identifier, _ in hnsw.labels(folder / "index_metadata.pickle")}
    except (hnsw.BrokenIndex, FileNotFoundError):
        return False
    ids = database.execute("SELECT embedding_id FROM embeddings WHERE segment_id = ?", (collection.metadata_segment,))
    return all(identifier in known for (identifier,) in ids)
