"""Small processes that stand for others on the machine: ``python -m tests.capture.peers ROLE ARGUMENTS``.

Each says ``ready`` when it is in position and goes on until its standard input ends.

========= ==================================================================================================
role      does
========= ==================================================================================================
hold      holds ``BEGIN IMMEDIATE`` on a SQLite file
exclusive holds ``BEGIN EXCLUSIVE`` on a SQLite file
read      keeps a read transaction open on a SQLite file
transfer  moves amounts between accounts at full speed; says at the end how often, and its longest wait
loose     adds batches of vectors to a Chroma directory at full speed, in no transaction of SQLite
halfway   writes a record to Chroma's log and, as a client would just then, not to its tables; keeps the file open
shared    reads inside the shared gate without a pause; says at the end how often
client    for each path told, answers with all that Chroma's own client returns of it
try       for each request told, answers whether its locks can be had: ``begin``, ``checkpoint`` or ``fcntl``, and PATH
========= ==================================================================================================
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import sqlite3
import sys
import threading
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

ACCOUNTS = 200
EACH = 1000


def say(line: Any) -> None:
    print(line if isinstance(line, str) else json.dumps(line), flush=True)


def ended() -> Callable[[], bool]:
    """A question that is answered with yes once standard input has ended."""
    event = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        event.set()

    threading.Thread(target=listen, daemon=True).start()
    return event.is_set


def hold(path: str, how: str = "IMMEDIATE") -> None:
    database = sqlite3.connect(path, isolation_level=None, timeout=30)
    database.execute(f"BEGIN {how}")
    say("ready")
    sys.stdin.read()
    database.execute("ROLLBACK")
    database.close()


def exclusive(path: str) -> None:
    hold(path, "EXCLUSIVE")


def read(path: str) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN")
    database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    say("ready")
    sys.stdin.read()
    database.execute("ROLLBACK")
    database.close()


def transfer(path: str, seed: str) -> None:
    done = ended()
    chance = random.Random(seed)
    database = sqlite3.connect(path, isolation_level=None, timeout=60)
    database.execute("PRAGMA synchronous = NORMAL")
    count, longest = 0, 0.0
    while not done():
        began = time.monotonic()
        database.execute("BEGIN IMMEDIATE")
        one, other = chance.sample(range(ACCOUNTS), 2)
        amount = chance.randint(1, 50)
        database.execute("UPDATE account SET amount = amount - ? WHERE id = ?", (amount, one))
        database.execute("UPDATE account SET amount = amount + ? WHERE id = ?", (amount, other))
        database.execute("INSERT INTO transfer (one, other, amount, note) VALUES (?, ?, ?, ?)", (one, other, amount, "x" * 300))
        database.execute("DELETE FROM transfer WHERE id < (SELECT max(id) - 2000 FROM transfer)")
        database.execute("COMMIT")
        longest = max(longest, time.monotonic() - began)
        count += 1
        if count == 50:
            say("ready")
    database.close()
    say({"count": count, "longest_ms": longest * 1000})


def loose_vector(identifier: str, width: int) -> list[float]:
    """The vector that `loose` gives an id."""
    chance = random.Random(identifier)
    return list(array("f", [chance.uniform(-1, 1) for _ in range(width)]))


def loose(path: str, size: str, threshold: str, width: str, keep: str) -> None:
    import chromadb
    from chromadb.config import Settings

    os.nice(5)  # as in application.py
    done = ended()
    client = chromadb.PersistentClient(path, settings=Settings(anonymized_telemetry=False))
    collection = client.get_or_create_collection(
        "loose", configuration={"hnsw": {"sync_threshold": int(threshold), "batch_size": 10}}, embedding_function=None
    )
    number = collection.count() // int(size)
    while not done():
        ids = [f"{number}/{item}" for item in range(int(size))]
        collection.add(ids=ids, embeddings=[loose_vector(identifier, int(width)) for identifier in ids])
        number += 1
        if number == 3:
            say("ready")
        if number >= int(keep):
            collection.delete(ids=[f"{number - int(keep)}/{item}" for item in range(int(size))])
    say({"batches": number})


def halfway(path: str) -> None:
    database = sqlite3.connect(Path(path) / "chroma.sqlite3", isolation_level=None, timeout=30)
    database.execute(
        "INSERT INTO embeddings_queue (operation, topic, id, vector, encoding, metadata)"
        " SELECT operation, topic, id || '-half', vector, encoding, metadata FROM embeddings_queue"
        " ORDER BY seq_id DESC LIMIT 1"
    )
    say("ready")
    sys.stdin.read()
    database.close()


def shared(path: str) -> None:
    from backups.engine.gate import Gate

    done = ended()
    gate = Gate(Path(path))
    count = 0
    while not done():
        with gate.shared():
            sum(1 for _ in Path(path).iterdir())
        count += 1
        if count == 1:
            say("ready")
    say({"count": count})


def client(name: str) -> None:
    import chromadb
    import numpy as np
    from chromadb.config import Settings

    say("ready")
    for line in sys.stdin:
        opened = chromadb.PersistentClient(line.strip(), settings=Settings(anonymized_telemetry=False))
        collection = opened.get_collection(name, embedding_function=None)
        found: dict[str, str] = {}
        while page := collection.get(limit=5000, offset=len(found), include=["embeddings"])["ids"]:
            got = collection.get(ids=page, include=["embeddings"])
            vectors = np.asarray(got["embeddings"], dtype="<f4")
            found |= {identifier: row.tobytes().hex() for identifier, row in zip(got["ids"], vectors, strict=True)}
        say({"count": collection.count(), "vectors": found})


def try_locks() -> None:
    say("ready")
    for line in sys.stdin:
        what, _, path = line.strip().partition(" ")
        free = True
        if what == "begin":
            database = sqlite3.connect(path, isolation_level=None, timeout=0)
            try:
                database.execute("BEGIN IMMEDIATE")
                database.execute("ROLLBACK")
            except sqlite3.OperationalError:
                free = False
            database.close()
        elif what == "checkpoint":
            database = sqlite3.connect(path, isolation_level=None, timeout=0)
            free = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
            database.close()
        else:
            with open(path, "r+b") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    free = False
        say({"free": free})


def main() -> None:
    """Play the role that the arguments name."""
    roles: dict[str, Callable[..., None]] = {
        "hold": hold,
        "exclusive": exclusive,
        "read": read,
        "transfer": transfer,
        "loose": loose,
        "halfway": halfway,
        "shared": shared,
        "client": client,
        "try": try_locks,
    }
    roles[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
