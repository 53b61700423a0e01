"""Digests of the records of a Chroma directory at rest, which a restored copy must reproduce.

A digest of a collection is the sum, modulo 2**256, of the BLAKE3 of each of its records: a set hash (Bellare and Micciancio,
"A New Paradigm for Collision-free Hashing", 1997, AdHash), so records are read in the order in which they lie on
disk, and are neither sorted nor held in memory. It guards against loss and change, not against an adversary who forges both
sides.

=========== ==========================================================================================================
digest      hashed for each record
=========== ==========================================================================================================
``indexed`` ``u32 length of id, id, float32 values``, little-endian, of every record in the index files
``recent``  ``u64 sequence number, u32 operation, u32 length of id, id, vector as logged``, of every log record after them
``records`` ``repr`` of ``(id, ((key, string, integer, float, boolean), ...))``, by key; the document is the key
            ``chroma:document``; values of a list follow in their order, with the key's name
=========== ==========================================================================================================

Because they are sums, digests continue those of the parent backup: when every record digested then still exists unchanged,
which the sequence numbers show (Chroma gives a record a new one with every change), only new records are read and added.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from .errors import BrokenIndex
from .graph import check_graph
from .id_table import PICKLE, labels
from .index import Index
from .records import count_records, stored_records
from .tables import Collection, list_collections, log_rows, open_at_rest, pending_ids

_MODULUS = 1 << 256


class SetHash:
    """A hash of a set of byte strings that does not depend on their order."""

    def __init__(self, count: int = 0, digest: str = "") -> None:
        self.count = count
        self._total = int.from_bytes(bytes.fromhex(digest), "little")

    def add(self, record: bytes) -> None:
        """Count one more member."""
        self.count += 1
        self._total += int.from_bytes(blake3(record).digest(), "little")

    def hexdigest(self) -> str:
        """The sum as 64 hexadecimal digits."""
        return (self._total % _MODULUS).to_bytes(32, "little").hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentDigest:
    """The digests of a collection in the parent backup, and its positions in the log then."""

    metadata_at: int
    vector_at: int
    count: int
    indexed_count: int | None
    indexed: str
    records: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionDigest:
    """The digests of one collection, in hex. ``indexed`` is None when its index was not copied because it has not changed."""

    collection: Collection
    count: int
    indexed_count: int | None
    indexed: str | None
    recent: str
    records: str


def digest_collections(
    directory: Path, parents: dict[str, ParentDigest], check: Callable[[], None] = lambda: None
) -> list[CollectionDigest | Collection]:
    """The digests of the collections in a directory at rest, by name.

    *parents* maps ids of collections to their digests in the parent backup. A collection that has not moved since is returned
    as a bare `Collection`. An index whose files are not in *directory*, because they have not changed, is not digested. *check*
    is called every 1,024 records, and may raise. Raises `BrokenIndex` and ``sqlite3.DatabaseError``.
    """
    with closing(open_at_rest(directory)) as database:
        return [
            collection
            if _is_unmoved(parents.get(collection.id), collection)
            and not _index_is_here(directory, collection)
            and not pending_ids(database, collection)
            else _digest(directory, database, collection, parents.get(collection.id), check)
            for collection in list_collections(database)
        ]


def _is_unmoved(parent: ParentDigest | None, collection: Collection) -> bool:
    return parent is not None and (parent.metadata_at, parent.vector_at) == (collection.metadata_at, collection.vector_at)


def _index_is_here(directory: Path, collection: Collection) -> bool:
    """Whether the folder of the index was copied, since a file in it was changed or removed after the parent."""
    return collection.vector_segment != "" and (directory / collection.vector_segment).is_dir()


def _digest(
    directory: Path,
    database: sqlite3.Connection,
    collection: Collection,
    parent: ParentDigest | None,
    check: Callable[[], None],
) -> CollectionDigest:
    records = _digest_records(database, collection, parent, check)
    recent = SetHash()
    for number, operation, identifier, vector in log_rows(database, collection, collection.vector_at):
        recent.add(struct.pack("<QI", number, operation) + _prefixed(identifier) + (vector or b""))
    folder = directory / collection.vector_segment
    indexed: SetHash | None = None
    if parent is None or _index_is_here(directory, collection):
        # if files changed without a write, the parent's digest says nothing about them
        indexed = _digest_index(folder, database, collection, None if _is_unmoved(parent, collection) else parent, check)
        older = count_records(database, collection, collection.vector_at)
        if older > indexed.count:
            raise BrokenIndex(
                f"{older} records of {collection.name} are older than its index, which holds {indexed.count}", PICKLE
            )
    return CollectionDigest(
        collection=collection,
        count=records.count,
        indexed_count=indexed.count if indexed is not None else None,
        indexed=indexed.hexdigest() if indexed is not None else None,
        recent=recent.hexdigest(),
        records=records.hexdigest(),
    )


def _digest_records(
    database: sqlite3.Connection, collection: Collection, parent: ParentDigest | None, check: Callable[[], None]
) -> SetHash:
    records, after = SetHash(), None
    if parent is not None and count_records(database, collection, parent.metadata_at) == parent.count:
        records, after = SetHash(parent.count, parent.records), parent.metadata_at
    for record in stored_records(database, collection, after):
        records.add(repr(record).encode("utf-8", "surrogatepass"))
        if not records.count % 1024:
            check()
    return records


def _digest_index(
    folder: Path, database: sqlite3.Connection, collection: Collection, parent: ParentDigest | None, check: Callable[[], None]
) -> SetHash:
    vectors = SetHash()
    if not collection.vector_segment or not check_graph(folder, check):
        return vectors
    new = _new_in_index(folder, database, collection, parent)
    if new is not None and parent is not None:
        vectors = SetHash(parent.indexed_count or 0, parent.indexed)
    with closing(Index(folder, cosine=collection.cosine)) as index:
        for identifier, vector in index.stream(new):
            vectors.add(_prefixed(identifier) + vector)
            if not vectors.count % 1024:
                check()
    return vectors


def _new_in_index(
    folder: Path, database: sqlite3.Connection, collection: Collection, parent: ParentDigest | None
) -> set[str] | None:
    """The ids that are new in the index since *parent*; None unless all others are unchanged since then."""
    if parent is None or parent.indexed_count is None:
        return None
    if count_records(database, collection, parent.vector_at) != parent.indexed_count:
        return None
    changed = {
        identifier
        for (identifier,) in database.execute(
            "SELECT embedding_id FROM embeddings WHERE segment_id = ? AND seq_id > ?",
            (collection.metadata_segment, parent.vector_at),
        )
    }
    total = 0
    new = set()
    for identifier, _ in labels(folder):
        total += 1
        if identifier in changed:
            new.add(identifier)
    return new if total - len(new) == parent.indexed_count else None


def _prefixed(identifier: str) -> bytes:
    encoded = identifier.encode("utf-8", "surrogatepass")
    return struct.pack("<I", len(encoded)) + encoded
