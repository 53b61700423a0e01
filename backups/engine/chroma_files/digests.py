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

Because they are sums, digests can continue those of the parent backup: when every record digested then still exists unchanged,
which the sequence numbers show (Chroma gives a record a new one with every change), only new records are read and added.
They would then claim the old content for records that were damaged or edited without a write. So from time to time all are
read, and the digest of what was not written since the parent is compared with the parent's.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from .id_table import labels
from .index import Index
from .records import count_records, stored_records
from .tables import Collection, list_collections, log_rows, open_at_rest
from .whole import check_index

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

    def update(self, other: SetHash) -> None:
        """Count the members of *other* too."""
        self.count += other.count
        self._total += other._total

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
    """The digests of one collection, in hex. ``indexed`` is None when its index was not copied because it has not changed.

    ``altered``: records differ from the parent's, although Chroma has not written them since; found only if all were read.
    """

    collection: Collection
    count: int
    indexed_count: int | None
    indexed: str | None
    recent: str
    records: str
    altered: bool


def digest_collections(
    directory: Path, parents: dict[str, ParentDigest], check: Callable[[], None] = lambda: None, *, carry_on: bool = False
) -> list[CollectionDigest]:
    """The digests of the collections in a directory at rest, by name.

    *parents* maps ids of collections to their digests in the parent backup. The index of such a collection is not digested if
    its files are not in *directory*, because they have not changed. With *carry_on*, only what was written since the parent is
    digested. *check* is called every 1,024 records, and may raise. Raises `BrokenIndex` and ``sqlite3.DatabaseError``.
    """
    with closing(open_at_rest(directory)) as database:
        reading = _Reading(directory, database, check, carry_on)
        return [reading.digest(collection, parents.get(collection.id)) for collection in list_collections(database)]


@dataclass(frozen=True, slots=True)
class _Reading:
    """The arguments of `digest_collections`, with the open database of the directory."""

    directory: Path
    database: sqlite3.Connection
    check: Callable[[], None]
    carry_on: bool

    def digest(self, collection: Collection, parent: ParentDigest | None) -> CollectionDigest:
        records, altered = self._records(collection, parent)
        recent = SetHash()
        for number, operation, identifier, vector in log_rows(self.database, collection, collection.vector_at):
            recent.add(struct.pack("<QI", number, operation) + _prefixed(identifier) + (vector or b""))
        indexed: SetHash | None = None
        if parent is None or self._has_index(collection):
            indexed = SetHash()
            if check_index(self.directory, self.database, collection, self.check).count:
                indexed, vectors_altered = self._vectors(collection, parent)
                altered |= vectors_altered
        return CollectionDigest(
            collection=collection,
            count=records.count,
            indexed_count=indexed.count if indexed is not None else None,
            indexed=indexed.hexdigest() if indexed is not None else None,
            recent=recent.hexdigest(),
            records=records.hexdigest(),
            altered=altered,
        )

    def _has_index(self, collection: Collection) -> bool:
        """Whether the folder of the index was copied, since a file in it was changed or removed after the parent."""
        return collection.vector_segment != "" and (self.directory / collection.vector_segment).is_dir()

    def _records(self, collection: Collection, parent: ParentDigest | None) -> tuple[SetHash, bool]:
        """The digest, and whether records that were not written since the parent differ from the parent's."""
        records, altered = SetHash(), False
        since = parent.metadata_at if parent is not None else 0
        spans: tuple[tuple[int | None, int | None], ...] = ((None, since), (since, None))
        if self.carry_on and parent is not None and count_records(self.database, collection, since) == parent.count:
            records, spans = SetHash(parent.count, parent.records), spans[1:]
        for span in spans:
            for record in stored_records(self.database, collection, *span):
                records.add(repr(record).encode("utf-8", "surrogatepass"))
                if not records.count % 1024:
                    self.check()
            if parent is not None and span[0] is None:
                altered = records.count == parent.count and records.hexdigest() != parent.records
        return records, altered

    def _vectors(self, collection: Collection, parent: ParentDigest | None) -> tuple[SetHash, bool]:
        """The digest, and whether vectors that were not written since the parent differ from the parent's."""
        folder = self.directory / collection.vector_segment
        new = _new_in_index(folder, self.database, collection, parent)
        vectors, added = SetHash(), SetHash()
        wanted = None
        # of files that changed although nothing was written, the parent's digest says nothing
        if self.carry_on and new is not None and parent is not None and parent.vector_at != collection.vector_at:
            vectors, wanted = SetHash(parent.indexed_count or 0, parent.indexed), new
        with closing(Index(folder, cosine=collection.cosine)) as index:
            for number, (identifier, vector) in enumerate(index.stream(wanted)):
                (added if new is not None and identifier in new else vectors).add(_prefixed(identifier) + vector)
                if not number % 1024:
                    self.check()
        altered = new is not None and parent is not None and vectors.hexdigest() != parent.indexed
        vectors.update(added)
        return vectors, altered


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
