"""``python -m benchmarks.consistency``: measures time and memory of a consistency check. See README.md.

Chroma's client takes a minute to write 60,000 records. So the client creates the collection, and `_build` fills it in Chroma's
own file formats, with an index without links, because a check does not follow them.
"""

import argparse
import json
import os
import platform
import shutil
import sqlite3
import struct
import sys
from pathlib import Path

from .data import CACHE, DIMENSION, Author
from .measure import CommandFailed, in_child, median, progress, run
from .report import seconds, size

_VERSION = 2
_SIZES = (10_000, 100_000)
_GOAL_SECONDS, _GOAL_BYTES, _GOAL_AT = 15.0, 200e6, 1_000_000
_BATCH = 5_000
_IDLE = "import sqlite3, numpy"
_PEER_LIMIT = 100_000

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE paper (id INTEGER PRIMARY KEY, title TEXT NOT NULL, file_name TEXT NOT NULL);
CREATE TABLE page (
    id INTEGER PRIMARY KEY, paper_id INTEGER NOT NULL REFERENCES paper (id), page INTEGER NOT NULL,
    text TEXT NOT NULL, vector BLOB NOT NULL, model TEXT NOT NULL, dimension INTEGER NOT NULL);
CREATE INDEX page_paper ON page (paper_id);
"""

_PEER = """
import sys, sqlite3, chromadb, numpy
rows = sqlite3.connect(sys.argv[1])
client = chromadb.PersistentClient(sys.argv[2], chromadb.Settings(anonymized_telemetry=False))
pages = client.get_collection("pages", embedding_function=None)
total, wrong = pages.count(), 0
for start in range(0, total, 1000):
    part = pages.get(limit=1000, offset=start, include=["embeddings", "metadatas", "documents"])
    held = {f"page-{row[0]}": row for row in rows.execute(
        "SELECT g.id, g.vector, p.title, p.file_name, g.page, g.paper_id, g.model, g.text"
        " FROM page g JOIN paper p ON p.id = g.paper_id"
        f" WHERE g.id IN ({','.join(i[5:] for i in part['ids'])})")}
    for id_, vector, data, document in zip(part["ids"], part["embeddings"], part["metadatas"], part["documents"]):
        row = held.get(id_)
        wrong += row is None or vector.astype("<f4").tobytes() != row[1] or document != row[7] or [
            data[k] for k in ("title", "file_name", "page", "paper_id", "model")] != list(row[2:7])
