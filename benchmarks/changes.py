"""Changes to the data between two backups, each made by a process of its own and from a seed.

``python -m benchmarks.changes rows DATABASE --count N --seed S [--checkpoint]``
    gives N random rows new content, half of them vectors and half of them abstracts;
``python -m benchmarks.changes vectors CHROMA --count N --seed S``
    adds N records through the client;
``python -m benchmarks.changes write-sqlite DATABASE`` and ``write-chroma CHROMA``
    write without pause until stdin ends, then print one JSON object: how many writes, and how long they
    took in ms.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .data import Author, add_vectors, open_collection
from .measure import percentile

_ROOT = Path(__file__).parent.parent
_RING = 2_000
_BATCH = 50


def change_rows(database: Path, count: int, seed: int, *, checkpoint: bool = False) -> None:
    """Change *count* rows in a child process; with *checkpoint* the WAL is emptied into the file."""
    _call("rows", str(database), "--count", str(count), "--seed", str(seed), *["--checkpoint"] * checkpoint)


def add_to_chroma(folder: Path, count: int, seed: int) -> None:
    """Add *count* records in a child process, which has closed the directory when this returns."""
    _call("vectors", str(folder), "--count", str(count), "--seed", str(seed))


@dataclass(kw_only=True, slots=True)
class Writes:
    """What a writer saw: how long each write took, in milliseconds."""

    count: int = 0
    median: float = 0.0
    p99: float = 0.0
    slowest: list[float] = field(default_factory=list)


@contextmanager
def writing(what: str, path: Path) -> Iterator[Writes]:
    """Keep a writer running, ``sqlite`` or ``chroma``; the `Writes` are filled in when the block ends.

    The block begins after the writer's first write.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.changes", f"write-{what}", str(path)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    writes = Writes()
    try:
        if process.stdout is None or process.stdout.readline() != "writing\n":
            raise RuntimeError(f"the writer of {path.name} did not start")
        yield writes
        output, _ = process.communicate(timeout=120)
        found = json.loads(output)
        writes.count, writes.median, writes.p99 = found["count"], found["median"], found["p99"]
        writes.slowest = found["slowest"]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _call(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.changes", *arguments], cwd=_ROOT, check=True)


def _change_rows(database: Path, count: int, seed: int, checkpoint: bool) -> None:
    author = Author(seed)
    connection = sqlite3.connect(database, isolation_level=None, timeout=60)
    [papers] = connection.execute("SELECT max(id) FROM paper").fetchone()
    [pages] = connection.execute("SELECT max(id) FROM page_embedding").fetchone()
    half = max(1, count // 2)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "UPDATE page_embedding SET vector = ? WHERE id = ?",
        (
            (vector.tobytes(), number + 1)
            for vector, number in zip(author.vectors(half), author.numbers(pages, half), strict=False)
        ),
    )
    connection.executemany(
        "UPDATE paper SET abstract = ? WHERE id = ?",
        ((text, number + 1) for text, number in zip(author.texts(half, 110), author.numbers(papers, half), strict=False)),
    )
    connection.execute("COMMIT")
    if checkpoint:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def _add_vectors(folder: Path, count: int, seed: int) -> None:
    collection = open_collection(folder)
    add_vectors(collection, Author(seed), collection.count(), count, min(count, 1_000))


def _write_sqlite(database: Path) -> None:
    connection = sqlite3.connect(database, isolation_level=None, timeout=60)
    connection.execute("PRAGMA synchronous = NORMAL")

    def write(number: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO activity (at, what) VALUES (?, 'opened')", (time.time(),))
        connection.execute("UPDATE paper SET opened = opened + 1 WHERE id = ?", (number % 50 + 1,))
        connection.execute("COMMIT")

    _write_until_told(write)
    connection.close()


def _write_chroma(folder: Path) -> None:
    """Write a ring of records again and again, so that the store does not grow without end."""
    collection, author = open_collection(folder), Author(11)
    _write_until_told(lambda number: add_vectors(collection, author, 9_000_000 + number * _BATCH % _RING, _BATCH))


def _write_until_told(write: Callable[[int], None]) -> None:
    times: list[float] = []
    while not select.select([0], [], [], 0)[0]:
        start = time.perf_counter()
        write(len(times))
        times.append(round((time.perf_counter() - start) * 1000, 3))
        if len(times) == 1:
            os.write(1, b"writing\n")
    report = {
        "count": len(times),
        "median": percentile(times, 0.5),
        "p99": percentile(times, 0.99),
        "slowest": sorted(times, reverse=True)[:20],
    }
    os.write(1, json.dumps(report).encode())


def main() -> None:
    """Change data in place."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", choices=["rows", "vectors", "write-sqlite", "write-chroma"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--checkpoint", action="store_true")
    arguments = parser.parse_args()
    match arguments.what:
        case "rows":
            _change_rows(arguments.path, arguments.count, arguments.seed, arguments.checkpoint)
        case "vectors":
            _add_vectors(arguments.path, arguments.count, arguments.seed)
        case "write-sqlite":
            _write_sqlite(arguments.path)
        case _:
            _write_chroma(arguments.path)


if __name__ == "__main__":
    main()
