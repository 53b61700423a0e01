"""Makes the data: a library of papers in SQLite and their vectors in Chroma, equal for equal seed and scale.

README.md describes the data. Word frequencies follow Zipf's law, so that the text compresses like real text. Chroma syncs its
index every 2 % of the records at any scale, so that 2 % more records rewrite it once.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .measure import in_child, progress

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    Floats = NDArray[numpy.float32]

VERSION = 1
DIMENSION = 384
COLLECTION = "pages"
CACHE = Path(__file__).parent / "data"

_VOCABULARY = 30_000
_CLUSTERS = 200
_ABSTRACT_WORDS = 110
_BODY_WORDS = 815
_PAPERS_AT_ONCE = 500

_SCHEMA = """
PRAGMA page_size = 4096;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE paper (
    id INTEGER PRIMARY KEY, doi TEXT NOT NULL UNIQUE, title TEXT NOT NULL, year INTEGER NOT NULL,
    abstract TEXT NOT NULL, body TEXT NOT NULL, opened INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE page_embedding (
    id INTEGER PRIMARY KEY, paper_id INTEGER NOT NULL REFERENCES paper (id), page INTEGER NOT NULL,
    vector BLOB NOT NULL
);
CREATE TABLE activity (id INTEGER PRIMARY KEY, at REAL NOT NULL, what TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Scale and seed; equal shapes give equal data."""

    scale: float
    seed: int
    version: int = VERSION

    @property
    def papers(self) -> int:
        """Rows of text in SQLite."""
        return max(50, round(60_000 * self.scale))

    @property
    def vectors(self) -> int:
        """Vectors in Chroma, a multiple of `sync_threshold`."""
        return 50 * self.sync_threshold

    @property
    def sync_threshold(self) -> int:
        """The number of records after which Chroma rewrites its index."""
        return max(4, round(1_000 * self.scale))


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """The prepared files; copy them before changing anything."""

    shape: Shape
    sqlite: Path
    chroma: Path


def prepare(shape: Shape) -> Dataset:
    """Return the data of *shape* from the cache, or make it, which takes minutes at scale 1.

    A crash leaves a folder ``*.building`` that the next call replaces.
    """
    folder = CACHE / f"scale-{shape.scale:g}"
    dataset = Dataset(shape=shape, sqlite=folder / "library.sqlite3", chroma=folder / "chroma")
    try:
        if json.loads((folder / "shape.json").read_text()) == asdict(shape):
            return dataset
    except (OSError, ValueError):
        pass
    progress(f"making the data of scale {shape.scale:g} ...")
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    in_child(_make, building, shape)
    (building / "shape.json").write_text(json.dumps(asdict(shape)))
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return dataset


class Author:
    """Generates text and vectors from a seed; equal calls give equal results."""

    def __init__(self, seed: int, *, words_seed: int = 1) -> None:
        import numpy

        self._random = numpy.random.default_rng(seed)
        fixed = numpy.random.default_rng(words_seed)
        letters = numpy.array(list("etaoinshrdlucmfwypvbgk"))
        rarity = 1 / (numpy.arange(len(letters)) + 3.0)
        lengths = numpy.clip(fixed.poisson(2 + 1.3 * numpy.log10(numpy.arange(1, _VOCABULARY + 1))), 1, 16)
        spelled = fixed.choice(letters, size=int(lengths.sum()), p=rarity / rarity.sum())
        ends = numpy.cumsum(lengths)
        words = ["".join(spelled[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
        frequencies = 1 / (numpy.arange(_VOCABULARY) + 2.7)
        self._cumulative = numpy.cumsum(frequencies / frequencies.sum())
        members = self._cumulative.searchsorted(fixed.random((_VOCABULARY, 3))).clip(max=_VOCABULARY - 1)
        self._words = [
            word if number % 2 else " ".join(words[member] for member in members[number]) for number, word in enumerate(words)
        ]
        self._centres = fixed.standard_normal((_CLUSTERS, DIMENSION), dtype=numpy.float32)

    def texts(self, count: int, words: int) -> Iterator[str]:
        """Yield *count* texts of 0.5 to 1.5 times *words* words."""
        lengths = self._random.integers(words // 2, words + words // 2, count)
        chosen = self._cumulative.searchsorted(self._random.random(int(lengths.sum()))).tolist()
        spelling, start = self._words, 0
        for length in lengths.tolist():
            picked = [spelling[min(number, _VOCABULARY - 1)] for number in chosen[start : start + length]]
            picked[11::17] = [word + "." for word in picked[11::17]]
            picked[4::23] = [word + "," for word in picked[4::23]]
            yield " ".join(picked).capitalize()
            start += length

    def vectors(self, count: int) -> Floats:
        """Return *count* unit vectors around cluster centres that are equal for all seeds."""
        import numpy

        chosen = self._centres[self._random.integers(0, _CLUSTERS, count)]
        noise = self._random.standard_normal((count, DIMENSION), dtype=numpy.float32)
        vectors = chosen + numpy.float32(0.6) * noise
        unit: Floats = (vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)).astype(numpy.float32)
        return unit

    def numbers(self, below: int, count: int) -> list[int]:
        """Return *count* different numbers from 0 to *below* - 1, or all of them if there are fewer."""
        chosen: list[int] = self._random.choice(below, min(below, count), replace=False).tolist()
        return chosen


def open_collection(folder: Path, sync_threshold: int | None = None) -> Any:
    """Open the collection in a Chroma directory, or create it if *sync_threshold* is given."""
    import chromadb

    client = chromadb.PersistentClient(str(folder), chromadb.Settings(anonymized_telemetry=False))
    if sync_threshold is None:
        return client.get_collection(COLLECTION, embedding_function=None)
    hnsw = {"sync_threshold": sync_threshold, "batch_size": max(2, min(100, sync_threshold // 2))}
    return client.create_collection(COLLECTION, embedding_function=None, configuration={"hnsw": hnsw})


def add_vectors(collection: Any, author: Author, first: int, count: int, batch: int = 1_000) -> None:
    """Add *count* records, numbered from *first*, through the client."""
    for start in range(first, first + count, batch):
        size = min(batch, first + count - start)
        collection.upsert(
            ids=[f"page-{number:07}" for number in range(start, start + size)],
            embeddings=author.vectors(size),
            documents=list(author.texts(size, 5)),
            metadatas=[{"paper": number // 4, "page": number % 4 + 1} for number in range(start, start + size)],
        )


def _make(folder: Path, shape: Shape) -> None:
    _make_sqlite(folder / "library.sqlite3", shape)
    collection = open_collection(folder / "chroma", shape.sync_threshold)
    add_vectors(collection, Author(shape.seed + 1), 0, shape.vectors, min(1_000, shape.sync_threshold))


def _make_sqlite(path: Path, shape: Shape) -> None:
    author = Author(shape.seed)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(_SCHEMA)
    for start in range(0, shape.papers, _PAPERS_AT_ONCE):
        count = min(_PAPERS_AT_ONCE, shape.papers - start)
        numbers = range(start + 1, start + 1 + count)
        titles, abstracts = author.texts(count, 9), author.texts(count, _ABSTRACT_WORDS)
        bodies = author.texts(count, _BODY_WORDS)
        vectors = author.vectors(4 * count)
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO paper (id, doi, title, year, abstract, body) VALUES (?, ?, ?, ?, ?, ?)",
            (
                (number, f"10.5555/{number:08}", title, 1990 + number % 36, abstract, body)
                for number, title, abstract, body in zip(numbers, titles, abstracts, bodies, strict=True)
            ),
        )
        connection.executemany(
            "INSERT INTO page_embedding (paper_id, page, vector) VALUES (?, ?, ?)",
            ((start + 1 + n // 4, n % 4 + 1, vector.tobytes()) for n, vector in enumerate(vectors)),
        )
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
