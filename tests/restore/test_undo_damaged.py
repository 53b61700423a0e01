"""Undoing the restore over damaged stores brings back their bytes as they were."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine.repository.folder import initialise
from backups.engine.restore.in_place import restore_in_place
from backups.engine.restore.to_folder import restore_to
from backups.engine.types import Source, SourceKind
from backups.engine.unfinished import STAGE, unfinished_exchange
from tests.restore.stores import History, back_up, change_rows, context, make_database, refbackup, rows_of, tree_of


class Scene:
    """A database and a folder, and their backup."""

    def __init__(self, folder: Path, mode: str = "wal") -> None:
        self.folder = folder / "live"
        self.folder.mkdir()
        self.repository = initialise(folder / "repository", datetime.now(UTC))
        self.database, self.files = self.folder / "app.sqlite3", self.folder / "papers"
        make_database(self.database, 300, mode=mode)
        self.files.mkdir()
        (self.files / "old.txt").write_text("old")
        self.sources = (
            Source(kind=SourceKind.SQLITE, name="app", path=self.database),
            Source(kind=SourceKind.FILES, name="papers", path=self.files),
        )
        self.backup = back_up(self.repository, self.sources)
        self.rows = rows_of(self.database)
        change_rows(self.database, "later", [1, 2, 3000])
        (self.files / "old.txt").write_text("new")
        settle(self.database)

    def run(self, *arguments: str, fault: str = "") -> Any:
        stores = [f"--{source.kind}={source.name}={source.path}" for source in self.sources]
        command = ["restore", *arguments, "--yes", "--json", *stores, f"--repo={self.repository.folder}"]
        return refbackup(*command, cwd=self.folder, **({"REFBACKUP_FAULT": f"{fault}:kill"} if fault else {}))


def settle(database: Path) -> None:
    """Leave no log beside *database*."""
    with closing(sqlite3.connect(database)) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def garbage(database: Path) -> None:
    database.write_bytes(b"this was a database once " * 999)


def broken_page(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xff" * 4096)


def cut_off(database: Path) -> None:
    with database.open("r+b") as file:
        file.truncate(database.stat().st_size // 2)


def broken_schema(database: Path) -> None:
    with database.open("r+b") as file:
        file.seek(100)
        file.write(b"\x00" * 200)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [garbage, broken_page, cut_off, broken_schema], ids=lambda damage: str(damage.__name__))
def test_the_restore_over_a_damaged_database_is_undone_and_finished(tmp_path: Path, damage: Any) -> None:
    scene = Scene(tmp_path, "delete" if damage is cut_off else "wal")
    damage(scene.database)
    before = scene.database.read_bytes()
    assert scene.run(scene.backup.id, "--in-place", fault="in-place-database").code == -signal.SIGKILL
    assert scene.run("--undo", fault="in-place-folder").code == -signal.SIGKILL
    undone = scene.run("--undo")
    assert undone.code == 5 and [problem["source"] for problem in undone.json["damaged"]] == ["app"], undone.err
    after = scene.database.read_bytes()
    if damage in (garbage, broken_schema):
        assert after == before
    else:  # SQLite wrote it page by page, and counted a change
        assert after[4096:] == before[4096:] and after[96:4096] == before[96:4096]
    assert (scene.files / "old.txt").read_text() == "new"
    assert unfinished_exchange(scene.sources) is None and not [*scene.folder.glob(f"{STAGE}*")]
    assert scene.run(scene.backup.id, "--in-place", fault="in-place-database").code == -signal.SIGKILL
    finished = scene.run("--finish")
    assert finished.code == 0, finished.err
    assert rows_of(scene.database) == scene.rows and (scene.files / "old.txt").read_text() == "old"


def index_of(chroma: Path) -> Path:
    """The segment of the collection that is indexed: the other one is empty."""
    return max(chroma.glob("*/data_level0.bin"), key=lambda path: path.stat().st_size).parent


def no_database(chroma: Path) -> None:
    garbage(chroma / "chroma.sqlite3")


def short_vectors(chroma: Path) -> None:
    vectors = index_of(chroma) / "data_level0.bin"
    with vectors.open("r+b") as file:
        file.truncate(vectors.stat().st_size // 10)  # the file has room for more than twice as many as there are


def no_ids(chroma: Path) -> None:
    (index_of(chroma) / "index_metadata.pickle").write_bytes(b"nothing")


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [no_database, short_vectors, no_ids],
    ids=lambda damage: str(damage.__name__),
)
def test_the_restore_over_a_damaged_chroma_directory_is_undone(
    history: History, mine: History, tmp_path: Path, damage: Any
) -> None:
    live = history.live.copy(tmp_path / "live")
    damage(live.chroma)
    before = tree_of(live.chroma)
    made = restore_in_place(mine.repository, mine.backup(0), live.sources, context(), only="chroma")
    assert tree_of(live.chroma) == tree_of(history.expected(0) / "chroma/vectors")
    safety = mine.repository.find(made.checks["safety_backup"], "default")
    restore_to(mine.repository, safety, tmp_path / "back", context())
    assert tree_of(tmp_path / "back/chroma/vectors") == before
    undone = restore_in_place(mine.repository, safety, live.sources, context(), only="chroma")
    assert [problem["source"] for problem in undone.damaged] == ["vectors"] and tree_of(live.chroma) == before
