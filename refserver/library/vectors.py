"""The only module that opens Chroma.

Chroma's persistent client supports neither several processes on one directory nor a directory that is exchanged: its index is
in memory and is not read again. So every call passes a gate (`backups.engine.gate`): reads share it, a write holds it alone and
raises its generation. A process that finds another generation than that of its client opens a new client (about 7 ms). A
restore uses the same gate to exchange the directory.

Order: **the SQLite transaction first, then the gate.** A holder of the gate must not wait for SQLite's write lock, to avoid a
deadlock. `catalogue` keeps this order; nothing else writes.

The two collections use the squared Euclidean distance ("l2"). All vectors have length 1, so it ranks as the
cosine does, and 1 minus half of it is the cosine. With "cosine", Chroma would store vectors that it
normalised itself, which differ in the last bit from those in SQLite; with "l2" the two stores can be compared
bit by bit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from django.conf import settings

from backups.engine.gate import Gate

if TYPE_CHECKING:
    from refserver.library.embedding import Matrix

_T = TypeVar("_T")

CollectionName = Literal["papers", "pages"]
PAPERS: CollectionName = "papers"
PAGES: CollectionName = "pages"
COLLECTIONS: tuple[CollectionName, ...] = (PAPERS, PAGES)

GATE_TIMEOUT = 15.0
"""Seconds to wait for the gate. A writer holds SQLite's write lock meanwhile, for which others wait 20 s."""

_BATCH = 2_000
"""Records in one call: SQLite allows Chroma about 32,000 variables, and each metadata entry takes several."""

_abandoned: list[Any] = []
"""Clients inherited by a fork: their threads are gone, so they can be neither used nor closed."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a collection."""

    id: str
    vector: Matrix
    document: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Match:
    """A record found by a search; *similarity* is the cosine, 1 for the same direction."""

    id: str
    similarity: float


@dataclass(slots=True)
class Edit:
    """A write, by collection: delete first, then write (add or replace)."""

    delete: dict[CollectionName, list[str]] = field(default_factory=dict)
    write: dict[CollectionName, list[Record]] = field(default_factory=dict)


