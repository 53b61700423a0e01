"""A folder of files: what is in it, what is left out and why, and what happens to files that do not keep still."""

from __future__ import annotations

import json
import mmap
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from backups.engine.archive.blocks import BLOCK
from backups.engine.archive.paths import LONGEST_PATH
from backups.engine.archive.reader import Archives
from backups.engine.capture.files import devices_without_times
from backups.engine.capture.staging import GRAIN_NS
from backups.engine.cli.text import proof_words
from backups.engine.errors import EngineError
from backups.engine.extract import data_bytes
from backups.engine.left_out import Absence
from backups.engine.runtime import durable, folders
from tests.capture.conftest import Bench, Stores, chroma_source, files_source, sqlite_source
from tests.capture.processes import ROOT, environment, ordinary, run, until
from tests.engine.test_folders import nest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "papers"
    made.mkdir()
    return made


def state(folder: Path) -> dict[str, object]:
    """Everything below *folder*: content, mode and time of files, targets of links."""
    found: dict[str, object] = {}
    for where, inside, files in os.walk(os.fsencode(folder)):
        for name in inside + files:
            path = os.path.join(where, name)
            status = os.lstat(path)
            key = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
            if stat.S_ISLNK(status.st_mode):
                found[key] = os.readlink(path)
            elif stat.S_ISDIR(status.st_mode):
                found[key] = ("folder", stat.S_IMODE(status.st_mode))
            else:
                content = Path(os.fsdecode(path)).read_bytes()
                found[key] = (content, stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    return found


def restored(bench: Bench, folder: Path, **options: str) -> Path:
    created = bench.create(files_source(folder), **options)
    assert not created.backup.damaged
    return bench.restore(created.backup) / "files/papers"


def test_everything_is_restored(bench: Bench, folder: Path) -> None:
    (folder / "empty folder").mkdir()
    (folder / "deep/er/and deeper").mkdir(parents=True)
    (folder / "empty").touch()
    (folder / "deep/er/file").write_bytes(b"content")
    (folder / "deep/large").write_bytes(os.urandom(700_000))
    (folder / "private").write_text("x")
    (folder / "private").chmod(0o600)
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "inside").symlink_to("deep/er/file")
    (folder / "deep/up").symlink_to("../empty")
    (folder / "dangling").symlink_to("nothing here")
    os.utime(folder / "empty", ns=(1_000_000_007, 1_234_567_891_234_567_891))
    wanted = state(folder)

    assert state(restored(bench, folder, verify="restore")) == wanted
    assert state(restored(bench, folder, kind="incremental")) == wanted


