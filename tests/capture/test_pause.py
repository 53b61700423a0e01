"""How long a cut holds writers up: the work under the lock does not grow with the number of collections, and it has a bound."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backups.engine.capture.directory import Directory
from tests.restore.stores import Chroma, refbackup, vector

RESTLESS = """
import os, sys, time
with open(sys.argv[1], "r+b", buffering=0) as file:
    print("writing", flush=True)
    for number in range(60_000):
        os.pwrite(file.fileno(), b"%d" % number, 0)
        time.sleep(0.001)
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pause") / "chroma"
    with Chroma(place) as chroma:
        chroma.create("notes")
        chroma.call("notes", "add", ids=[f"n{n}" for n in range(20)], embeddings=[vector(n) for n in range(20)])
    return place


def with_collections(original: Path, target: Path, number: int, records: int = 5) -> Path:
    """A copy with more collections of the same form, each with records in the log that its metadata has applied."""
    shutil.copytree(original, target)
    with closing(sqlite3.connect(target / "chroma.sqlite3")) as database, database:
        (first,) = database.execute("SELECT id FROM collections").fetchone()
        (topic, last) = database.execute("SELECT topic, max(seq_id) FROM embeddings_queue").fetchone()
        columns = [row[1] for row in database.execute("PRAGMA table_info(collections)") if row[1] not in ("id", "name")]
        for count in range(number):
            new, metadata = str(uuid.uuid4()), str(uuid.uuid4())
            database.execute(
                f"INSERT INTO collections (id, name, {', '.join(columns)}) SELECT ?, ?, {', '.join(columns)} FROM collections"
                " WHERE id = ?",
                (new, f"more-{count}", first),
            )
            for scope, segment in (("METADATA", metadata), ("VECTOR", str(uuid.uuid4()))):
                database.execute(
                    "INSERT INTO segments (id, type, scope, collection) SELECT ?, type, scope, ? FROM segments"
                    " WHERE collection = ? AND scope = ?",
                    (segment, new, first, scope),
                )
            for record in range(records):
                last += 1
                database.execute(
                    "INSERT INTO embeddings_queue (seq_id, operation, topic, id, vector, encoding, metadata)"
                    " SELECT ?, operation, ?, ?, vector, encoding, metadata FROM embeddings_queue LIMIT 1",
                    (last, topic.replace(first, new), f"r{record}"),
                )
            database.execute("INSERT INTO max_seq_id VALUES (?, ?)", (metadata, last))
    return target


def steps_under_the_lock(path: Path, *, written: bool = False) -> int:
    """Thousands of steps of SQLite's machine between lock and rest; *written*: an application writes just before the lock."""
    place = Directory("chroma", path)
    place.connect()
    try:
        place.count()
        if written:
            with closing(sqlite3.connect(path / "chroma.sqlite3")) as writer, writer:
                writer.execute("UPDATE databases SET name = name")
        assert place.lock(1)
        steps = []
        assert place._database is not None
        place._database.set_progress_handler(lambda: steps.append(1), 1000)
        assert place.wait_until_quiescent(30) is None
        return len(steps)
    finally:
        place.release()


def test_the_work_under_the_lock_does_not_grow_with_the_collections(original: Path, tmp_path: Path) -> None:
    few, many = (with_collections(original, tmp_path / str(number), number) for number in (10, 1000))
    assert steps_under_the_lock(few) == steps_under_the_lock(many) == 0
    # After a write the tables are read once more, in proportion to the collections, and the log only from where it was
    assert steps_under_the_lock(many, written=True) < 250


@pytest.fixture
def restless(original: Path, tmp_path: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A directory with a large file that a process changes all the time."""
    place = Path(shutil.copytree(original, tmp_path / "restless"))
    large = place / "large.bin"
    large.touch()
    os.truncate(large, 256 << 20)
    with subprocess.Popen([sys.executable, "-c", RESTLESS, large], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        yield place, writer
        writer.kill()


@pytest.mark.slow
def test_a_pause_that_would_be_too_long_is_given_up(restless: tuple[Path, subprocess.Popen[str]], tmp_path: Path) -> None:
    place, writer = restless
    assert refbackup("init", "--repo=repo", cwd=tmp_path).code == 0
    create = ("create", "--repo=repo", "--chroma", place, "--no-verify", "--json")
    with sqlite3.connect(place / "chroma.sqlite3") as reader:  # whom the message names
        reader.execute("SELECT count(*) FROM collections").fetchone()
        done = refbackup(*create, "--max-pause=0.02", "--within=1", cwd=tmp_path)
    assert done.code == 6 and done.json["error"]["code"] == "source_busy"
    assert "could not be copied in a pause of 0.02 s; it is open in process" in done.json["error"]["message"]
    assert "--max-pause" in done.json["error"]["hint"]
    with closing(sqlite3.connect(place / "chroma.sqlite3", timeout=0)) as database, database:
        database.execute("UPDATE databases SET name = name")  # no lock is left
    writer.kill()
    writer.wait()
    (place / "large.bin").unlink()
    done = refbackup(*create, "--max-pause=0.5", cwd=tmp_path)
    assert done.code == 0 and done.json["pause_ms"]["chroma"] > 0
