"""A backup whose manifest is lost is restored from its archive alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.engine.archive.locate import locate_in, locate_table
from backups.engine.archive.reader import Archives
from backups.engine.encryption.chains import OneChain
from backups.engine.errors import DamageFound
from backups.engine.repository.folder import initialise
from backups.engine.runtime.enclosure import Enclosure
from backups.engine.types import Backup, Source, SourceKind
from tests.restore.stores import back_up, make_database, refbackup, rows_of, tree_of


class Scene:
    """A full backup and two incrementals of a database and a folder."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "app.sqlite3"
        self.files = folder / "papers"
        self.files.mkdir()
        make_database(self.database, 300)
        (self.files / "first").write_bytes(b"first" * 1000)
        (self.files / "link").symlink_to("first")
        self.repository = initialise(folder / "repository", datetime.now(UTC))
        self.backups = [self.back_up("full")]
        for number in (1, 2):
            (self.files / f"new-{number}").write_text(f"new {number}")
            self.backups.append(self.back_up("incremental"))

    def back_up(self, kind: str) -> Backup:
        sources = (
            Source(kind=SourceKind.SQLITE, name="app", path=self.database),
            Source(kind=SourceKind.FILES, name="papers", path=self.files),
        )
        return back_up(self.repository, sources, kind)

    def folder(self, number: int) -> Path:
        return self.repository.backup_folder("default", self.backups[number].id)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_the_archive_says_what_the_manifest_says(scene: Scene) -> None:
    backups = Enclosure(scene.folder(0).parent)
    ids = [backup.id for backup in scene.backups]
    located = locate_in(backups, OneChain())
    for backup_id in ids:
        found, expected = locate_table(backups.inside(backup_id), backup_id, OneChain()), located(backup_id)
        assert found.parent in (expected.parent, None), "a table that is whole needs no parent"
        assert found == replace(expected, parent=found.parent)
    with Archives(located) as archives:
        expected = [archives.tree(backup_id) for backup_id in ids]
    for backup_id in ids:
        (backups.path(backup_id) / "manifest.json").write_bytes(b"\0" * 100)
    with Archives(locate_in(backups, OneChain(), salvage=True)) as archives:
        assert [archives.tree(backup_id) for backup_id in ids] == expected


@pytest.mark.slow
@pytest.mark.parametrize("how", ["gone", "garbage", "another"])
def test_a_lost_manifest_loses_nothing_else(scene: Scene, tmp_path: Path, how: str) -> None:
    """Not even if those of the backups below it are lost as well."""
    manifests = [scene.folder(number) / "manifest.json" for number in range(3)]
    contents = [manifest.read_bytes() for manifest in manifests]
    for manifest, other in zip(manifests, contents[1:] + contents[:1], strict=True):
        manifest.unlink() if how == "gone" else manifest.write_bytes(b"garbage" if how == "garbage" else other)
    command = ["restore", scene.backups[2].id, "--to=back", f"--repo={scene.repository.folder}"]
    assert refbackup(*command, cwd=tmp_path).code == 5
    done = refbackup(*command, "--salvage", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "manifest" in done.err and "archive" in done.err
    assert rows_of(tmp_path / "back/sqlite/app.sqlite3") == rows_of(scene.database)
    assert tree_of(tmp_path / "back/files/papers") == tree_of(scene.files)
    part = refbackup(*command[:2], "--salvage", "--to=part", "--only=files:papers", command[3], cwd=tmp_path)
    assert part.code == 0 and tree_of(tmp_path / "part/files/papers") == tree_of(scene.files)


@pytest.mark.parametrize("how", ["gone", "garbage", "another"])
def test_what_is_said_of_a_backup_that_another_needs_without_its_manifest(scene: Scene, how: str) -> None:
    manifest = scene.folder(1) / "manifest.json"
    if how == "gone":
        manifest.unlink()
    else:
        manifest.write_bytes((scene.folder(0) / "manifest.json").read_bytes() if how == "another" else b"\0")
    with pytest.raises(DamageFound) as damage:
        locate_in(Enclosure(scene.folder(0).parent), OneChain())(scene.backups[1].id)
    said = {"gone": "has no manifest", "garbage": "cannot be read", "another": "is that of another backup"}[how]
    assert said in damage.value.message and scene.backups[1].id in damage.value.message
    assert "--salvage" in damage.value.hint
    (inherited,) = scene.repository.load("default", scene.backups[2].id).inherited
    assert scene.backups[1].id in inherited.message and "missing" not in inherited.message


def test_an_archive_that_is_cut_off_as_well_is_refused(scene: Scene, tmp_path: Path) -> None:
    (scene.folder(0) / "manifest.json").unlink()
    data = scene.folder(0) / "data.tar.zst"
    data.write_bytes(data.read_bytes()[:-10])
    done = refbackup(
        "restore", scene.backups[0].id, "--to=back", "--salvage", f"--repo={scene.repository.folder}", cwd=tmp_path
    )
    assert done.code == 5 and "does not end with its table" in done.err and not (tmp_path / "back").exists()
