"""Paths and settings that are not UTF-8 are refused: a manifest could not name them, and a restore would go elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.capture.processes import run


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """A folder whose name is Latin-1, with a database in it."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "files").mkdir()
    return folder


@pytest.mark.slow
def test_arguments(latin: Path, tmp_path: Path) -> None:
    assert run("init", "--repo", tmp_path / "repo").code == 0
    for arguments in (
        ("create", "--repo", tmp_path / "repo", f"--files={latin}/files"),
        ("create", "--repo", tmp_path / "repo", f"--sqlite=app={latin}/app.sqlite3"),
        ("init", "--repo", latin / "repo"),
        ("list", "--repo", latin / "repo"),
    ):
        ended = run(*arguments)
        assert (ended.code, ended.error["code"]) == (2, "usage"), arguments
        assert "caf\\xe9" in ended.error["message"] and "is not UTF-8" in ended.error["message"]
        assert "Traceback" not in ended.text
    assert [path.name for path in latin.iterdir()] == ["files"]
    ended = run("create", "--repo", tmp_path / "repo", "--files=files", folder=latin)
    assert ended.code == 2, "a relative path in such a folder"
    (tmp_path / "link").symlink_to(latin)
    assert run("create", "--repo", tmp_path / "repo", f"--files={tmp_path}/link/files").code == 0


def test_settings(latin: Path, tmp_path: Path) -> None:
    ended = run("list", more={"BACKUP_REPOSITORY": f"{latin}/repo", "REFSERVER_FILES": f"{latin}/files"})
    assert ended.code == 2
    assert all(f"{name}: " in ended.error["message"] for name in ("BACKUP_REPOSITORY", "REFSERVER_FILES"))
    assert run("list", more={"BACKUP_REPOSITORY": "relative"}, folder=latin).code == 2


def test_a_file_of_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"# caf\xe9\nBACKUP_REPOSITORY=repo\n")
    ended = run("list", folder=tmp_path)
    assert ended.code == 2, ended
    assert f"{tmp_path}/.env: it cannot be read" in ended.error["message"]
    assert "Traceback" not in ended.text
