"""Changes the data between two backups, and writes to it during backups. Run the functions through `measure.in_child`."""

import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from .data import Author, add_vectors, open_collection

_RING_RECORDS = 2_000
_BATCH_RECORDS = 50


def change_rows(database: Path, count: int, seed: int, checkpoint: bool = False) -> None:
    """Give *count* random rows new content, half of them vectors and half abstracts; *checkpoint* empties the WAL."""
    author = Author(seed)
    connection = sqlite3.connect(database, isolation_level=None, timeout=60)
    [papers] = connection.execute("SELECT max(id) FROM paper").fetchone()
    [pages] = connection.execute("SELECT max(id) FROM page_embedding").fetchone()
    half = max(1, count // 2)
    vectors = [vector.tobytes() for vector in author.vectors(half)]
    chosen = [number + 1 for number in author.numbers(pages, half)]
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("UPDATE page_embedding SET vector = ? WHERE id = ?", zip(vectors, chosen, strict=False))
    texts, chosen = author.texts(half, 110), [number + 1 for number in author.numbers(papers, half)]
    connection.executemany("UPDATE paper SET abstract = ? WHERE id = ?", zip(texts, chosen, strict=False))
    connection.execute("COMMIT")
    if checkpoint:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def add_records(folder: Path, count: int, seed: int) -> None:
    """Add *count* records to a Chroma directory through the client."""
    collection = open_collection(folder)
    add_vectors(collection, Author(seed), collection.count(), count, min(count, 1_000))


@contextmanager
def writing(store: str, path: Path) -> Iterator[list[float]]:
    """Run a writer of *store* (``sqlite`` or ``chroma``) that never pauses, from its first write to the end of the block.

    The list gets the milliseconds of each write when the block ends.
    """
    context = multiprocessing.get_context("spawn")
    connection, writer_end = context.Pipe()
    process = context.Process(target=_write_sqlite if store == "sqlite" else _write_chroma, args=(path, writer_end))
    process.start()
    writer_end.close()
    times: list[float] = []
    try:
        connection.recv()
        yield times
        connection.send("stop")
        times += connection.recv()
        process.join()
    finally:
        process.terminate()
        process.join()


def _write_sqlite(database: Path, connection: Connection) -> None:
    library = sqlite3.connect(database, isolation_level=None, timeout=60)
    library.execute("PRAGMA synchronous = NORMAL")

    def write(number: int) -> None:
        library.execute("BEGIN IMMEDIATE")
        library.execute("INSERT INTO activity (at, what) VALUES (?, 'opened')", (time.time(),))
        library.execute("UPDATE paper SET opened = opened + 1 WHERE id = ?", (number % 50 + 1,))
        library.execute("COMMIT")

    _write_until_stopped(write, connection)
    library.close()


def _write_chroma(folder: Path, connection: Connection) -> None:
    # A ring of records, so that the store does not grow without limit
    collection, author = open_collection(folder), Author(11)

    def write(number: int) -> None:
        add_vectors(collection, author, 9_000_000 + number * _BATCH_RECORDS % _RING_RECORDS, _BATCH_RECORDS)

    _write_until_stopped(write, connection)


def _write_until_stopped(write: Callable[[int], None], connection: Connection) -> None:
    times: list[float] = []
    while not connection.poll():
        start = time.perf_counter()
        write(len(times))
        times.append(round((time.perf_counter() - start) * 1000, 3))
        if len(times) == 1:
            connection.send("writing")
    connection.send(times)
