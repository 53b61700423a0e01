"""A small application with both stores, real ones, and a way to plant each kind of finding in them by hand.

Papers have two pages each; a page's vector is in Chroma as ``page-<number>``. The index was written up to some page; later ones
are in Chroma's log. Each planter spoils a paper of its own, so that any of them can be planted together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chromadb
import numpy as np

from consistency.engine.check import Outcome, check
from consistency.engine.context import Context
from consistency.engine.findings import Finding, FindingKind
from consistency.engine.mapping import Column, Description, Field, Join, Mapping, Parent
from consistency.engine.stores import Stores

PAPERS = 40
DIMENSION = 8
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE paper (id INTEGER PRIMARY KEY, title TEXT NOT NULL, uid CHAR(32) NOT NULL);
CREATE TABLE page (
    id INTEGER PRIMARY KEY, number INTEGER NOT NULL, paper_id INTEGER NOT NULL REFERENCES paper (id),
    text TEXT NOT NULL, weight REAL, shown BOOLEAN NOT NULL, vector BLOB, model TEXT NOT NULL, dimension INTEGER NOT NULL,
    changed TEXT NOT NULL);
CREATE INDEX page_number ON page (number);
CREATE TABLE note (id INTEGER PRIMARY KEY, paper_id INTEGER NOT NULL REFERENCES paper (id));
"""


def _column(name: str, kind: Any, table: int = 0) -> Column:
    return Column(name=name, type=kind, table=table)


MAPPING = Mapping(
    name="pages",
    sqlite="app",
    chroma="chroma",
    collection="pages",
    table="page",
    id=("page-", _column("number", "integer")),
    vector="vector",
    joins=(Join(table="paper", key="id", column=_column("paper_id", "integer")),),
    dimension=_column("dimension", "integer"),
    model=Field(key="model", column=_column("model", "text")),
    metadata=(
        Field(key="title", column=_column("title", "text", 1)),
        Field(key="uid", column=_column("uid", "uuid", 1)),
        Field(key="weight", column=_column("weight", "real")),
        Field(key="shown", column=_column("shown", "boolean")),
        Field(key="paper_id", column=_column("paper_id", "integer")),
    ),
    document=(_column("title", "text", 1), _column("text", "text")),
    parent=Parent(name="paper", join=1, column=_column("paper_id", "integer"), metadata="paper_id"),
    changed=_column("changed", "text"),
)
DESCRIPTION = Description(mappings=(MAPPING,))


def vector_of(number: int, salt: int = 0) -> Any:
    return np.random.default_rng((number, salt)).standard_normal(DIMENSION, dtype=np.float32)


def uid(paper: int) -> str:
    return f"00000000-0000-4000-8000-{paper:012x}"


@dataclass
class Home:
    """Both stores in one folder."""

    root: Path
    _client: Any = field(default=None, repr=False)

    @property
    def database(self) -> Path:
        return self.root / "app.sqlite3"

    @property
    def chroma(self) -> Path:
        return self.root / "chroma"

    @property
    def pages(self) -> Any:
        """The collection, by Chroma's own client; `close` ends it."""
        if self._client is None:
            self._client = chromadb.PersistentClient(str(self.chroma), chromadb.Settings(anonymized_telemetry=False))
        return self._client.get_or_create_collection(
            "pages", embedding_function=None, configuration={"hnsw": {"space": "l2", "sync_threshold": 30, "batch_size": 10}}
        )

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def sql(self, *statements: str) -> None:
        """Change SQLite, foreign keys not enforced."""
        with closing(sqlite3.connect(self.database)) as database, database:
            for statement in statements:
                database.execute(statement)

    def inside_chroma(self, *statements: str) -> None:
        """Change ``chroma.sqlite3`` behind Chroma's back."""
        self.close()
        with closing(sqlite3.connect(self.chroma / "chroma.sqlite3")) as database, database:
            for statement in statements:
                database.execute(statement)

    def add_rows(self, *papers: int) -> None:
        with closing(sqlite3.connect(self.database)) as database, database:
            for paper in papers:
                database.execute("INSERT INTO paper VALUES (?, ?, ?)", (paper, f"Paper {paper}", uid(paper).replace("-", "")))
                database.executemany(
                    "INSERT INTO page VALUES (?, ?, ?, ?, ?, ?, ?, 'm1', ?, '2020-01-01 00:00:00')",
                    [
                        (n, n, paper, f"text {n}", n / 3, n % 2, vector_of(n).tobytes(), DIMENSION)
                        for n in (2 * paper - 1, 2 * paper)
                    ],
                )

    def add_vectors(self, *numbers: int) -> None:
        self.pages.upsert(
            ids=[f"page-{n}" for n in numbers],
            embeddings=[vector_of(n) for n in numbers],
            documents=[f"Paper {(n + 1) // 2}\n\ntext {n}" for n in numbers],
            metadatas=[metadata_of(n) for n in numbers],
        )

    def stores(self, *, live: bool = False, settle: float = 0.05) -> Stores:
        return Stores(
            sqlite={"app": self.database}, chroma={"chroma": self.chroma}, at_rest=not live, settle=settle, patience=5.0
        )

    def check(self, *, live: bool = False, description: Description = DESCRIPTION) -> tuple[Outcome, list[Finding]]:
        """Check, and return the findings too."""
        self.close()
        found: list[Finding] = []
        return check(description, self.stores(live=live), Context(), found.append), found

    def found(self, *, live: bool = False) -> set[tuple[str, str]]:
        """Kind and record of every finding."""
        _, findings = self.check(live=live)
        pairs = [(str(item.kind), item.record) for item in findings]
        assert len(set(pairs)) == len(pairs), f"something was found twice: {pairs}"
        return set(pairs)


