"""Writes between the safety backup and the exchange are in neither: the safety backup is made again, or the restore refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine.errors import RestoreRefused
from backups.engine.repository.folder import initialise
from backups.engine.restore import exchange
from backups.engine.restore.in_place import restore_in_place
from backups.engine.restore.targets import find_targets
from backups.engine.restore.to_folder import restore_to
from backups.engine.restore.writes import StoreWritten, Watch
from backups.engine.runtime import durable
from backups.engine.types import Backup, Source, SourceKind
from backups.engine.unfinished import STAGE
from tests.restore.stores import back_up, change_rows, context, make_database, python, rows_of, tags_of, tree_of


class Scene:
    """A database in each journal mode and a folder, their backup, and what was changed since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "live"
        self.folder.mkdir()
        self.repository = initialise(folder / "repository", datetime.now(UTC))
        self.wal, self.journal = (self.folder / f"{mode}.sqlite3" for mode in ("wal", "journal"))
        self.files = self.folder / "papers"
        self.files.mkdir()
        make_database(self.wal, 20)
        make_database(self.journal, 8000, mode="delete")
        (self.files / "old.txt").write_text("old")
        self.sources = (
            Source(kind=SourceKind.SQLITE, name="wal", path=self.wal),
            Source(kind=SourceKind.SQLITE, name="journal", path=self.journal),
            Source(kind=SourceKind.FILES, name="papers", path=self.files),
        )
        self.backup = back_up(self.repository, self.sources)
        for database in (self.wal, self.journal):
            change_rows(database, "later", [1, 2, 30])
        (self.files / "old.txt").write_text("new")

    def restore(self) -> Any:
        return restore_in_place(self.repository, self.backup, self.sources, context(), wait=10.0)

    def safeties(self) -> list[Backup]:
        return [item for item in self.repository.backups("default") if item.manifest.safety]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def at(monkeypatch: pytest.MonkeyPatch, step: str, write: Callable[[int], None], times: int = 1) -> None:
    """Have *write* called, the first *times*, at a step of the restore."""
    reached = []

    def act() -> None:
        reached.append(step)
        if len(reached) <= times:
            write(len(reached))

    monkeypatch.setitem(durable.FAULTS, step, act)


INSERT = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=20)
database.execute("INSERT INTO item VALUES (?, 'last', 'x')", (int(sys.argv[2]) + 70000,))
database.commit()
"""


def insert(path: Path, number: int) -> None:
    subprocess.run([sys.executable, "-c", INSERT, str(path), str(number)], check=True)


@pytest.mark.slow
def test_what_is_written_after_the_safety_backup_is_in_the_next_one(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at(monkeypatch, "in-place-recorded", lambda number: insert(scene.wal if number == 1 else scene.journal, number), times=2)
    restored = scene.restore()
    (safety,) = scene.safeties()
    assert safety.id == restored.checks["safety_backup"] and safety.hold is not None
    restore_to(scene.repository, safety, tmp_path / "back", context())
    for database in (scene.wal, scene.journal):
        assert tags_of(tmp_path / "back/sqlite" / database.name) == {"first", "later", "last"}
        assert tags_of(database) == {"first"}
    assert {path.name: path.read_text() for path in scene.files.iterdir()} == {"old.txt": "old"}
    assert not [*scene.folder.glob(f"{STAGE}*")]


@pytest.mark.slow
def test_a_file_that_arrives_while_folders_are_exchanged(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing keeps writers out of a folder, so it is looked at again when it is out of their way."""
    real = exchange.swap

    def swap(left: Path, right: Path) -> None:
        monkeypatch.setattr(exchange, "swap", real)
        (left / "last.txt").write_text("last")
        real(left, right)

    monkeypatch.setattr(exchange, "swap", swap)
    scene.restore()
    (safety,) = scene.safeties()
    restore_to(scene.repository, safety, tmp_path / "back", context())
    assert (tmp_path / "back/files/papers/last.txt").read_text() == "last"
    assert [path.name for path in scene.files.iterdir()] == ["old.txt"]


@pytest.mark.parametrize("how", ["new", "removed", "in place", "replaced", "nothing", "kept"])
def test_every_change_of_a_folder_is_noticed(scene: Scene, how: str) -> None:
    (target,) = find_targets(scene.backup, "files", scene.sources, context())
    old = scene.files / "old.txt"
    with Watch([target]) as watch:
        if how in ("removed", "replaced"):
            old.rename(scene.folder / "moved")
        if how != "nothing":
            (scene.files / "last.txt" if how == "new" else old).write_text("last")
        if how == "removed":
            old.unlink()
        if how == "kept":
            watch.keeps(target, frozenset({"old.txt"}))
        if how in ("nothing", "kept"):
            watch.refuse_written(target)
        else:
            with pytest.raises(StoreWritten, match="last.txt" if how == "new" else "old.txt"):
                watch.refuse_written(target)


@pytest.mark.slow
def test_a_store_that_is_written_to_again_and_again_is_not_replaced(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, "in-place-locked", lambda number: (scene.files / "last.txt").write_text("last" * number), times=9)
    before = rows_of(scene.wal), rows_of(scene.journal), (scene.files / "old.txt").read_text()
    with pytest.raises(RestoreRefused, match=r"last\.txt was written to.*Nothing was changed") as refused:
        scene.restore()
    assert "--stop-command" in refused.value.hint
    assert before == (rows_of(scene.wal), rows_of(scene.journal), (scene.files / "old.txt").read_text())
    assert (scene.files / "last.txt").exists()
    assert len(scene.safeties()) == 1 and not [*scene.folder.glob(f"{STAGE}*")]


WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
print("ready", flush=True)
while True:
    database.execute("UPDATE counter SET value = value + 1")
"""


@pytest.mark.slow
def test_a_writer_without_a_pause(scene: Scene) -> None:
    with python(WRITER, scene.wal) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        before = tree_of(scene.files)
        with pytest.raises(RestoreRefused, match=f"{scene.wal} was written to"):
            scene.restore()
        assert writer.poll() is None and tree_of(scene.files) == before
    with closing(sqlite3.connect(scene.wal)) as database:
        (counted,) = database.execute("SELECT value FROM counter").fetchone()
    assert counted > 10 and "later" in tags_of(scene.wal)
    scene.restore()
    assert tags_of(scene.wal) == {"first"}
