"""What `docs/how-to/well-known-applications.md` says about SQLAlchemy, with SQLAlchemy from the package index."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks
from tests.packaging.environments import clean, install, new_environment

pytestmark = pytest.mark.slow

USE = """
import sqlite3
from sqlalchemy import text
from immediate import engine

other = sqlite3.connect("app.sqlite3", timeout=0)
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)"))
with engine.begin() as connection:  # nothing is written yet
    try:
        other.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as problem:
        print(problem)
    connection.execute(text("INSERT INTO note (text) VALUES ('new')"))
try:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM note"))
        raise KeyError
except KeyError:
    pass
print(other.execute("SELECT text FROM note").fetchall(), other.execute("PRAGMA journal_mode").fetchone())
"""


def test_the_recipe_takes_the_lock_when_a_transaction_begins(tmp_path: Path) -> None:
    python = new_environment(tmp_path / "venv")
    if install(python, "sqlalchemy").returncode:
        pytest.skip("this machine reaches no package index")
    page = ROOT / "docs/how-to/well-known-applications.md"
    (recipe,) = (block.text for block in blocks(page) if block.marker == "file: immediate.py")
    (tmp_path / "immediate.py").write_text(recipe)
    environment = clean(python, PYTHONPATH=str(tmp_path))
    done = subprocess.run([python, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["database is locked", "[('new',)] ('wal',)"]
