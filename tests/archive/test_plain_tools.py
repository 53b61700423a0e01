"""Backups without this project: sha256sum, tar and zstd bring a full one back."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.restore.stores import History, tree_of


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-eo", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, object]:
    """What tar restores: all but the fraction of a second, and the folders that no entry stands for."""
    found = tree_of(folder, times=False)
    return {path: (what, (folder / path).lstat().st_mode & 0o777) for path, what in found.items() if path.count("/")}


@pytest.mark.parametrize(
    "unpack",
    [
        "tar --zstd -xf data.tar.zst -C {target}",
        "zstd -dc data.tar.zst | tar x -C {target}",
    ],
)
@pytest.mark.slow
def test_a_full_backup_is_restored_with_plain_tar_and_zstd(history: History, tmp_path: Path, unpack: str) -> None:
    target = tmp_path / "unpacked"
    target.mkdir()
    said = shell(f"sha256sum -c SHA256SUMS && {unpack.format(target=target)}", history.place(0))
    assert "data.tar.zst: OK" in said and "manifest.json: OK" in said
    assert contents(target) == contents(history.expected(0))
    for path in history.expected(0).rglob("*"):
        if path.is_file() and not path.is_symlink():
            restored = target / path.relative_to(history.expected(0))
            assert int(restored.stat().st_mtime) == int(path.stat().st_mtime)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_zstd_tests_every_archive(history: History, number: int) -> None:
    shell("zstd -t data.tar.zst && sha256sum -c SHA256SUMS", history.place(number))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_incremental_unpacks_to_a_readme_about_restoring_it(history: History, tmp_path: Path, number: int) -> None:
    shell(f"tar --zstd -xf {history.place(number)}/data.tar.zst", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.txt"]
    note = (tmp_path / "README.txt").read_text()
    assert f"refbackup restore {history.ids[number]} --repo REPO --to FOLDER" in note
    assert history.ids[number - 1] in note
    assert "tar --zstd -xf data.tar.zst" in note


def test_the_size_of_an_incremental_follows_the_changes(history: History) -> None:
    full, *others = (history.backup(number).manifest for number in range(4))
    assert all(backup.bytes_stored < full.bytes_stored / 30 for backup in others)
    assert [backup.parent for backup in others] == list(history.ids[:3])
