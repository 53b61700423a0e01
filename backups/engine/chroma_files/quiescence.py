"""Whether the files of a Chroma directory are at rest while ``chroma.sqlite3`` is locked.

The lock alone is not enough: the HNSW files are written outside any transaction. The positions in the log show whether a
write is under way (`tables`; ``docs/explanation/the-cut.md``).
"""

import sqlite3
from collections.abc import Container
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from . import hnsw
from .errors import BrokenIndex
from .id_table import PICKLE, labels
from .log_tally import LogTally
from .tables import Collection


class Unrest(Enum):
    """Why the files are not at rest."""

    WRITE_PENDING = "a write is in the log and not in the metadata; it waits for the lock that the caller holds"
    INDEX_WRITTEN = "the HNSW files are being rewritten, which needs no lock"
    TABLES_UNREAD = "reading the tables takes longer than writers may be held up"
    LOG_IN_USE = "a reader needs the write-ahead log of chroma.sqlite3"


class QuiescenceProblem(NamedTuple):
    """A reason, a sentence for people without its full stop, and a value that stays the same as long as nothing moves."""

    reason: Unrest
    message: str
    mark: tuple[object, ...]
    segment: str = ""


def quiescence_problems(
    directory: Path, database: sqlite3.Connection, tally: LogTally, standing: Container[tuple[object, ...]] = ()
) -> list[QuiescenceProblem]:
    """Why the files are not at rest; empty when they are, and stay so until the caller unlocks ``chroma.sqlite3``.

    Call it with the lock held; *tally* is brought up to date. What has one of the marks *standing* is passed over: nothing
    moves there, although a record is left to do. That is a state which Chroma completes when the collection is next used, and
    as good as any.

    Raises ``sqlite3.DatabaseError`` and `SourceBroken` as `tables.list_collections` does.
    """
    found = []
    for collection in tally.update(database):
        newest = tally.newest.get(collection.id, 0)
        mark: tuple[object, ...] = (collection.id, collection.metadata_at, newest)
        if collection.metadata_at < newest and mark not in standing:
            message = f"a write to {collection.name} is under way"
            found.append(QuiescenceProblem(Unrest.WRITE_PENDING, message, mark))
            continue
        if tally.waiting.get(collection.id, 0) < collection.sync_threshold:
            continue
        mark = (collection.id, collection.vector_at, *hnsw.index_stamps(directory / collection.vector_segment))
        if mark not in standing and not _is_synced(directory, database, collection):
            message = f"the index of {collection.name} is being written"
            found.append(QuiescenceProblem(Unrest.INDEX_WRITTEN, message, mark, collection.vector_segment))
    return found


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
