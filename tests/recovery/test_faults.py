"""Faults that keep RefServer from starting: each names its file and a section that the document has."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from refserver.recovery.faults import Section, find_faults, missing_repository
from refserver.recovery.locations import Locations
from tests.docs.pages import ROOT
from tests.recovery.clone import Clone
from tests.recovery.ordinary import give, ordinary, reason_to_skip

BLOCKS, WARNS = True, False


@pytest.fixture
def places(tmp_path: Path) -> Locations:
    """Small sound stores, and a repository that the control database knows."""
    names = {
        "REFSERVER_DATABASE": "data/refserver.sqlite3",
        "CHROMA_PATH": "data/chroma",
        "REFSERVER_FILES": "data/documents",
        "REFSERVER_CONTROL_DATABASE": "control.sqlite3",
        "REFSERVER_RUN_DIR": "run",
        "BACKUP_REPOSITORY": "backups",
    }
    paths = {name: tmp_path / "var" / place for name, place in names.items()}
    for folder in ("data/chroma", "data/documents", "run", "backups/backups/default/20260101T000000Z-full-abc123"):
        (tmp_path / "var" / folder).mkdir(parents=True)
    (paths["REFSERVER_FILES"] / "a.pdf").write_text("a")
    (paths["BACKUP_REPOSITORY"] / "repository.json").write_text("{}")
    for path in (paths["REFSERVER_DATABASE"], paths["REFSERVER_CONTROL_DATABASE"], paths["CHROMA_PATH"] / "chroma.sqlite3"):
        with closing(sqlite3.connect(path)) as database:
            database.executescript(
                "PRAGMA journal_mode=WAL; CREATE TABLE django_migrations (a); CREATE TABLE filler (a);"
                "CREATE TABLE backups_indexedbackup (repository); INSERT INTO backups_indexedbackup VALUES ('main');"
                "INSERT INTO filler VALUES (zeroblob(90000))"
            )
    return Locations(paths=paths, values={})


def overwrite(path: Path) -> None:
    path.write_bytes(os.urandom(8192))


def break_last_pages(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(-60000, os.SEEK_END)
        stream.write(os.urandom(60000))


@pytest.mark.parametrize(
    ("setting", "plant", "section", "blocks"),
    [
        ("REFSERVER_DATABASE", overwrite, Section.DATABASE, BLOCKS),
        ("REFSERVER_DATABASE", break_last_pages, Section.DATABASE, BLOCKS),
        ("REFSERVER_DATABASE", Path.unlink, Section.DATABASE, BLOCKS),
        ("REFSERVER_DATABASE", lambda path: path.write_bytes(b""), Section.DATABASE, BLOCKS),
        ("REFSERVER_CONTROL_DATABASE", overwrite, Section.CONTROL, BLOCKS),
        ("REFSERVER_CONTROL_DATABASE", Path.unlink, Section.CONTROL, BLOCKS),
        ("CHROMA_PATH", lambda path: overwrite(path / "chroma.sqlite3"), Section.CHROMA, WARNS),
        ("CHROMA_PATH", shutil.rmtree, Section.SEARCH, WARNS),
        ("BACKUP_REPOSITORY", lambda path: path.rename(path.with_name("elsewhere")), Section.REPOSITORY, WARNS),
    ],
)
def test_a_fault_names_its_file_and_its_section(
    places: Locations, setting: str, plant: Callable[[Path], object], section: Section, blocks: bool
) -> None:
    assert find_faults(places, thorough=True) == []
    plant(places.paths[setting])
    [fault] = find_faults(places, thorough=True)
    assert (fault.section, fault.blocks) == (section, blocks)
    assert fault.subject.startswith(str(places.paths[setting]))
    assert "DISASTER_RECOVERY.md" in fault.as_text()


def test_a_first_start_has_no_fault(places: Locations) -> None:
    shutil.rmtree(places.paths["REFSERVER_DATABASE"].parent.parent)
    assert find_faults(places, creating=True) == []
    assert missing_repository(places) is None


def test_a_locked_database_has_no_fault(places: Locations) -> None:
    with closing(sqlite3.connect(places.paths["REFSERVER_DATABASE"])) as writer:
        writer.execute("PRAGMA locking_mode=EXCLUSIVE")
        writer.execute("BEGIN EXCLUSIVE")
        assert find_faults(places) == []


def test_the_document_has_every_section() -> None:
    headings = {line[3:] for line in (ROOT / "DISASTER_RECOVERY.md").read_text().splitlines() if line.startswith("## ")}
    assert {section.value for section in Section} <= headings


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 18 MB of its own, if this user may mount one."""
    folder = Path(tempfile.mkdtemp())
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "none", str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def test_on_a_full_disk_the_databases_are_not_blamed(places: Locations, small_disk: Path) -> None:
    data = shutil.move(places.paths["REFSERVER_DATABASE"].parent, small_disk / "data")
    moved = {name: Path(data) / path.name for name, path in places.paths.items() if path.parent.name == "data"}
    full = Locations(paths={**places.paths, **moved}, values={})
    overwrite(full.paths["REFSERVER_DATABASE"])
    with contextlib.suppress(OSError), (small_disk / "large").open("wb") as stream:
        while True:
            stream.write(bytes(1 << 20))
            stream.flush()
    [fault] = find_faults(full, thorough=True)
    assert (fault.section, fault.blocks) == (Section.FULL, BLOCKS)
    assert fault.subject.startswith(str(small_disk))
    (small_disk / "large").unlink()
    [fault] = find_faults(full)
    assert fault.section is Section.DATABASE


def start(clone: Clone, *arguments: str) -> subprocess.CompletedProcess[str]:
    return clone.run(".venv/bin/python", "manage.py", *arguments)


@pytest.mark.slow
def test_commands_exit_with_the_fault_and_without_a_traceback(clone: Clone) -> None:
    control = clone.root / "var/control.sqlite3"
    sound = control.read_bytes()
    control.write_bytes(os.urandom(4096))
    for arguments in (("serve",), ("qcluster",), ("migrate",), ("reindex_backups",)):
        done = start(clone, *arguments)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert f"{control}: damaged" in done.stderr
        assert "section “The control database is lost”" in done.stderr
    control.write_bytes(sound)
    (clone.root / ".env").write_bytes(b"REFSERVER_PORT=abc\n")
    for more in (b"", b"NAME=\xff\n"):
        with (clone.root / ".env").open("ab") as stream:
            stream.write(more)
        done = start(clone, "serve")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert f"{clone.root}/.env" in done.stderr
        assert "section “A setting is wrong”" in done.stderr
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "refserver.wsgi"]
    done = clone.run(*command, PYTHONPATH=str(clone.root))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "section “A setting is wrong”" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())
def test_permission_denied_names_the_file_and_the_user(template: Clone) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        clone = Clone(Path(shutil.copytree(template.root, folder / "refserver", symlinks=True)))
        give(clone.root)
        control = clone.root / "var/control.sqlite3"
        for path, mode in ((control, 0o000), (clone.root / "var/data", 0o000), (clone.root / ".env", 0o000)):
            path.touch()
            before = path.stat().st_mode
            path.chmod(mode)
            done = clone.run(*ordinary(".venv/bin/python", "manage.py", "serve"))
            path.chmod(before)
            assert done.returncode == 1
            assert "Traceback" not in done.stderr
            assert str(path) in done.stderr
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_does_not_start_what_belongs_to_another_user(clone: Clone) -> None:
    give(clone.root / "var")
    done = start(clone, "serve")
    assert done.returncode == 1
    assert "run this as nobody (runuser -u nobody -- COMMAND)" in done.stderr
