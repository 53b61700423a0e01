"""An application for the tests to back up: it records every paper in SQLite and in Chroma, and checks add up.

``python -m tests.capture.application CONFIG`` writes until its standard input ends. It says ``ready`` once it is writing, and
at the end ``{"batches": n, "slowest_ms": n}``. One batch is one IMMEDIATE transaction on every database; writing to Chroma
is its last step before the commits. In the same transaction it keeps a sum over all embedding rows, so that a backup can be
compared with a state that the application was really in.

CONFIG is JSON: ``databases``, ``chromas`` (paths; a batch goes to all databases and one Chroma, in turn), ``files`` (a folder
or null), ``space``, ``threshold``, ``sizes`` (least and most rows of a batch), ``keep`` (rows to grow to), ``churn`` (whether
to update and delete), ``only`` (``update``, ``delete`` or ``nothing``, to do no other), ``gate``, ``seed``, ``most`` (batches,
or null for no end).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import sys
import threading
import time
from array import array
from hashlib import blake2b
from pathlib import Path
from typing import Any

from backups.engine.gate import Gate

WIDTH = 12
"""Values in a vector."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS paper (id TEXT PRIMARY KEY, number INTEGER, rows INTEGER, text TEXT);
CREATE TABLE IF NOT EXISTS embedding (
    id TEXT PRIMARY KEY, paper TEXT, chroma INTEGER, version INTEGER, vector BLOB
);
CREATE INDEX IF NOT EXISTS embedding_paper ON embedding (paper);
CREATE TABLE IF NOT EXISTS total (one INTEGER PRIMARY KEY CHECK (one = 1), batches INTEGER, rows INTEGER, checksum TEXT);
INSERT OR IGNORE INTO total VALUES (1, 0, 0, '0');
"""


def weight(identifier: str, vector: bytes) -> int:
    """What an embedding row adds to the checksum."""
    return int.from_bytes(blake2b(identifier.encode() + b"\0" + vector, digest_size=16).digest(), "little")


class Application:
    """The writer; one of them at a time on a Chroma directory."""

    def __init__(self, config: dict[str, Any]) -> None:
        import chromadb
        from chromadb.config import Settings

        self.config = config
        self.chance = random.Random(config["seed"])
        self.databases = [sqlite3.connect(path, isolation_level=None, timeout=60) for path in sorted(config["databases"])]
        for database in self.databases:
            database.execute("PRAGMA journal_mode = WAL")
            database.executescript(SCHEMA)
        self.gates = [Gate(Path(path)) for path in config["chromas"]]
        settings = Settings(anonymized_telemetry=False)
        index = {"space": config["space"], "sync_threshold": config["threshold"], "batch_size": min(10, config["threshold"])}
        self.collections = [
            chromadb.PersistentClient(path, settings=settings).get_or_create_collection(
                "papers", configuration={"hnsw": index}, embedding_function=None
            )
            for path in config["chromas"]
        ]
        self.batches = 0
        self.slowest = 0.0

    def vector(self) -> bytes:
        return array("f", [self.chance.uniform(-1, 1) for _ in range(WIDTH)]).tobytes()

    def batch(self) -> None:
        """One unit of work of a random kind, on all databases and one Chroma."""
        target = self.batches % len(self.collections)
        began = time.monotonic()
        for database in self.databases:
            database.execute("BEGIN IMMEDIATE")
        (rows,) = self.databases[0].execute("SELECT rows FROM total").fetchone()
        only = {"delete": 0.1, "update": 0.4, "nothing": -1.0}
        what = only.get(self.config["only"], self.chance.random() if self.config["churn"] else 1.0)
        if what < 0:
            pass
        elif rows > self.config["keep"] or (rows and what < 0.2):
            self._delete(target)
        elif rows and what < 0.5:
            self._update(target)
        else:
            self._add(target)
        for database in self.databases:
            database.execute("COMMIT")
        self.batches += 1
        self.slowest = max(self.slowest, time.monotonic() - began)

    def _add(self, target: int) -> None:
        paper = f"p{self.config['seed']}-{self.batches}"
        count = self.chance.randint(*self.config["sizes"])
        ids = [f"{paper}/{number}" for number in range(count)]
        vectors = [self.vector() for _ in ids]
        text = f"text of {paper} " * self.chance.randint(1, 80)
        if self.config["files"]:
            Path(self.config["files"], paper).write_text(text)
        for database in self.databases:
            database.execute("INSERT INTO paper VALUES (?, ?, ?, ?)", (paper, self.batches, count, text))
            database.executemany(
                "INSERT INTO embedding VALUES (?, ?, ?, 1, ?)",
                [(identifier, paper, target, vector) for identifier, vector in zip(ids, vectors, strict=True)],
            )
        self._count(count, sum(map(weight, ids, vectors)))
        with self._at(target) as collection:
            collection.add(ids=ids, embeddings=[list(array("f", vector)) for vector in vectors])

    def _update(self, target: int) -> None:
        rows = self._some(target, self.chance.randint(1, 6))
        fresh = [(identifier, before, self.vector()) for identifier, before in rows]
        for database in self.databases:
            database.executemany(
                "UPDATE embedding SET vector = ?, version = version + 1 WHERE id = ?",
                [(vector, identifier) for identifier, _, vector in fresh],
            )
        self._count(0, sum(weight(i, new) - weight(i, old) for i, old, new in fresh))
        if fresh:
            with self._at(target) as collection:
                collection.update(ids=[i for i, _, _ in fresh], embeddings=[list(array("f", new)) for _, _, new in fresh])

    def _delete(self, target: int) -> None:
        found = self._some(target, 1)
        rows = self.databases[0].execute(
            "SELECT id, vector, paper FROM embedding WHERE paper IN (SELECT paper FROM embedding WHERE id = ?)",
            (found[0][0] if found else "",),
        )
        gone = rows.fetchall()
        for database in self.databases:
            database.executemany("DELETE FROM embedding WHERE id = ?", [(row[0],) for row in gone])
            database.executemany("DELETE FROM paper WHERE id = ?", [(paper,) for paper in {row[2] for row in gone}])
        self._count(-len(gone), -sum(weight(row[0], row[1]) for row in gone))
        if gone:
            with self._at(target) as collection:
                collection.delete(ids=[row[0] for row in gone])

    def _some(self, target: int, count: int) -> list[tuple[str, bytes]]:
        return (
            self.databases[0]
            .execute("SELECT id, vector FROM embedding WHERE chroma = ? ORDER BY random() LIMIT ?", (target, count))
            .fetchall()
        )

    def _count(self, rows: int, change: int) -> None:
        for database in self.databases:
            (before,) = database.execute("SELECT checksum FROM total").fetchone()
            database.execute(
                "UPDATE total SET batches = batches + 1, rows = rows + ?, checksum = ?", (rows, str(int(before) + change))
            )

    @contextlib.contextmanager
    def _at(self, target: int) -> Any:
        with self.gates[target].exclusive() if self.config["gate"] else contextlib.nullcontext():
            yield self.collections[target]

    def close(self) -> None:
        for database in self.databases:
            database.close()


def wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main() -> None:
    """Write until standard input ends, or until ``most`` batches are written."""
    os.nice(5)  # a writer that never pauses shall not starve what is tested of a processor
    config = json.loads(sys.argv[1])
    ended = threading.Event()
    threading.Thread(target=wait_for_end, args=(ended,), daemon=True).start()
    application = Application(config)
    most = config["most"]
    while not ended.is_set() and application.batches != most:
        application.batch()
        if application.batches == 3:
            print("ready", flush=True)
    application.close()
    print(json.dumps({"batches": application.batches, "slowest_ms": application.slowest * 1000}), flush=True)


if __name__ == "__main__":
    main()
