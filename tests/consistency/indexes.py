"""An index of the library's pages that is on the disk, to be broken."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from backups.engine.chroma_files.tables import find_collection, open_at_rest
from refserver.library.vectors import PAGES, Edit, VectorStore

SETTINGS = {"space": "l2", "sync_threshold": 20, "ef_construction": 77, "max_neighbors": 3}
"""Few neighbours, so that many elements are on levels above 0."""


def client_of(store: VectorStore) -> Any:
    """A client of Chroma; the store's own is closed."""
    import chromadb

    store.close()
    return chromadb.PersistentClient(str(store.directory), chromadb.Settings(anonymized_telemetry=False))


def index_on_disk(store: VectorStore, ids: Sequence[str]) -> None:
    """Write the pages *ids* again, into a collection with settings of its own, whose index is on the disk."""
    records = list(store.records(PAGES, ids).values())
    client = client_of(store)
    client.delete_collection(PAGES)
    client.create_collection(PAGES, embedding_function=None, configuration={"hnsw": SETTINGS}, metadata={"made by": "hand"})
    client.close()
    for start in range(0, len(records), 20):
        store.apply(Edit(write={PAGES: records[start : start + 20]}))
    store.close()


def segment_of(store: VectorStore) -> Path:
    """The folder of the index of the pages."""
    store.close()
    with closing(open_at_rest(store.directory)) as database:
        collection = find_collection(database, PAGES)
    assert collection is not None
    return store.directory / collection.vector_segment
