"""Folders of any depth, of any mode, and with something mounted in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backups.engine.runtime import durable, folders
from tests.capture.processes import ROOT, ordinary


def nest(folder: Path, depth: int, name: str = "d") -> None:
    """A chain of *depth* folders below *folder*, with a file in the last."""
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)


def test_a_tree_deeper_than_any_path(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    try:
        nest(made, 30, "x" * 250)
        nest(made, 1100)
        found = [path for path, _ in folders.below(made)]
        assert max(path.count("/") for path in found) == 1100
        assert len(found) == 1132
    finally:
        durable.remove_tree(made)
    assert not made.exists()


@pytest.mark.parametrize("number", [folders._OPENAT2, 9999, None], ids=["openat2", "no such call", "not Linux"])
def test_no_link_is_followed_on_the_way_to_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    monkeypatch.setattr(folders, "_OPENAT2", number)
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a/end").symlink_to("b")
    with folders.opened(tmp_path) as root:
        with folders.opened("a/b/c", root) as found:
            assert os.path.samestat(os.fstat(found), (tmp_path / "a/b/c").stat())
        for path in ("link", "link/b", "link/b/c", "a/end"):
            with pytest.raises(NotADirectoryError), folders.opened(path, root):
                pass
        with pytest.raises(FileNotFoundError), folders.opened("a/none/c", root):
            pass
    assert len(os.listdir("/proc/self/fd")) < 100


def test_a_strict_walk_ends_where_something_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "open").touch()
    walk = "import sys; from pathlib import Path; from backups.engine.runtime.folders import below\n"
    walk += "print([path for path, _ in below(Path(sys.argv[1]), strict=len(sys.argv) > 2)])"

    def done(*more: str) -> subprocess.CompletedProcess[str]:
        command = [*ordinary(), sys.executable, "-c", walk, str(tmp_path), *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done().stdout == "['closed', 'open']\n"
    assert "PermissionError" in done("strict").stderr


def test_an_ordinary_user_removes_folders_that_are_read_only(tmp_path: Path) -> None:
    made = tmp_path / "made"
    (made / "a/b/c").mkdir(parents=True)
    (made / "a/b/c/file").touch()
    (made / "a/link").symlink_to("/etc")
    for path, mode in (("a/b/c", 0), ("a/b", 0o500), ("a", 0o400), (".", 0o500)):
        (made / path).chmod(mode)
    code = "import sys, pathlib; from backups.engine.runtime import durable; durable.remove_tree(pathlib.Path(sys.argv[1]))"
    subprocess.run([*ordinary(), sys.executable, "-c", code, made], cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()) == []


def test_what_is_mounted_below_is_not_removed(tmp_path: Path) -> None:
    for path in ("kept", "removed/deep/mounted"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "kept/file").write_text("kept")
    code = (
        "import sys, pathlib, subprocess; from backups.engine.runtime import durable\n"
        "kept, removed = map(pathlib.Path, sys.argv[1:])\n"
        "if subprocess.run(['mount', '--bind', kept, removed / 'deep/mounted']).returncode: sys.exit(77)\n"
        "try: durable.remove_tree(removed)\n"
        "except OSError as problem: print(problem)\n"
    )
    ended = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", code, tmp_path / "kept", tmp_path / "removed"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    if ended.returncode in (1, 77):
        pytest.skip("this machine does not let the tests mount")
    assert "a file system is mounted there" in ended.stdout, ended
    assert (tmp_path / "kept/file").read_text() == "kept"
