"""`--look`: what the stores lack of each other, and what they have lost since the newest backup."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from backups.engine.repository.folder import open_repository
from refserver.recovery.compare import Difference, differences
from refserver.recovery.locations import Locations
from tests.recovery.clone import Clone

pytestmark = pytest.mark.slow


def found_in(clone: Clone) -> list[Difference]:
    places = {
        "REFSERVER_DATABASE": clone.database,
        "CHROMA_PATH": clone.chroma,
        "REFSERVER_FILES": clone.files,
        "REFSERVER_CONTROL_DATABASE": clone.root / "var/control.sqlite3",
        "BACKUP_REPOSITORY": clone.repository,
    }
    return differences(Locations(paths=places, values={}), open_repository(clone.repository))


def test_missing_renamed_and_changed_documents_and_vectors_are_named(clone: Clone) -> None:
    assert found_in(clone) == []
    missing, renamed, changed = sorted(clone.files.iterdir())[:3]
    missing.unlink()
    renamed.rename(clone.files / "renamed.md")
    changed.write_text("short")
    with closing(sqlite3.connect(clone.database)) as rows, rows:
        title = rows.execute("SELECT title FROM library_paper WHERE content_hash = ?", (missing.stem,)).fetchone()[0]
        rows.execute("DELETE FROM library_embedding WHERE paper_id = 3")
    with closing(sqlite3.connect(clone.chroma / "chroma.sqlite3")) as vectors, vectors:
        vectors.execute("DELETE FROM embeddings WHERE embedding_id = 'paper-5'")
    told = {one.text: one.problem for one in found_in(clone)}
    expected = {
        f"2 papers without a document in {clone.files}: ": True,
        f"1 file in {clone.files} without a paper: renamed.md": True,
        f"1 row without a vector in {clone.chroma}: paper-5": True,
        f"1 vector in {clone.chroma} without a row: paper-3": True,
        f"1 file in {clone.files} not as large as in ": True,
        "2 files of ": False,
    }
    assert len(told) == len(expected)
    for (text, problem), (begins, is_problem) in zip(sorted(told.items()), sorted(expected.items()), strict=True):
        assert text.startswith(begins)
        assert problem is is_problem
    assert any(title in text for text in told)
    looked = clone.recover("--look")
    assert looked.returncode == 1
    assert "section “The stores do not fit together”" in looked.stdout


def test_a_paper_removed_on_purpose_is_no_problem_and_a_shrunk_database_is_one(clone: Clone) -> None:
    code = "from refserver.library import catalogue; from refserver.library.models import Paper; "
    done = clone.run(".venv/bin/python", "manage.py", "shell", "-v0", "-c", f"{code}catalogue.remove([Paper.objects.last()])")
    assert done.returncode == 0, done.stderr
    [removed] = found_in(clone)
    assert (removed.problem, removed.text.startswith("1 file of ")) == (False, True)
    with closing(sqlite3.connect(clone.database)) as rows:
        kept = ("library_paper", "library_embedding", "library_pageembedding")
        for (name,) in rows.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall():
            rows.execute(f"DELETE FROM {name}" if name in kept else f"DROP TABLE {name}")
        rows.commit()
        rows.execute("VACUUM")
        rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert any("has shrunk to" in one.text and one.problem for one in found_in(clone))