def metadata_of(number: int) -> dict[str, Any]:
    paper = (number + 1) // 2
    return {
        "title": f"Paper {paper}",
        "uid": uid(paper),
        "weight": number / 3,
        "shown": bool(number % 2),
        "paper_id": paper,
        "model": "m1",
        "colour": "not declared",
    }


def build(root: Path) -> Home:
    """All papers with all vectors, nothing wrong."""
    root.mkdir(parents=True, exist_ok=True)
    home = Home(root)
    with closing(sqlite3.connect(home.database)) as database:
        database.executescript(SCHEMA)
    home.add_rows(*range(1, PAPERS + 1))
    for start in range(1, 2 * PAPERS, 10):
        home.add_vectors(*range(start, start + 10))
    home.close()
    # Some vectors are in the index files, the last ones in the log alone
    with closing(sqlite3.connect(home.chroma / "chroma.sqlite3")) as database:
        rows = database.execute(
            "SELECT q.id FROM embeddings_queue q JOIN max_seq_id m ON m.seq_id < q.seq_id"
            " JOIN segments s ON s.id = m.segment_id AND s.scope = 'VECTOR'"
        )
        logged = {row[0] for row in rows}
    assert {"page-78", "page-80"} <= logged and "page-27" not in logged
    return home


@dataclass(frozen=True)
class Planted:
    """The expected finding: kind and record, and the surplus of rows over vectors."""

    findings: frozenset[tuple[str, str]]
    more: int = 0


def _planted(more: int, *findings: tuple[FindingKind, str]) -> Planted:
    return Planted(frozenset((str(kind), record) for kind, record in findings), more)


def _missing_in_chromadb(home: Home) -> Planted:
    home.pages.delete(ids=["page-3"])  # paper 2
    return _planted(1, (FindingKind.MISSING_IN_CHROMADB, "page-3"), (FindingKind.COUNT_MISMATCH, "paper:2"))


def _missing_in_sqlite(home: Home) -> Planted:
    home.sql("DELETE FROM page WHERE id = 6")  # paper 3
    return _planted(-1, (FindingKind.MISSING_IN_SQLITE, "page-6"), (FindingKind.COUNT_MISMATCH, "paper:3"))


def _embedding_mismatch(home: Home) -> Planted:
    home.pages.update(ids=["page-7"], embeddings=[vector_of(7, salt=1)])  # paper 4
    return _planted(0, (FindingKind.EMBEDDING_MISMATCH, "page-7"))


def _one_bit(home: Home) -> Planted:
    changed = bytearray(vector_of(9).tobytes())  # paper 5
    changed[0] ^= 1
    home.sql(f"UPDATE page SET vector = x'{changed.hex()}' WHERE id = 9")
    return _planted(0, (FindingKind.EMBEDDING_MISMATCH, "page-9"))


def _another_model(home: Home) -> Planted:
    home.sql("UPDATE page SET model = 'm2' WHERE id = 11")  # paper 6
    return _planted(0, (FindingKind.EMBEDDING_MISMATCH, "page-11"))


def _orphaned_chromadb(home: Home) -> Planted:
    home.sql("DELETE FROM page WHERE paper_id = 7", "DELETE FROM paper WHERE id = 7")
    return _planted(-2, (FindingKind.ORPHANED_CHROMADB, "page-13"), (FindingKind.ORPHANED_CHROMADB, "page-14"))


def _orphaned_sqlite(home: Home) -> Planted:
    home.pages.delete(ids=["page-15", "page-16"])
    home.sql("DELETE FROM paper WHERE id = 8")
    return _planted(2, (FindingKind.ORPHANED_SQLITE, "page-15"), (FindingKind.ORPHANED_SQLITE, "page-16"))


def _orphaned_both(home: Home) -> Planted:
    home.sql("DELETE FROM paper WHERE id = 9")
    both = [(kind, f"page-{n}") for kind in (FindingKind.ORPHANED_SQLITE, FindingKind.ORPHANED_CHROMADB) for n in (17, 18)]
    return _planted(0, *both)


