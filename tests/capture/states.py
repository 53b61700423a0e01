"""What a restored backup must be: a state that the application of `application.py` was really in."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable
from pathlib import Path

from backups.engine.chroma_files.records import stored_records
from backups.engine.chroma_files.tables import list_collections, open_at_rest
from backups.engine.chroma_files.vectors import stored_vectors
from tests.capture.application import weight
from tests.capture.peers import loose_vector


def integrity(path: Path) -> str:
    """SQLite's own verdict on a file: ``ok``, or what is wrong."""
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        return str(database.execute("PRAGMA integrity_check").fetchone()[0])
    except sqlite3.DatabaseError as problem:
        return str(problem)
    finally:
        database.close()


def vectors_of(directory: Path, name: str = "papers") -> dict[str, bytes]:
    """All vectors by id, read from the files of a directory at rest; every record has one, and no other is there."""
    database = open_at_rest(directory)
    try:
        (place,) = [item for item in list_collections(database) if item.name == name]
        vectors = dict(stored_vectors(directory, database, place))
        records = {identifier for identifier, _ in stored_records(database, place)}
    finally:
        database.close()
    assert vectors.keys() == records
    return vectors


def close(one: bytes, other: bytes) -> bool:
    """Whether two vectors agree to 1e-5 of their length."""
    a, b = array("f", one), array("f", other)
    length = sum(value * value for value in a) ** 0.5
    return len(a) == len(b) and sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5 <= 1e-5 * length


def check_state(databases: Iterable[Path], chromas: Iterable[Path], *, space: str = "l2", files: Path | None = None) -> int:
    """Assert that databases, Chroma directories and files are of one moment. Returns the number of batches it holds."""
    found = [_check_database(path) for path in databases]
    batches, rows = found[0]
    assert all(other == found[0] for other in found[1:]), "the databases are of different moments"
    for target, directory in enumerate(chromas):
        wanted = {identifier: vector for identifier, (chroma, vector) in rows.items() if chroma == target}
        check_vectors(wanted, vectors_of(directory), space)
    if files is not None:
        for paper, text in _papers(found and next(iter(databases))):
            assert (files / paper).read_text() == text
    return batches


def check_vectors(wanted: dict[str, bytes], vectors: dict[str, bytes], space: str = "l2") -> None:
    """Assert that Chroma holds exactly the vectors that the application recorded."""
    assert vectors.keys() == wanted.keys(), f"{len(vectors.keys() ^ wanted.keys())} ids are on one side only"
    if space == "cosine":
        assert all(close(vector, vectors[identifier]) for identifier, vector in wanted.items())
    else:
        assert vectors == wanted


def _check_database(path: Path) -> tuple[int, dict[str, tuple[int, bytes]]]:
    assert integrity(path) == "ok"
    assert not path.with_name(path.name + "-wal").exists()
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        batches, count, checksum = database.execute("SELECT batches, rows, checksum FROM total").fetchone()
        rows = {
            identifier: (chroma, vector)
            for identifier, chroma, vector in database.execute("SELECT id, chroma, vector FROM embedding")
        }
        (halves,) = database.execute(
            "SELECT count(*) FROM paper WHERE rows != (SELECT count(*) FROM embedding WHERE paper = paper.id)"
        ).fetchone()
    finally:
        database.close()
    assert count == len(rows)
    assert int(checksum) == sum(weight(identifier, vector) for identifier, (_, vector) in rows.items())
    assert halves == 0, "a batch is there by half"
    return batches, rows


def _papers(path: Path) -> list[tuple[str, str]]:
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        return database.execute("SELECT id, text FROM paper").fetchall()
    finally:
        database.close()


def check_loose(directory: Path, size: int, width: int) -> int:
    """Assert that a directory of the peer ``loose`` holds whole batches, one after the other. Returns how many."""
    vectors = vectors_of(directory, "loose")
    batches: dict[int, int] = {}
    for identifier, vector in vectors.items():
        assert vector == array("f", loose_vector(identifier, width)).tobytes()
        number = int(identifier.split("/")[0])
        batches[number] = batches.get(number, 0) + 1
    assert set(batches.values()) == {size}, "a batch is there by half"
    assert max(batches) - min(batches) + 1 == len(batches), "a batch in the middle is missing"
    return len(batches)
