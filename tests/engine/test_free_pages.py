"""Free pages of a copy are blanked, and nothing else is touched."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from backups.engine.capture.free_pages import blank_free_pages


def with_free_pages(path: Path, page_size: int) -> tuple[int, list[tuple[int, bytes]]]:
    """A database most of whose rows were deleted: the number of its free pages, and its remaining rows."""
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA page_size = {page_size}")
    database.execute("PRAGMA secure_delete = OFF")
    database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
    database.executemany("INSERT INTO t VALUES (?, ?)", ((n, os.urandom(300)) for n in range(5000)))
    database.commit()
    database.execute("DELETE FROM t WHERE a % 100 > 0")
    database.commit()
    free = database.execute("PRAGMA freelist_count").fetchone()[0]
    rows = database.execute("SELECT a, b FROM t ORDER BY a").fetchall()
    database.close()
    return free, rows


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_deleted_content_is_blanked_and_the_rest_stays(tmp_path, page_size):
    path = tmp_path / "t.sqlite3"
    free, rows = with_free_pages(path, page_size)
    blanked = blank_free_pages(path)
    assert 0 < blanked <= free
    assert blank_free_pages(path) == 0, "a second time there is nothing left to do"
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("SELECT a, b FROM t ORDER BY a").fetchall() == rows
    database.executemany("INSERT INTO t VALUES (?, ?)", ((n + 100_000, os.urandom(300)) for n in range(5000)))
    database.commit()
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "the blanked pages serve again"
    database.close()


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"x" * 5000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_files_that_are_not_databases_are_not_changed(tmp_path, content):
    path = tmp_path / "t.sqlite3"
    path.write_bytes(content)
    assert blank_free_pages(path) == 0
    assert path.read_bytes() == content


@pytest.mark.parametrize("wrong", [0, 1, 0xFFFFFFFF], ids=["page 0", "the header's page", "beyond the end"])
def test_an_invalid_free_list_ends_the_walk(tmp_path, wrong):
    path = tmp_path / "t.sqlite3"
    with_free_pages(path, 4096)
    content = bytearray(path.read_bytes())
    trunk = int.from_bytes(content[32:36], "big")
    place = (trunk - 1) * 4096 + 8
    content[place : place + 4] = wrong.to_bytes(4, "big")
    path.write_bytes(content)
    assert blank_free_pages(path) == 0
    assert path.read_bytes() == content