print(total, wrong)
"""


def main() -> int:
    """Measure the check at several sizes, and the same check through Chroma's client. Timings never fail the run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.consistency", description=main.__doc__)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(_SIZES), metavar="N", help="records (10000 100000)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="rounds; the median counts (3)")
    parser.add_argument("--no-peer", action="store_true", help=f"do not measure the client (up to {_PEER_LIMIT:,} records)")
    arguments = parser.parse_args()
    interpreter = run([sys.executable, "-c", _IDLE], watch_memory=True)
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    print(f"Median of {arguments.runs}, {os.cpu_count()} cores; {versions}.")
    print("\n| records | check | records per second | own memory above the interpreter | through the client | goal | |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for count in arguments.sizes:
        folder = prepare(count)
        request = folder / "request.json"
        costs = [
            run([sys.executable, "-m", "consistency.probe", str(request)], watch_memory=True) for _ in range(arguments.runs)
        ]
        answer = json.loads(costs[0].output)
        if answer["state"] != "consistent":
            progress(f"the check of {count} records found {answer['kinds']}")
        duration = median(cost.seconds for cost in costs) or 0.0
        memory = max(cost.memory.own for cost in costs if cost.memory) - (interpreter.memory.own if interpreter.memory else 0)
        peer = None if arguments.no_peer or count > _PEER_LIMIT else _peer(folder)
        met = "–" if count < _GOAL_AT else "met" if duration <= _GOAL_SECONDS and memory <= _GOAL_BYTES else "missed"  # noqa: RUF001
        goal = f"{_GOAL_SECONDS:g} s, {size(_GOAL_BYTES)}" if count >= _GOAL_AT else ""
        cells = [f"{count:,}", seconds(duration), f"{count / duration:,.0f}", size(memory), seconds(peer), goal, met]
        print("| " + " | ".join(cells) + " |", flush=True)
    return 0


def _peer(folder: Path) -> float | None:
    """Seconds for the same check through Chroma's client, on a copy, because the client writes to the directory."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder / "chroma", copy)
    try:
        cost = run([sys.executable, "-c", _PEER, str(folder / "library.sqlite3"), str(copy)])
    except CommandFailed as error:
        progress(f"the client failed: {error}")
        return None
    finally:
        shutil.rmtree(copy)
    if cost.output.split()[1] != "0":
        progress(f"the client found differences: {cost.output}")
    return cost.seconds


def prepare(count: int) -> Path:
    """Return the folder with the data for *count* records; make it if it is missing."""
    folder = CACHE / f"consistency-{count}-{_VERSION}"
    if not (folder / "request.json").exists():
        progress(f"making {count:,} records in {folder} ...")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        in_child(_build, folder, count)
        (folder / "request.json").write_text(json.dumps(_request(folder)))
    return folder


def _request(folder: Path) -> dict[str, object]:
    def column(name: str, kind: str, table: int = 0) -> dict[str, object]:
        return {"name": name, "type": kind, "table": table}

    def field(name: str, kind: str, table: int = 0) -> dict[str, object]:
        return {"key": name, "column": column(name, kind, table)}

    paper = column("paper_id", "integer")
    mapping = {
        "name": "pages",
        "sqlite": "library",
        "chroma": "chroma",
        "collection": "pages",
        "table": "page",
        "id": ["page-", column("id", "integer")],
        "vector": "vector",
        "joins": [{"table": "paper", "key": "id", "column": paper}],
        "dimension": column("dimension", "integer"),
        "model": field("model", "text"),
        "metadata": [
            *(field(name, "text", 1) for name in ("title", "file_name")),
            *(field(name, "integer") for name in ("page", "paper_id")),
        ],
        "document": [column("text", "text")],
        "separator": "\n\n",
        "parent": {"name": "paper", "join": 1, "column": paper, "metadata": "paper_id", "counted": True},
        "changed": None,
        "grace": 5.0,
        "where": [],
        "tolerance": 0.0,
    }
    return {
        "description": {"version": 1, "mappings": [mapping]},
        "sqlite": {"library": str(folder / "library.sqlite3")},
        "chroma": {"chroma": str(folder / "chroma")},
    }


def _build(folder: Path, count: int) -> None:
    import chromadb
    import numpy

    client = chromadb.PersistentClient(str(folder / "chroma"), chromadb.Settings(anonymized_telemetry=False))
    client.create_collection("pages", embedding_function=None, configuration={"hnsw": {"space": "l2"}})
    client.close()
    rows = sqlite3.connect(folder / "library.sqlite3", isolation_level=None)
    rows.executescript(_SCHEMA)
    records = sqlite3.connect(folder / "chroma" / "chroma.sqlite3", isolation_level=None)
    records.execute("PRAGMA synchronous = OFF")
    segments = dict(records.execute("SELECT scope, id FROM segments"))
    index = folder / "chroma" / segments["VECTOR"]
    index.mkdir(exist_ok=True)
    author = Author(7)
    chooser = numpy.random.default_rng(7)
    record_size, vector_at = 4 + 32 * 4 + 4 * DIMENSION + 8, 4 + 32 * 4
    with (index / "data_level0.bin").open("wb") as level0, (index / "length.bin").open("wb") as lengths:
        for start in range(0, count, _BATCH):
            some = min(_BATCH, count - start)
            numbers = range(start + 1, start + some + 1)
            vectors, texts, titles = author.vectors(some), list(author.texts(some, 20)), list(author.texts(some, 8))
            papers = [(number + 3) // 4 for number in numbers]
            rows.execute("BEGIN")
            rows.executemany(
                "INSERT OR IGNORE INTO paper VALUES (?, ?, ?)",
                ((paper, titles[at], f"{paper}.pdf") for at, paper in enumerate(papers)),
            )
            titled = dict(rows.execute("SELECT id, title FROM paper WHERE id >= ?", (papers[0],)))
            rows.executemany(
                "INSERT INTO page VALUES (?, ?, ?, ?, ?, 'clusters-1', ?)",
                (
                    (number, papers[at], (number - 1) % 4 + 1, texts[at], vectors[at].tobytes(), DIMENSION)
                    for at, number in enumerate(numbers)
                ),
            )
            rows.execute("COMMIT")
            records.execute("BEGIN")
            records.executemany(
                "INSERT INTO embeddings (id, segment_id, embedding_id, seq_id) VALUES (?, ?, ?, ?)",
                ((number, segments["METADATA"], f"page-{number}", number) for number in numbers),
            )
            records.executemany(
                "INSERT INTO embedding_metadata (id, key, string_value, int_value) VALUES (?, ?, ?, ?)",
                (
                    (number, *pair)
                    for at, number in enumerate(numbers)
                    for pair in (
                        ("chroma:document", texts[at], None),
                        ("title", titled[papers[at]], None),
                        ("file_name", f"{papers[at]}.pdf", None),
                        ("page", None, (number - 1) % 4 + 1),
                        ("paper_id", None, papers[at]),
                        ("model", "clusters-1", None),
                    )
                ),
            )
            records.execute("COMMIT")
            order = chooser.permutation(some)  # Chroma adds a batch with several threads
            elements = numpy.zeros((some, record_size), numpy.uint8)
            elements[:, vector_at : vector_at + 4 * DIMENSION] = vectors[order].view(numpy.uint8)
            elements[:, -8:] = (start + 1 + order).astype("<u8").reshape(-1, 1).view(numpy.uint8)
            level0.write(elements.tobytes())
            lengths.write(numpy.ones(some, "<f4").tobytes())
    header = struct.pack(
        "<i6QiI3QdQ", 1, 0, count, count, record_size, record_size - 8, vector_at, 0, 0, 16, 32, 16, 1 / numpy.log(16), 100
    )
    (index / "header.bin").write_bytes(header)
    (index / "link_lists.bin").write_bytes(bytes(4 * count))
    _write_ids(index / "index_metadata.pickle", chooser.permutation(count) + 1)
    records.execute("UPDATE collections SET dimension = ?", (DIMENSION,))
    records.executemany("INSERT OR REPLACE INTO max_seq_id VALUES (?, ?)", [(segment, count) for segment in segments.values()])
    records.close()
    rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    rows.close()


def _write_ids(pickle: Path, labels: object) -> None:
    """Write the id table like Chroma: ids in random order, a thousand items at a time."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    numbers: list[int] = labels.tolist()  # type: ignore[attr-defined]
    with pickle.open("wb") as file:
        file.write(b"\x80\x03}(" + text("dimensionality") + b"N" + text("total_elements_added"))
        file.write(b"J" + struct.pack("<i", len(numbers)) + text("max_seq_id") + b"N")
        for name, turned in (("id_to_label", False), ("label_to_id", True)):
            file.write(text(name) + b"}")
            for start in range(0, len(numbers), 1000):
                items = [(text(f"page-{label}"), b"J" + struct.pack("<i", label)) for label in numbers[start : start + 1000]]
                file.write(b"(" + b"".join(b + a if turned else a + b for a, b in items) + b"u")
        file.write(text("id_to_seq_id") + b"}u.")


if __name__ == "__main__":
    sys.exit(main())
