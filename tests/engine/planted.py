"""Databases with planted faults, made by SQL alone: every page of them is sound."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

_ROWS = "WITH RECURSIVE c (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM c WHERE x < 400)"
_WORDS = "'hello ' || x, 'world ' || printf('%x', x * 7919)"
_OWN = "CREATE VIRTUAL TABLE t USING {}; " + _ROWS + f" INSERT INTO t (rowid, a, b) SELECT x, {_WORDS} FROM c;"
_OTHER = (
    f"CREATE TABLE page (id INTEGER PRIMARY KEY, a, b); {_ROWS} INSERT INTO page SELECT x, {_WORDS} FROM c;"
    "CREATE VIRTUAL TABLE t USING {}; INSERT INTO t (t) VALUES ('rebuild');"
)
BASES = {
    "fts5": _OWN.format("fts5(a, b)"),
    "fts5 trigram": _OWN.format("fts5(a, b, tokenize = 'trigram', prefix = '2 3')"),
    "fts5 external": _OTHER.format("fts5(a, b, content = 'page', content_rowid = 'id')"),
    "fts5 contentless": _OWN.format("fts5(a, b, content = '', columnsize = 0)"),
    "fts4": _OWN.format("fts4(a, b)"),
    "fts3": _OWN.format("fts3(a, b)"),
    "fts4 external": _OTHER.format("fts4(a, b, content='page')"),
    "fts4 contentless": _OWN.format('fts4(a, b, content="")'),
    "rtree": f"CREATE VIRTUAL TABLE t USING rtree(id, x0, x1, +label); {_ROWS} INSERT INTO t SELECT x, x, x + 1, x FROM c;",
    "b-tree": f"CREATE TABLE t (a TEXT, b TEXT); CREATE INDEX by_a ON t (a); {_ROWS} INSERT INTO t SELECT {_WORDS} FROM c;",
}

DAMAGED = {
    ("fts5", "DELETE FROM t_data WHERE id = 10"): "the structure record",
    ("fts5", "DELETE FROM t_data WHERE id = 1"): "the totals",
    ("fts5", "DELETE FROM t_data WHERE id = (SELECT id FROM t_data ORDER BY id DESC LIMIT 1 OFFSET 5)"): "a leaf",
    ("fts5", "UPDATE t_data SET block = zeroblob(length(block)) WHERE id = (SELECT max(id) FROM t_data)"): "a leaf",
    ("fts5", "DELETE FROM t_idx"): "what a search begins with",
    ("fts5", "DELETE FROM t_idx WHERE pgno = (SELECT max(pgno) FROM t_idx)"): "a part of it",
    ("fts5", "DELETE FROM t_docsize WHERE id = 5"): "the size of a row",
    ("fts5", "DELETE FROM t_content WHERE id = 5"): "a row",
    ("fts5", "UPDATE t_content SET c0 = 'other' WHERE id = 5"): "a row",
    ("fts5", "DELETE FROM t_config"): "the version",
    ("fts5", "DROP TABLE t_docsize"): "a whole part",
    ("fts5", "DROP TABLE t_content"): "a whole part",
    ("fts5 trigram", "DELETE FROM t_data WHERE id = 10"): "the structure record",
    ("fts5 trigram", "DELETE FROM t_idx"): "what a search begins with",
    ("fts5 external", "DELETE FROM t_data WHERE id > 10"): "all leaves",
    ("fts5 external", "DELETE FROM t_data WHERE id = 1"): "the totals",
    ("fts5 external", "DROP TABLE t_docsize"): "a whole part",
    ("fts5 contentless", "DELETE FROM t_data WHERE id = (SELECT id FROM t_data ORDER BY id DESC LIMIT 1 OFFSET 5)"): "a leaf",
    ("fts5 contentless", "DELETE FROM t_idx"): "what a search begins with",
    ("fts4", "DELETE FROM t_content WHERE docid = 5"): "a row",
    ("fts4", "DELETE FROM t_docsize WHERE docid = 5"): "the size of a row",
    ("fts4", "DELETE FROM t_segments WHERE blockid = 2"): "a leaf",
    ("fts4", "DELETE FROM t_segdir"): "the structure",
    ("fts4", "DELETE FROM t_stat"): "the totals",
    ("fts4", "DROP TABLE t_segdir"): "a whole part",
    ("fts3", "DELETE FROM t_content WHERE docid = 5"): "a row",
    ("fts4 external", "DELETE FROM t_segments WHERE blockid = 2"): "a leaf",
    ("fts4 contentless", "DELETE FROM t_segments WHERE blockid = 2"): "a leaf",
    ("fts4 contentless", "UPDATE t_segdir SET root = x'0101'"): "what a search begins with",
    ("rtree", "DELETE FROM t_node WHERE nodeno = (SELECT max(nodeno) FROM t_node)"): "a node",
    ("rtree", "DELETE FROM t_node WHERE nodeno = 1"): "the root",
    ("rtree", "DELETE FROM t_rowid WHERE rowid = 5"): "a row",
    ("rtree", "DELETE FROM t_parent"): "all parents",
    ("rtree", "DROP TABLE t_parent"): "a whole part",
    ("b-tree", "entry"): "an entry of an index",
    ("b-tree", "page"): "a page of an index",
    ("b-tree", "free"): "the list of free pages",
    ("b-tree", "count"): "pages at the end, or the number of them",
    ("b-tree", "end"): "pages at the end",
}
"""What is done to which database, and what is lost."""


def make(path: Path, base: str) -> Path:
    """A sound database."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA page_size = 1024")
        database.execute("PRAGMA journal_mode = WAL")
        if base in ("fts5", "fts5 trigram", "fts5 contentless"):
            create, _, fill = BASES[base].partition(";")
            database.executescript(f"{create}; INSERT INTO t (t, rank) VALUES ('pgsz', 200); {fill}")
        else:
            database.executescript(BASES[base])
    return path


def plant(path: Path, fault: str) -> None:
    """Do *fault* to a database."""
    if by_hand := _BY_HAND.get(fault):
        by_hand(path)
        return
    with closing(sqlite3.connect(path)) as database:
        database.executescript(fault)


def _lose_entry(path: Path) -> None:
    """Hide the index while a row is inserted."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        index = database.execute("SELECT * FROM sqlite_schema WHERE name = 'by_a'").fetchone()
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_schema WHERE name = 'by_a'")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("INSERT INTO t VALUES ('new', 'row')")
        database.execute("PRAGMA writable_schema = ON")
        database.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", index)


def _break_page(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'by_a'").fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 1024)
        file.write(b"\xa5" * 100)


def _break_free_list(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript("PRAGMA secure_delete = OFF; DELETE FROM t WHERE rowid > 10")
    with path.open("r+b") as file:
        file.seek(32)
        file.write((2).to_bytes(4, "big"))


def _change_count(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    with path.open("r+b") as file:
        file.seek(28)
        pages = int.from_bytes(file.read(4), "big")
        file.seek(28)
        file.write((pages + 5).to_bytes(4, "big"))


def _cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3 * 1024)


_BY_HAND: dict[str, Callable[[Path], None]] = {
    "entry": _lose_entry,
    "page": _break_page,
    "free": _break_free_list,
    "count": _change_count,
    "end": _cut_off,
}
