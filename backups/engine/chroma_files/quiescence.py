"""Whether the files of a Chroma directory are at rest while ``chroma.sqlite3`` is locked.

The lock alone is not enough: the HNSW files are written outside any transaction. The positions in the log show whether a
write is under way (`tables`; ``docs/explanation/the-cut.md``).
"""

from __future__ import annotations

import sqlite3
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from . import hnsw
from .errors import BrokenIndex
from .id_table import PICKLE, labels
from .tables import Collection, list_collections


class Unrest(Enum):
    """Why the files are not at rest."""

    WRITE_PENDING = "a write is in the log and not in the metadata; it waits for the lock that the caller holds"
    INDEX_WRITTEN = "the HNSW files are being rewritten, which needs no lock"
    LOG_IN_USE = "a reader needs the write-ahead log of chroma.sqlite3"


class QuiescenceProblem(NamedTuple):
    """A reason, and a sentence for people without its full stop."""

    reason: Unrest
    message: str


def quiescence_problem(directory: Path, database: sqlite3.Connection) -> QuiescenceProblem | None:
    """Why the files are not at rest; None when they are, and stay so until the caller unlocks ``chroma.sqlite3``.

    Call it with the lock held. Raises ``sqlite3.DatabaseError`` and `SourceBroken` as `tables.list_collections` does.
    """
    for collection in list_collections(database):
        after = min(collection.metadata_at, collection.vector_at)
        newest, waiting = database.execute(
            "SELECT coalesce(max(seq_id), 0), coalesce(sum(seq_id > ?), 0) FROM embeddings_queue"
            " WHERE seq_id > ? AND substr(topic, -36) = ?",
            (collection.vector_at, after, collection.id),
        ).fetchone()
        if collection.metadata_at < newest:
            return QuiescenceProblem(Unrest.WRITE_PENDING, f"a write to {collection.name} is under way")
        if waiting >= collection.sync_threshold and not _is_synced(directory, database, collection):
            return QuiescenceProblem(Unrest.INDEX_WRITTEN, f"the index of {collection.name} is being written")
    return None


def _is_synced(directory: Path, database: sqlite3.Connection, collection: Collection) -> bool:
    """Whether the HNSW files fit each other, include every id of the metadata segment, and their last one is the newest."""
    folder = directory / collection.vector_segment
    try:
        hnsw.check_structure(folder)
        written = {name: (folder / name).stat().st_mtime_ns for name in hnsw.FILES}
        if written[PICKLE] < max(written.values()):
            return False  # updates change no size, so only the order of writing shows them
        indexed = {identifier for identifier, _ in labels(folder)}
    except (BrokenIndex, FileNotFoundError):
        return False
    ids = database.execute("SELECT embedding_id FROM embeddings WHERE segment_id = ?", (collection.metadata_segment,))
    return all(identifier in indexed for (identifier,) in ids)
