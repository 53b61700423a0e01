"""Whether the index of a collection is whole: its files, its ids, and the records that it must hold."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from .errors import BrokenIndex
from .graph import ABSENT, DELETED, LIVE, Graph, check_graph
from .id_table import PICKLE, labels
from .records import count_among, count_records
from .tables import DELETE, Collection, log_rows

_DATA = "data_level0.bin"
_PAGE = 500


def check_index(
    directory: Path, database: sqlite3.Connection, collection: Collection, check: Callable[[], None] = lambda: None
) -> Graph:
    """Check the index of *collection* in *directory* as far as its files and the tables show.

    - Its files fit each other (`check_structure`, `check_graph`).
    - Each id has an element, which is marked as deleted only if the log, after the index, deletes the id: a writer that was
      killed while it wrote the files leaves that, and Chroma completes it. Each element without an id is marked as deleted.
    - It holds every record that is older than the index.

    *check* is called now and then, and may raise. Raises `BrokenIndex`, also for files that are being written, and
    ``sqlite3.DatabaseError``.
    """
    graph = Graph()
    folder = directory / collection.vector_segment
    if collection.vector_segment:
        graph = check_graph(folder, check, cosine=collection.cosine)
    held = _check_ids(folder, graph, database, collection) if graph.count else 0
    older = count_records(database, collection, collection.vector_at)  # after the ids: a writer only makes it smaller meanwhile
    if older > held:
        raise BrokenIndex(f"{older} records of {collection.name} are older than its index, which holds {held}", PICKLE)
    return graph


def _check_ids(folder: Path, graph: Graph, database: sqlite3.Connection, collection: Collection) -> int:
    """The number of ids that are records older than the index."""
    deleted = {name for _, operation, name, _ in log_rows(database, collection, collection.vector_at) if operation == DELETE}
    unnamed = graph.labels.copy()
    held = 0
    names: list[str] = []
    for identifier, label in labels(folder, graph.count):
        state = unnamed[label] if 0 <= label < len(unnamed) else ABSENT
        if state == ABSENT:
            raise BrokenIndex(f"the label of {identifier!r} names no element, or one of another id", PICKLE)
        if state == DELETED and identifier not in deleted:
            raise BrokenIndex(f"the element of {identifier!r} is marked as deleted", _DATA)
        unnamed[label] = ABSENT
        names.append(identifier)
        if len(names) == _PAGE:
            held += count_among(database, collection, names, collection.vector_at)
            names.clear()
    if (unnamed == LIVE).any():
        raise BrokenIndex("an element that has no id is not marked as deleted", _DATA)
    return held + count_among(database, collection, names, collection.vector_at)