def _count_mismatch(home: Home) -> Planted:
    home.pages.add(ids=["page-1001"], embeddings=[vector_of(19)], documents=["x"], metadatas=[metadata_of(19)])  # paper 10
    return _planted(-1, (FindingKind.COUNT_MISMATCH, "paper:10"), (FindingKind.MISSING_IN_SQLITE, "page-1001"))


def _metadata_mismatch(home: Home) -> Planted:
    home.pages.update(ids=["page-21"], metadatas=[{"title": "Another"}])  # paper 11
    return _planted(0, (FindingKind.METADATA_MISMATCH, "page-21"))


def _document(home: Home) -> Planted:
    home.pages.update(ids=["page-23"], documents=["another"], embeddings=[vector_of(23)])  # paper 12
    return _planted(0, (FindingKind.METADATA_MISMATCH, "page-23"))


def _null_in_the_row(home: Home) -> Planted:
    home.sql("UPDATE page SET weight = NULL WHERE id = 25")  # paper 13: Chroma still has one
    return _planted(0, (FindingKind.METADATA_MISMATCH, "page-25"))


def _missing_vector(home: Home) -> Planted:
    home.inside_chroma("DELETE FROM embeddings_queue WHERE id = 'page-80'")  # paper 40, in the log alone
    return _planted(0, (FindingKind.MISSING_VECTOR, "page-80"))


def _stray_vector(home: Home) -> Planted:
    home.sql("DELETE FROM page WHERE paper_id = 14", "DELETE FROM paper WHERE id = 14")
    home.inside_chroma(
        "DELETE FROM embedding_metadata WHERE id IN (SELECT id FROM embeddings WHERE embedding_id IN ('page-27', 'page-28'))",
        "DELETE FROM embeddings WHERE embedding_id IN ('page-27', 'page-28')",
    )
    return _planted(0, (FindingKind.STRAY_VECTOR, "page-27"), (FindingKind.STRAY_VECTOR, "page-28"))


def _nan_in_chroma(home: Home) -> Planted:
    bad = np.full(DIMENSION, np.nan, np.float32).tobytes().hex()
    home.inside_chroma(f"UPDATE embeddings_queue SET vector = x'{bad}' WHERE id = 'page-78'")  # paper 39
    return _planted(0, (FindingKind.INVALID_VECTOR, "page-78"))


def _zeros_in_both(home: Home) -> Planted:
    home.pages.update(ids=["page-31"], embeddings=[np.zeros(DIMENSION, np.float32)])  # paper 16
    home.sql(f"UPDATE page SET vector = zeroblob({4 * DIMENSION}) WHERE id = 31")
    return _planted(0, (FindingKind.INVALID_VECTOR, "page-31"))


def _wrong_dimension(home: Home) -> Planted:
    home.sql("UPDATE page SET vector = substr(vector, 1, 16), dimension = 4 WHERE id = 33")  # paper 17
    return _planted(0, (FindingKind.WRONG_DIMENSION, "page-33"))


def _duplicate_id(home: Home) -> Planted:
    home.sql(  # paper 18
        "INSERT INTO page SELECT 2001, 35, paper_id, text, weight, shown, vector, model, dimension, changed"
        " FROM page WHERE id = 35"
    )
    return _planted(0, (FindingKind.DUPLICATE_ID, "page-35"))


def _broken_foreign_key(home: Home) -> Planted:
    home.sql("INSERT INTO note VALUES (1, 4711)")
    return _planted(0, (FindingKind.BROKEN_FOREIGN_KEY, "note:1"))


PLANTERS: dict[str, Callable[[Home], Planted]] = {
    function.__name__.lstrip("_"): function
    for function in (
        _missing_in_chromadb,
        _missing_in_sqlite,
        _embedding_mismatch,
        _one_bit,
        _another_model,
        _orphaned_chromadb,
        _orphaned_sqlite,
        _orphaned_both,
        _count_mismatch,
        _metadata_mismatch,
        _document,
        _null_in_the_row,
        _missing_vector,
        _stray_vector,
        _nan_in_chroma,
        _zeros_in_both,
        _wrong_dimension,
        _duplicate_id,
        _broken_foreign_key,
    )
}


def plant(home: Home, *names: str) -> set[tuple[str, str]]:
    """Plant these, and return all expected findings, totals included. Clients write first, then the files are changed."""
    behind = {"missing_vector", "stray_vector", "nan_in_chroma"}
    planted = [PLANTERS[name](home) for name in sorted(names, key=lambda name: (name in behind, name))]
    expected = {pair for one in planted for pair in one.findings}
    if sum(one.more for one in planted):
        expected.add((str(FindingKind.COUNT_MISMATCH), ""))
    return expected
