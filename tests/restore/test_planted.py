"""Links, pipes and huge files planted in a repository: nothing outside it changes, nothing hangs, and each is named."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.engine.repository.folder import initialise
from tests.restore.stores import Ran, refbackup

SECRET = "secret\n"


@dataclass
class Scene:
    """A repository with a verified backup of one database, and a folder beside it that must stay as it is."""

    root: Path

    @property
    def repository(self) -> Path:
        return self.root / "repository"

    @property
    def backup(self) -> Path:
        return next((self.repository / "backups/default").iterdir())

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def run(self, *arguments: str) -> Ran:
        return refbackup(*arguments, "--repo", self.repository, cwd=self.root)

    def assert_untouched(self) -> None:
        assert [path.name for path in self.outside.iterdir()] == ["file"]
        assert (self.outside / "file").read_text() == SECRET


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planted") / "scene"
    (root / "outside").mkdir(parents=True)
    (root / "outside/file").write_text(SECRET)
    with closing(sqlite3.connect(root / "app.sqlite3", isolation_level=None)) as database:
        database.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)")
    initialise(root / "repository", datetime.now(UTC))
    made = refbackup("create", "--repo", root / "repository", "--sqlite", f"app={root / 'app.sqlite3'}", cwd=root)
    assert made.code == 0, made.err
    return root


@pytest.fixture
def scene(template: Path, tmp_path: Path) -> Scene:
    shutil.copytree(template, tmp_path / "scene", symlinks=True)
    return Scene(tmp_path / "scene")


def create(scene: Scene) -> Ran:
    return scene.run("create", "--sqlite", f"app={scene.root / 'app.sqlite3'}")


@pytest.mark.slow
def test_links_in_the_place_of_its_folders(scene: Scene) -> None:
    for name in ("staging", "scratch", "trash"):
        shutil.rmtree(scene.repository / name, ignore_errors=True)
        (scene.repository / name).symlink_to(scene.outside)
        made = create(scene)
        if name == "trash":
            assert made.code == 0, made.err
            deleted = scene.run("delete", scene.backup.name)
            emptied = scene.run("prune", "--empty-trash")
            assert deleted.code == 1 and emptied.code == 1
            assert f"{name} is a symbolic link" in deleted.err and f"{name} is a symbolic link" in emptied.err
        else:
            assert made.code == 1 and f"{name} is a symbolic link" in made.err
        (scene.repository / name).unlink()
        scene.assert_untouched()
    assert create(scene).code == 0


@pytest.mark.parametrize(
    ("plant", "said"), [(Path.symlink_to, "writer is a symbolic link"), (Path.hardlink_to, "writer has other names")]
)
def test_another_file_in_the_place_of_a_lock(scene: Scene, plant: Callable[[Path, Path], None], said: str) -> None:
    (scene.repository / "writer").unlink(missing_ok=True)
    plant(scene.repository / "writer", scene.outside / "file")
    made = create(scene)
    assert made.code == 1 and said in made.err
    scene.assert_untouched()


def test_a_link_in_the_place_of_the_proofs(scene: Scene) -> None:
    shutil.rmtree(scene.backup / "proofs")
    (scene.backup / "proofs").symlink_to(scene.outside)
    for _ in range(2):
        verified = scene.run("verify", "--all")
        assert verified.code == 5 and "proofs is a symbolic link" in verified.out, verified.err
    assert scene.run("show", "latest").code == 4
    scene.assert_untouched()


@pytest.mark.slow
def test_proofs_that_cannot_be_read_stop_no_other_verification(scene: Scene) -> None:
    first = scene.backup
    shutil.rmtree(first / "proofs")
    (first / "proofs").touch()
    assert create(scene).code == 0
    listed = scene.run("list").out.splitlines()
    assert ["damaged" in line.lower() for line in listed if first.name in line] == [True]
    verified = scene.run("verify", "--all")
    assert verified.code == 5 and "proofs is a file" in verified.out
    assert verified.out.count(": ok (") == 1 and verified.out.count(": DAMAGED (") == 1
    assert scene.run("show", "latest").code == 0


def test_a_link_in_the_place_of_a_hold(scene: Scene) -> None:
    (scene.backup / "hold.json").symlink_to(scene.outside / "file")
    assert "hold.json cannot be read" in scene.run("show", scene.backup.name).out
    assert scene.run("hold", scene.backup.name, "--note", "kept").code == 0
    assert not (scene.backup / "hold.json").is_symlink()
    scene.assert_untouched()


@pytest.mark.slow
def test_a_folder_in_the_place_of_a_hold_is_released(scene: Scene) -> None:
    (scene.backup / "hold.json/deep").mkdir(parents=True)
    assert "hold.json cannot be read" in scene.run("show", scene.backup.name).out
    assert scene.run("release", scene.backup.name).code == 0
    assert "hold.json" not in scene.run("show", scene.backup.name).out
    (scene.backup / "hold.json").mkdir()
    assert scene.run("hold", scene.backup.name, "--note", "kept").code == 0
    assert "kept" in scene.run("show", scene.backup.name).out


def test_doctor_looks_past_a_link(scene: Scene) -> None:
    shutil.rmtree(scene.repository / "staging")
    (scene.repository / "staging").symlink_to(scene.outside)
    assert scene.run("delete", scene.backup.name, "--yes").code == 0
    examined = scene.run("doctor", "--sqlite", f"app={scene.root / 'app.sqlite3'}")
    assert "staging is a symbolic link" in examined.out and "1 deleted backups" in examined.out
    assert "backups need room" in examined.out


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "data.tar.zst"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_file_of_a_backup_that_is_none(scene: Scene, name: str, kind: str) -> None:
    planters: dict[str, Callable[[Path], None]] = {
        "link": lambda place: place.symlink_to(scene.outside / "file"),
        "pipe": os.mkfifo,
        "folder": Path.mkdir,
    }
    (scene.backup / name).unlink()
    planters[kind](scene.backup / name)
    said = {"link": "a symbolic link", "pipe": "a named pipe", "folder": "a folder"}[kind]
    verified = scene.run("verify", scene.backup.name)
    assert verified.code == 5 and f"{name} is {said}" in verified.out + verified.err
    restored = scene.run("restore", scene.backup.name, "--to", str(scene.root / "restored"))
    assert restored.code == 5 and f"{name} is {said}" in restored.err
    assert not (scene.root / "restored").exists()


@pytest.mark.parametrize(
    "name", ["manifest.json", "SHA256SUMS", "data.tar.zst", "hold.json", "proofs/20300101T000000Z-000000-restore.json"]
)
def test_a_sparse_file_of_a_terabyte(scene: Scene, name: str) -> None:
    with (scene.backup / name).open("wb") as file:
        file.truncate(1 << 40)
    shown = scene.run("verify", scene.backup.name)
    assert shown.code == (0 if name.endswith("hold.json") or name.startswith("proofs") else 5)
    assert scene.run("list").code == 0


def test_a_repository_whose_description_is_a_pipe(scene: Scene) -> None:
    (scene.repository / "repository.json").unlink()
    os.mkfifo(scene.repository / "repository.json")
    listed = scene.run("list")
    assert listed.code == 1 and "repository.json is a named pipe" in listed.err


def test_a_stray_file_among_the_sets_is_none(scene: Scene) -> None:
    listed = scene.run("list").out
    (scene.repository / "backups/Thumbs.db").write_bytes(b"stray")
    assert scene.run("list").out == listed and scene.run("verify", "--all-sets").code == 0


def test_a_set_that_is_a_link_is_not_left_out(scene: Scene) -> None:
    (scene.repository / "backups/two").symlink_to(scene.outside)
    verified = scene.run("verify", "--all-sets")
    assert verified.code != 0 and "two is a symbolic link" in verified.err
    examined = scene.run("doctor")
    assert examined.code != 0 and "two is a symbolic link" in examined.out + examined.err


def test_hidden_files_among_the_proofs_hide_none(scene: Scene) -> None:
    proven = scene.run("list").out
    for number in range(500):
        (scene.backup / f"proofs/.{number}.tmp").touch()
    assert scene.run("list").out == proven
