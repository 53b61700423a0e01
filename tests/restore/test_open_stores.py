"""What is replaced as a file or a folder must not be open, in whatever process: of another user, in another container."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.engine.capture import owners
from backups.engine.repository.folder import initialise
from backups.engine.types import Source, SourceKind
from tests.restore.stores import back_up, clean_environment, make_database, python, rows_of
from tests.restore.test_in_place import GARBAGE, HOLD_OPEN, Scene, ask, scene

__all__ = ["scene"]
UNSEEN = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "backups.engine", "restore")
"""Runs a restore in a PID namespace of its own: it sees no process outside, as an ordinary user sees no files of others."""

in_namespace = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="this machine runs the tests without root, and only root can make a PID namespace",
)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_an_open_file_is_found_without_looking_at_processes(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "file"
    assert owners.is_open_elsewhere(file) is False, "what does not exist is not open"
    file.write_text("content")
    assert owners.is_open_elsewhere(file) is False
    with python(
        f"import sys; file = open(sys.argv[1], {mode!r}); print('ready', flush=True); sys.stdin.read()", file
    ) as holder:
        assert ask(holder) == "ready"
        assert owners.is_open_elsewhere(file) is True
    assert owners.is_open_elsewhere(file) is False
    assert file.read_text() == "content"


def test_locks_show_an_open_database_where_the_kernel_grants_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who does not own the file: fcntl(2) says EACCES."""
    file = tmp_path / "app.sqlite3"
    make_database(file, 1)
    original = fcntl.fcntl

    def refuse(descriptor: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETLEASE:
            raise PermissionError(13, "Permission denied")
        return original(descriptor, command, argument)

    monkeypatch.setattr(owners.fcntl, "fcntl", refuse)
    assert owners.is_open_elsewhere(file) is None, "nobody can say"
    open_it = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('SELECT * FROM item').fetchall()"
    with python(f"{open_it}; print('ready', flush=True); sys.stdin.read()", file) as holder:
        assert ask(holder) == "ready"
        assert owners.is_open_elsewhere(file) is True


@pytest.mark.slow
@in_namespace
def test_a_broken_database_that_an_unseen_process_has_open_is_not_replaced(tmp_path: Path) -> None:
    database = tmp_path / "app.sqlite3"
    make_database(database, 5)
    repository = initialise(tmp_path / "repository", datetime.now(UTC))
    back_up(repository, (Source(kind=SourceKind.SQLITE, name="app", path=database),))
    rows = rows_of(database)
    for path in tmp_path.glob("app.sqlite3*"):
        path.unlink()
    database.write_bytes(GARBAGE)
    command = [*UNSEEN, "latest", "--in-place", "--yes", f"--sqlite={database}", f"--repo={repository.folder}"]

    def restore(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *more], env=clean_environment(), capture_output=True, text=True, check=False)

    with python(HOLD_OPEN, database) as holder:
        assert ask(holder) == "ready"
        refused = restore("--wait=0.2")
        assert refused.returncode == 1 and "a process that this user cannot see" in refused.stderr, refused.stderr
        assert "--ignore-open" in refused.stderr and database.read_bytes() == GARBAGE
        assert restore("--ignore-open").returncode == 0
    with closing(sqlite3.connect(database)) as found:
        assert found.execute("SELECT * FROM item ORDER BY id").fetchall() == rows


@in_namespace
@pytest.mark.slow
def test_chroma_that_an_unseen_process_has_open_is_not_replaced(scene: Scene) -> None:
    before = scene.now("chroma")
    command = [*UNSEEN, scene.backup.id, "--in-place", "--yes", "--only=chroma", scene.live.arguments[1]]
    command.append(f"--repo={scene.repository.folder}")
    with python(HOLD_OPEN, scene.live.chroma / "chroma.sqlite3") as holder:
        assert ask(holder) == "ready"
        done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "cannot see" in done.stderr, done.stderr
    assert scene.now("chroma") == before and scene.leftovers() == []
