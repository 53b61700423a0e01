"""An application to document with: SQLite in WAL mode, Chroma, and a folder of files."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

PLANT = """
import sys
import chromadb
from chromadb.config import Settings

client = chromadb.PersistentClient(sys.argv[1], settings=Settings(anonymized_telemetry=False))
notes = client.create_collection("notes", embedding_function=None)
numbers = range(1, 41)
notes.add(
    ids=[f"note-{n}" for n in numbers], embeddings=[[n, 1.0, 2.0] for n in numbers], documents=[f"text {n}" for n in numbers]
)
"""


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``app.sqlite3``, ``chroma`` and ``uploads``, to be copied."""
    return plant(tmp_path_factory.mktemp("planted"))


def plant(folder: Path, python: str = sys.executable) -> Path:
    """Fill *folder* as `planted` says, with the chromadb of *python*."""
    folder.mkdir(exist_ok=True)
    database = sqlite3.connect(folder / "app.sqlite3", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
    database.executemany("INSERT INTO note (text) VALUES (?)", [(f"text {number}",) for number in range(1, 41)])
    database.close()
    subprocess.run([python, "-c", PLANT, str(folder / "chroma")], check=True, timeout=120)
    (folder / "uploads").mkdir()
    (folder / "uploads" / "a.txt").write_text("a\n" * 300)
    return folder