NAMES = [
    b"new\nline", b"quote'\"", b"tab\t", b" ", b"-rf", "größe ✓ 漢字 \U0001f600".encode(), b"\xff\xfe not utf-8", b"caf\xe9",
    b"x" * 255, b"back\\slash", b"...", b"CON", "e\u0301".encode(), "\u00e9".encode(),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_any_file_name_is_restored(bench: Bench, folder: Path, kind: str) -> None:
    if kind == "incremental":
        bench.create(files_source(folder))
    for name in NAMES:
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(b"content of " + name)
    os.mkdir(os.path.join(os.fsencode(folder), b"folder \xe9"))
    wanted = state(folder)
    assert len(wanted) == len(NAMES) + 1
    assert state(restored(bench, folder, kind=kind, verify="hashes")) == wanted
    assert run("files", bench.ids()[0], "--repo", bench.repository.folder).code == 0


def test_skipped_files_are_logged(bench: Bench, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not to be backed up")
    (folder / "kept").write_text("kept")
    (folder / "out").symlink_to("../secret")
    (folder / "absolute").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    os.mkfifo(os.path.join(os.fsencode(folder), b"pipe \xff"))
    target = restored(bench, folder)
    assert list(state(target)) == ["kept"]
    for name in ("out", "absolute", "pipe"):
        assert [line for line in bench.lines if f"{name} is left out" in line], name
    assert len([line for line in bench.lines if "is left out" in line]) == 4


@pytest.mark.slow
def test_messages_show_names_that_are_not_text(bench: Bench, folder: Path) -> None:
    """The command reports such names too, in its log, in JSON and in the manifest."""
    os.mkfifo(os.path.join(os.fsencode(folder), b"pipe \xff"))
    ended = run("create", "--repo", bench.repository.folder, "--files", f"papers={folder}")
    assert ended.code == 0, ended
    assert [line for line in ended.json["log"] if "pipe" in line]
    assert run("show", ended.json["id"], "--repo", bench.repository.folder).code == 0


@pytest.mark.slow
def test_other_sources_and_the_repository_inside_the_folder_are_skipped(stores: Stores, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from backups.engine.repository.folder import initialise

    folder = stores.database.parent
    (folder / "file").write_text("content")
    bench = Bench(initialise(folder / "repository", datetime.now(UTC)), tmp_path)
    created = bench.create(sqlite_source(stores.database), chroma_source(stores.chroma), files_source(folder))
    assert list(state(bench.restore(created.backup) / "files/papers")) == ["file"]


def test_a_renamed_file_stores_no_new_bytes(bench: Bench, folder: Path) -> None:
    (folder / "before").write_bytes(os.urandom(3_000_000))
    full = bench.create(files_source(folder)).backup
    (folder / "before").rename(folder / "after")
    incremental = bench.create(files_source(folder), kind="incremental").backup
    assert full.manifest.bytes_stored > 3_000_000
    assert incremental.manifest.bytes_stored < 10_000
    assert state(bench.restore(incremental) / "files/papers") == state(folder)


def test_deleted_files_and_files_that_became_folders(bench: Bench, folder: Path) -> None:
    for name in ("gone", "changing", "shrinking", "growing"):
        (folder / name).write_bytes(os.urandom(600_000))
    bench.create(files_source(folder))
    (folder / "gone").unlink()
    (folder / "changing").unlink()
    (folder / "changing").mkdir()
    (folder / "changing/inside").write_text("x")
    os.truncate(folder / "shrinking", 10)
    with (folder / "growing").open("ab") as file:
        file.write(b"more" * 100_000)
    wanted = state(folder)
    assert state(restored(bench, folder, kind="incremental", verify="hashes")) == wanted


@pytest.mark.slow
def test_five_thousand_small_files(bench: Bench, folder: Path) -> None:
    for number in range(5000):
        place = folder / f"{number % 50:02}"
        place.mkdir(exist_ok=True)
        (place / f"{number}.txt").write_text(f"file {number}\n" * (number % 7))
    wanted = state(folder)
    created = bench.create(files_source(folder))
    assert created.backup.manifest.sources[0].files == 5000
    assert created.seconds < 20
    again = bench.create(files_source(folder), kind="incremental")
    assert again.backup.manifest.bytes_stored < 400_000
    assert state(bench.restore(again.backup) / "files/papers") == wanted


@pytest.mark.slow
def test_a_file_that_keeps_changing_is_captured_and_noted(bench: Bench, folder: Path) -> None:
    busy = folder / "busy.log"
    busy.write_bytes(bytes(40 << 20))
    (folder / "quiet").write_text("quiet")
    ended = threading.Event()

    def write() -> None:
        with busy.open("r+b") as file:
            number = 0
            while not ended.is_set():
                number += 1
                os.pwrite(file.fileno(), number.to_bytes(8, "little"), (number * 8191) % (39 << 20))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        created = bench.create(files_source(folder), verify="hashes")
    finally:
        ended.set()
        writer.join()
    assert not created.backup.damaged
    assert [line for line in bench.lines if "busy.log was being written to" in line]
    target = bench.restore(created.backup) / "files/papers"
    assert (target / "quiet").read_text() == "quiet"
    assert (target / "busy.log").stat().st_size == 40 << 20
    following = bench.create(files_source(folder), kind="incremental").backup
    assert (bench.restore(following) / "files/papers/busy.log").read_bytes() == busy.read_bytes()


@pytest.mark.slow
def test_files_that_come_and_go_while_they_are_read(bench: Bench, folder: Path) -> None:
    for number in range(300):
        (folder / f"{number:03}").write_bytes(os.urandom(20_000))
    ended = threading.Event()

    def change() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            name = f"{299 - number % 200:03}"
            (folder / name).unlink(missing_ok=True)
            (folder / f"new-{number % 50}").write_bytes(bytes(number % 5000))
            staged = folder / f".{name}.tmp"
            staged.write_bytes(name.encode() * 7000)
            staged.rename(folder / name)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        made = [bench.create(files_source(folder), kind="incremental", verify="hashes").backup for _ in range(6)]
    finally:
        ended.set()
        changer.join()
    for backup in made:
        assert backup.verification == "hashes"
        target = bench.restore(backup) / "files/papers"
        for number in range(100):
            assert (target / f"{number:03}").read_bytes() == (folder / f"{number:03}").read_bytes()
        for path in target.glob("[12]*"):
            assert len(path.read_bytes()) in (20_000, 21_000), "half of one state and half of another"


def create_as_ordinary_user(bench: Bench, folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and answer of ``create`` for a user who may not read everything."""
    command = [sys.executable, "-m", "backups.engine", "create", "--repo", bench.repository.folder, "--json", *arguments]
    ended = subprocess.run(
        [*ordinary(), *command, f"--files={folder}"], cwd=ROOT, capture_output=True, text=True, check=False, env=environment()
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


@pytest.mark.slow
def test_what_cannot_be_read_is_missing_and_everything_else_is_there(bench: Bench, folder: Path) -> None:
    (folder / "open").write_text("open")
    (folder / "closed").write_text("closed")
    (folder / "closed").chmod(0)
    for name in ("locked", "half"):
        (folder / name).mkdir()
        (folder / name / "inside").write_text("x")
    (folder / "locked").chmod(0)
    (folder / "half").chmod(0o600)  # its names can be listed, but nothing in it can be opened
    code, created = create_as_ordinary_user(bench, folder, "--verify=restore")
    assert code == 6
    assert created["verification"] == "restore"
    assert {item["path"]: item["reason"] for item in created["missing"]} == dict.fromkeys(
        ["closed", "locked", "half/inside"], "unreadable"
    )
    assert created["missing"][0]["message"] == "closed is left out: it cannot be read: Permission denied"
    backup = bench.repository.find("latest", None)
    assert backup.manifest.incomplete and not backup.damaged
    assert set(state(bench.restore(backup) / "files/papers")) == {"open", "half"}
    again = run("restore", "latest", "--repo", bench.repository.folder, "--to", bench.folder / "said")
    assert again.code == 0
    assert [item["path"] for item in again.json["missing"]] == ["closed", "half/inside", "locked"]
    assert f"{backup.id} is incomplete" in again.text, "the one that latest chose"
    assert proof_words(backup) == "restore, incomplete"
    missing = again.json["missing"]
    shown = run("list", "--repo", bench.repository.folder)
    assert shown.json["backups"][0]["incomplete"] is True
    (folder / "locked").chmod(0o700)
    (folder / "half").chmod(0o700)

    again, created = create_as_ordinary_user(bench, folder, "--kind=incremental")
    assert (again, created["parent"]) == (6, backup.id), "an incomplete backup is a parent like any other"
    assert [item["path"] for item in created["missing"]] == ["closed"]
    assert "locked/inside" in state(bench.restore(bench.repository.find("latest", None)) / "files/papers")
    live = ("--repo", bench.repository.folder, "--files", folder, "--yes")
    for end, expected in (("--undo", []), ("--finish", missing)):
        killed = run("restore", backup.id, "--in-place", *live, more={"REFBACKUP_FAULT": "in-place-folder:kill"})
        assert killed.code == -signal.SIGKILL and "is incomplete" not in killed.text, killed
        assert run("restore", end, *live).json["missing"] == expected
    assert (folder / "closed").exists(), "it was kept"


@pytest.mark.skipif(not Path("/sys/class/net/lo/duplex").exists(), reason="this machine has no sysfs")
def test_a_file_that_cannot_be_read_although_it_can_be_opened(bench: Bench) -> None:
    """In sysfs reads fail, and files are shorter than their size."""
    created = bench.create(files_source(Path("/sys/class/net/lo")), verify="restore")
    missing = {item.path: item.detail for item in created.backup.manifest.sources[0].missing}
    assert missing["duplex"] == "Invalid argument"
    assert missing["mtu"] == "it ends before its size"
    found = state(bench.restore(created.backup) / "files/papers")
    assert "statistics" in found and "duplex" not in found


@pytest.mark.slow
def test_dates_of_any_year(bench: Bench, folder: Path) -> None:
    """Tables count nanoseconds in 64 bits, which is enough for 1677 to 2262."""
    years = {"1901": -2_177_452_800, "1969": -1, "2262": 9_214_646_400, "2300": 10_413_792_000, "2400": 13_569_465_600}
    for name, seconds in years.items():
        (folder / name).write_text(name)
        os.utime(folder / name, (seconds, seconds))
    os.utime(folder, (13_569_465_600, 13_569_465_600))
    kept = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    for kind in ("full", "incremental"):
        created = bench.create(files_source(folder), kind=kind, verify="restore")
        assert not created.backup.manifest.incomplete
        target = bench.restore(created.backup) / "files/papers"
        assert {path.name: path.read_text() for path in target.iterdir()} == {name: name for name in years}
        for name in ("1901", "1969", "2262"):
            assert (target / name).stat().st_mtime_ns == kept[name]
        assert len([line for line in bench.lines if "has a date that cannot be stored" in line]) == 2
        assert run("files", created.backup.id, "--repo", bench.repository.folder).code == 0


@pytest.mark.slow
def test_a_file_written_to_through_a_mapping(bench: Bench, folder: Path) -> None:
    """Of the stores into a page, only the first sets the file's times, until the kernel writes the page to disk."""
    place = folder / "mapped"
    place.write_bytes(bytes(100_000))
    with place.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0:5] = b"first"
        times = place.stat()
        until(lambda: time.time_ns() - place.stat().st_ctime_ns > GRAIN_NS + 10**8)
        mapping[5:11] = b"second"
        assert place.stat() == times
        bench.create(files_source(folder))
        mapping[11:16] = b"third"
        following = bench.create(files_source(folder), kind="incremental").backup
        assert (bench.restore(following) / "files/papers/mapped").read_bytes()[:16] == b"firstsecondthird"


@pytest.mark.slow
def test_a_file_system_without_times(bench: Bench) -> None:
    """On tmpfs, a store into a page never sets the file's times."""
    shared = Path("/dev/shm")  # noqa: S108 - this file system is the subject
    if shared.stat().st_dev not in devices_without_times():
        pytest.skip("this machine has no tmpfs")
    with tempfile.TemporaryDirectory(dir=shared) as made:
        place = Path(made, "mapped")
        place.write_bytes(bytes(100_000))
        with place.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            until(lambda: time.time_ns() - place.stat().st_ctime_ns > GRAIN_NS + 10**8)
            bench.create(files_source(Path(made)))
            mapping[0:5] = b"first"
            following = bench.create(files_source(Path(made)), kind="incremental").backup
        assert (bench.restore(following) / "files/papers/mapped").read_bytes()[:5] == b"first"


@pytest.mark.slow
def test_everything_is_read_again_after_a_time(bench: Bench, folder: Path) -> None:
    (folder / "file").write_text("x")
    full = bench.create(files_source(folder)).backup
    assert full.manifest.read_all == full.manifest.time
    trusting = bench.create(files_source(folder), kind="incremental").backup
    assert trusting.manifest.read_all == full.manifest.time
    reading = bench.create(files_source(folder), kind="incremental", reread_hours=0.0).backup
    assert reading.manifest.read_all == reading.manifest.time
    assert reading.manifest.bytes_stored < 2000
    ended = run(
        "create", "--repo", bench.repository.folder, f"--files=papers={folder}", "--kind=incremental",
        more={"BACKUP_REREAD_HOURS": "0"},
    )  # fmt: skip
    by_setting = bench.repository.find(ended.json["id"], None).manifest
    assert by_setting.read_all == by_setting.time


@pytest.mark.slow
def test_excluded_files(bench: Bench, folder: Path) -> None:
    for name in ("kept", "cache/x", "deep/a.tmp", "deep/kept", "node/cache/y"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    arguments = ("create", "--repo", bench.repository.folder, "--files", f"papers={folder}")
    ended = run(*arguments, "--exclude", "*.tmp", "--exclude", "/cache/", "--kind", "incremental")
    assert ended.code == 0, ended
    backup = bench.repository.find("latest", None)
    assert backup.manifest.sources[0].exclude == ("*.tmp", "/cache/")
    assert set(state(bench.restore(backup) / "files/papers")) == {
        "kept",
        "deep",
        "deep/kept",
        "node",
        "node/cache",
        "node/cache/y",
    }
    assert run(*arguments, more={"BACKUP_EXCLUDE": "deep:node"}).code == 0
    assert set(state(bench.restore(bench.repository.find("latest", None)) / "files/papers")) == {"kept", "cache", "cache/x"}
    refused = run(*arguments, "--exclude", "!kept")
    assert (refused.code, refused.error["code"]) == (2, "usage")
    refused = run(*arguments, more={"BACKUP_EXCLUDE": "a//b"})
    assert refused.code == 2 and "BACKUP_EXCLUDE" in refused.error["message"]


def test_a_missing_folder_makes_no_backup(bench: Bench, folder: Path) -> None:
    ended = run("create", "--repo", bench.repository.folder, "--files", folder / "absent")
    assert ended.code == 6
    assert "does not exist" in ended.error["message"]


def test_an_empty_folder(bench: Bench, folder: Path) -> None:
    assert state(restored(bench, folder, verify="restore")) == {}
    assert state(restored(bench, folder, kind="incremental")) == {}


@pytest.mark.slow
def test_folders_nested_a_thousand_deep_and_paths_of_any_length(bench: Bench, folder: Path, request: Any) -> None:
    request.addfinalizer(lambda: durable.remove_tree(folder))  # pytest cannot remove what is nested so deep
    nest(folder, 1500)
    descriptor = os.open(folder, os.O_RDONLY)
    for number in range(40):  # ten thousand bytes; what a backup can hold is stored
        name = f"{number:02}" + "x" * 250
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
        os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    above = "/".join(f"{number:02}" + "x" * 250 for number in range(15))
    with folders.opened(folder) as root:  # the longest path that can be stored
        above += "/" + "y" * 60
        os.mkdir(above, dir_fd=root)
        name = "z" * (LONGEST_PATH - len(f"files/papers/{above}/"))
        for longer in ("", "z"):
            os.close(os.open(f"{above}/{name}{longer}", os.O_WRONLY | os.O_CREAT, dir_fd=root))
    for kind in ("full", "incremental"):
        created = bench.create(files_source(folder), kind=kind, verify="restore")
        assert created.backup.verification == "restore"
        missing = created.backup.manifest.sources[0].missing
        assert {item.reason for item in missing} == {Absence.TOO_LONG}
    target = bench.restore(created.backup) / "files/papers"
    request.addfinalizer(lambda: durable.remove_tree(target))
    held = {path for path, _ in folders.below(target)}
    left_out = tuple(item.path for item in missing)
    assert held == {path for path, _ in folders.below(folder) if not path.startswith(left_out)}
    assert {f"{above}/{name}" in held, f"{above}/{name}z" in left_out} == {True}


@pytest.mark.slow
def test_holes_take_neither_time_nor_space(bench: Bench, folder: Path) -> None:
    place = folder / "sparse"
    with place.open("wb") as file:
        file.truncate(10 << 30)
        for offset in (5 << 20, 7 << 30):
            os.pwrite(file.fileno(), b"data", offset)
    full = bench.create(files_source(folder), verify="restore").backup
    with place.open("r+b") as file:
        os.pwrite(file.fileno(), b"more", 3 << 30)
    incremental = bench.create(files_source(folder), kind="incremental", verify="restore").backup
    assert incremental.manifest.bytes_stored < 100_000 < full.manifest.bytes_stored < 3_000_000
    with Archives(bench.repository.locate("default")) as archives:
        assert data_bytes(archives, archives.tree(incremental.id), lambda path: True) == 3 * BLOCK
    target = bench.restore(incremental) / "files/papers/sparse"
    status = target.stat()
    assert status.st_size == 10 << 30
    assert status.st_blocks * 512 <= 1 << 20
    with target.open("rb") as file:
        assert [os.pread(file.fileno(), 5, offset) for offset in (5 << 20, 7 << 30, 3 << 30, 0)] == [
            b"data\0", b"data\0", b"more\0", bytes(5),
        ]  # fmt: skip


@pytest.mark.slow
def test_a_folder_without_write_permission_leaves_nothing_behind(bench: Bench, folder: Path) -> None:
    (folder / "read only/deep").mkdir(parents=True)
    (folder / "read only/deep/file").write_text("x")
    (folder / "read only/deep").chmod(0o500)
    (folder / "read only").chmod(0o500)
    for kind in ("full", "incremental"):
        code, created = create_as_ordinary_user(bench, folder, "--verify=restore", f"--kind={kind}")
        assert (code, created["verification"]) == (0, "restore")
        assert not list(bench.repository.scratch.iterdir())
    assert state(bench.restore(bench.repository.find("latest", None)) / "files/papers") == state(folder)
    left = bench.repository.scratch / "999999999.abcdef"
    (left / "a").mkdir(parents=True)
    (left / "a/file").touch()
    (left / "a").chmod(0)
    code, created = create_as_ordinary_user(bench, folder)
    assert code == 0 and not left.exists()


def test_what_cannot_be_cleared_is_no_reason_against_a_backup(bench: Bench, folder: Path) -> None:
    left = bench.repository.scratch / "999999999.abcdef"
    left.mkdir(parents=True)
    (left / "file").touch()
    if subprocess.run(["chattr", "+i", left / "file"], capture_output=True, check=False).returncode:
        pytest.skip("this machine has no immutable files")
    try:
        bench.create(files_source(folder))
    finally:
        subprocess.run(["chattr", "-i", left / "file"], check=True)
    assert [line for line in bench.lines if "abcdef, but not all of it: Operation not permitted" in line]


def test_names_of_one_file_and_links_in_circles(bench: Bench, folder: Path) -> None:
    (folder / "one").write_bytes(os.urandom(500_000))
    (folder / "two").hardlink_to(folder / "one")
    (folder / "deep").mkdir()
    (folder / "deep/up").symlink_to("../deep")
    (folder / "self").symlink_to("self")
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    wanted = state(folder)
    assert state(restored(bench, folder, verify="restore")) == wanted
    assert state(restored(bench, folder, kind="incremental", verify="restore")) == wanted


def test_a_source_inside_the_repository_is_refused(bench: Bench) -> None:
    for path in (bench.repository.folder, bench.repository.folder / "backups"):
        ended = run("create", "--repo", bench.repository.folder, f"--files=papers={path}")
        assert ended.code == 2 and "lies inside the repository" in ended.error["message"]


@pytest.mark.slow
def test_a_manifest_stays_small_whatever_is_left_out(bench: Bench, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listed each of 300,000 links that point out of a folder, and was then too large for its reader."""
    for number in range(100):
        (folder / f"{number:03}").mkdir()
        for link in range(200):
            (folder / f"{number:03}/{link}").symlink_to("/etc/hostname")
    (folder / "kept").write_text("kept")
    backup = bench.create(files_source(folder), verify="hashes").backup
    stored = bench.repository.backup_folder("default", backup.id) / "manifest.json"
    assert stored.stat().st_size < 200_000
    record = bench.repository.find("latest", None).manifest.sources[0]
    assert {(item.path, item.count) for item in record.left_out} == {(f"{number:03}", 200) for number in range(100)}
    assert not record.missing
    assert len(bench.lines) < 150

    monkeypatch.setattr("backups.engine.repository.folder.MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(EngineError, match="The manifest would take"):
        bench.create(files_source(folder))
    assert bench.ids() == [backup.id]
