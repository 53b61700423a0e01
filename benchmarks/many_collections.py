"""The pause of a cut of Chroma directories with 10 to 10,000 collections: ``python -m benchmarks.many_collections``.

Chroma's client makes a directory with one collection, which is then copied within ``chroma.sqlite3``: the client would take
minutes. Each collection has as many records in the log as ``--records`` says.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import uuid
from contextlib import closing
from pathlib import Path

from backups.engine.capture.cut import Cut
from backups.engine.runtime.context import Context
from backups.engine.types import Source, SourceKind

MAKE = """
import sys, chromadb
client = chromadb.PersistentClient(sys.argv[1], settings=chromadb.config.Settings(anonymized_telemetry=False))
notes = client.create_collection("notes", embedding_function=None)
notes.add(ids=[str(n) for n in range(10)], embeddings=[[float(n)] * 384 for n in range(10)])
"""


def multiply(directory: Path, number: int, records: int) -> None:
    """Add collections like the first until there are *number*."""
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as database, database:
        (first,) = database.execute("SELECT id FROM collections").fetchone()
        (topic, last) = database.execute("SELECT topic, max(seq_id) FROM embeddings_queue").fetchone()
        others = [row[1] for row in database.execute("PRAGMA table_info(collections)") if row[1] not in ("id", "name")]
        same = ", ".join(others)
        for count in range(1, number):
            new = str(uuid.uuid4())
            database.execute(
                f"INSERT INTO collections (id, name, {same}) SELECT ?, ?, {same} FROM collections WHERE id = ?",
                (new, f"notes-{count}", first),
            )
            for scope in ("METADATA", "VECTOR"):
                segment = str(uuid.uuid4())
                database.execute(
                    "INSERT INTO segments (id, type, scope, collection) SELECT ?, type, scope, ? FROM segments"
                    " WHERE collection = ? AND scope = ?",
                    (segment, new, first, scope),
                )
                if scope == "METADATA":
                    database.execute("INSERT INTO max_seq_id VALUES (?, ?)", (segment, last + records))
            database.executemany(
                "INSERT INTO embeddings_queue (seq_id, operation, topic, id, vector, encoding, metadata)"
                " SELECT ?, operation, ?, ?, vector, encoding, metadata FROM embeddings_queue LIMIT 1",
                [(last + record, topic.replace(first, new), f"r{record}") for record in range(1, records + 1)],
            )
            last += records


def write(directory: Path, over: threading.Event) -> None:
    """Commit ten times a second, as an application would."""
    with closing(sqlite3.connect(directory / "chroma.sqlite3", timeout=20, isolation_level=None)) as database:
        while not over.wait(0.1):
            database.execute("UPDATE databases SET name = name")


def pauses(directory: Path, rounds: int) -> list[float]:
    """The longest pause of each cut, in milliseconds."""
    source = Source(kind=SourceKind.CHROMA, name="chroma", path=directory)
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="many-collections.") as scratch, Cut(Context(), Path(scratch)) as cut:
            found.append(cut.take([source], 60.0, 5.0).pauses.chroma)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000, 10_000], metavar="N")
    parser.add_argument("--records", type=int, default=20, metavar="N", help="in the log, for each collection (default: 20)")
    parser.add_argument("--runs", type=int, default=5, metavar="N")
    given = parser.parse_args()
    print("| collections | pause at rest | pause while ten commits a second are made |\n| --- | --- | --- |")
    for size in given.sizes:
        with tempfile.TemporaryDirectory(prefix="many-collections.") as folder:
            directory = Path(folder) / "chroma"
            subprocess.run([sys.executable, "-c", MAKE, str(directory)], check=True)
            multiply(directory, size, given.records)
            rest = pauses(directory, given.runs)
            over = threading.Event()
            writer = threading.Thread(target=write, args=(directory, over))
            writer.start()
            busy = pauses(directory, given.runs)
            over.set()
            writer.join()
        told = (f"{statistics.median(times):.1f} ms (at most {max(times):.1f} ms)" for times in (rest, busy))
        print(f"| {size:,} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