class VectorStore:
    """Chroma in *directory*, for all threads of this process. Use `store()` to get it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._gate = Gate(directory)
        self._lock = threading.Lock()
        self._client: Any = None
        self._opened: tuple[int, int] | None = None  # (generation, process)

    def apply(self, edit: Edit) -> None:
        """Carry out *edit* alone, and make all other clients reopen, even if it fails halfway.

        Raises `GateTimeout` if a backup or restore holds the gate for too long, and Chroma's own errors.
        """
        with self._changing() as client:
            for name in COLLECTIONS:
                _end_replacing(client, name)
                collection = _create_collection(client, name)
                for ids in _batches(edit.delete.get(name, ())):
                    collection.delete(ids=list(ids))
                for records in _batches(edit.write.get(name, ())):
                    _upsert(collection, records)

    def recreate(self, name: CollectionName) -> None:
        """Replace a collection, with its index, by an empty one with the same settings and metadata. Raises as `apply` does.

        The new one gets the name once the old one is deleted. What a crash leaves in between, the next change ends: it removes
        the new one while the old one is there, and gives it the name when that is gone.
        """
        with self._changing() as client:
            _end_replacing(client, name)
            old = _existing_collection(client, name)
            if old is None:
                _create_collection(client, name)
                return
            settings = {"hnsw": old.configuration_json["hnsw"]}  # of the embedding function there is nothing to keep
            client.create_collection(_replacement(name), embedding_function=None, configuration=settings, metadata=old.metadata)
            client.delete_collection(name)
            _end_replacing(client, name)

    def nearest(self, name: CollectionName, vector: Matrix, limit: int) -> list[Match]:
        """At most *limit* records, the most similar to *vector* first."""
        with self._reading(name) as collection:
            if collection is None:
                return []
            found = collection.query(query_embeddings=[vector], n_results=limit, include=["distances"])
        pairs = zip(found["ids"][0], found["distances"][0], strict=True)
        return [Match(id=id_, similarity=1.0 - float(distance) / 2) for id_, distance in pairs]

    def records(self, name: CollectionName, ids: Sequence[str]) -> dict[str, Record]:
        """The records of *ids* that the collection holds, by id."""
        import numpy as np

        found: dict[str, Record] = {}
        with self._reading(name) as collection:
            if collection is None:
                return {}
            for batch in _batches(ids):
                answer = collection.get(ids=list(batch), include=["embeddings", "documents", "metadatas"])
                columns = (answer["ids"], answer["embeddings"], answer["documents"], answer["metadatas"])
                for id_, vector, document, metadata in zip(*columns, strict=True):
                    found[id_] = Record(id_, np.asarray(vector, dtype=np.float32), document, metadata)
        return found

    def count(self, name: CollectionName) -> int:
        with self._reading(name) as collection:
            return 0 if collection is None else int(collection.count())

    def close(self) -> None:
        """Close the client; the next call opens a new one."""
        with self._gate.exclusive():
            self._close()

    @contextmanager
    def _changing(self) -> Iterator[Any]:
        """Hold the gate alone and yield a client; all other clients reopen afterwards."""
        with self._gate.exclusive(GATE_TIMEOUT) as held:
            client = self._client_of(held.generation)
            try:
                yield client
            finally:
                generation = held.advance()
                self._opened = (generation, os.getpid())  # this client made the change

    @contextmanager
    def _reading(self, name: CollectionName) -> Iterator[Any]:
        """Share the gate and yield the collection, or None while there is no store.

        A reader does not create the store: two readers doing so would collide.
        """
        with self._gate.shared(GATE_TIMEOUT) as generation:
            if not (self.directory / "chroma.sqlite3").exists():
                yield None
                return
            yield _existing_collection(self._client_of(generation), name)

    def _client_of(self, generation: int) -> Any:
        """A client opened at *generation*. The caller holds the gate.

        No thread uses the client that is closed here: all threads in the gate have the same generation, and get their client
        under this lock.
        """
        with self._lock:
            current = (generation, os.getpid())
            if self._client is None or self._opened != current:
                self._close()
                self._client = _open(self.directory)
                self._opened = current
            return self._client

    def _close(self) -> None:
        client, opened = self._client, self._opened
        self._client = self._opened = None
        if client is None or opened is None:
            return
        if opened[1] == os.getpid():
            client.close()
        else:
            _abandoned.append(client)
            client.clear_system_cache()


_stores: dict[Path, VectorStore] = {}
_stores_lock = threading.Lock()


def store() -> VectorStore:
    """This process's store in the directory of the setting CHROMA_PATH."""
    directory = Path(settings.CHROMA_PATH)
    with _stores_lock:
        return _stores.setdefault(directory, VectorStore(directory))


def _open(directory: Path) -> Any:
    """Open a client. Chroma caches by path: only after `close` does a new client read the disk again."""
    import chromadb  # takes half a second; many management commands do not need it
    from chromadb.config import Settings

    directory.mkdir(parents=True, exist_ok=True)
    return chromadb.PersistentClient(str(directory), settings=Settings(anonymized_telemetry=False))


def _create_collection(client: Any, name: CollectionName) -> Any:
    # No embedding function: vectors come from `embedding`, and Chroma's default would download a model.
    return client.get_or_create_collection(name, embedding_function=None, configuration={"hnsw": {"space": "l2"}})


def _replacement(name: CollectionName) -> str:
    """The name of the collection that is to replace *name*, until it does."""
    return f"{name}-rebuilt"


def _end_replacing(client: Any, name: CollectionName) -> None:
    new = _existing_collection(client, _replacement(name))
    if new is None:
        return
    if _existing_collection(client, name) is not None:
        client.delete_collection(new.name)
    else:
        new.modify(name=name)


def _existing_collection(client: Any, name: str) -> Any:
    from chromadb.errors import NotFoundError

    try:
        return client.get_collection(name, embedding_function=None)
    except NotFoundError:
        return None


def _upsert(collection: Any, records: Sequence[Record]) -> None:
    collection.upsert(
        ids=[record.id for record in records],
        embeddings=[record.vector for record in records],
        documents=[record.document for record in records],
        metadatas=[dict(record.metadata) or None for record in records],
    )


def _batches(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
