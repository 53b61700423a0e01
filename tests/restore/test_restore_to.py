"""Restoring into a folder: byte for byte, complete or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from backups.engine.archive.table import EntryType
from backups.engine.errors import (
    Cancelled,
    DamageFound,
    NoSpace,
    PermissionMissing,
    RepositoryLocked,
    TargetOccupied,
    UsageError,
)
from backups.engine.prune import prune
from backups.engine.repository.retention import Policy
from backups.engine.restore.partial import PARTIAL, clear_partials
from backups.engine.restore.to_folder import restore_to
from backups.engine.runtime import durable, locks
from backups.engine.types import SourceKind
from tests.restore.stores import ROOT, Chroma, History, clean_environment, context, refbackup, tree_of, until


def what_is_stored(folder: Path) -> dict[str, object]:
    """A tree without the folders that no entry stands for (sqlite, chroma, files)."""
    return {path: what for path, what in tree_of(folder).items() if "/" in path}


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("number", range(4))
def test_every_backup_is_restored_byte_for_byte_with_modes_and_times(history: History, tmp_path: Path, number: int) -> None:
    restored = restore_to(history.repository, history.backup(number), tmp_path / "target", context())
    assert what_is_stored(tmp_path / "target") == what_is_stored(history.expected(number))
    assert left_in(tmp_path) == ["target"]
    assert restored.bytes == history.backup(number).manifest.bytes_source
    assert restored.checks["files"] == sum(1 for what in tree_of(tmp_path / "target").values() if what[0] == "file")


@pytest.mark.slow
def test_a_restored_chroma_answers_and_takes_new_records(history: History, tmp_path: Path) -> None:
    restore_to(history.repository, history.backup(3), tmp_path / "target", context())
    shutil.copytree(history.expected(3) / "chroma/vectors", tmp_path / "reference")
    with Chroma(tmp_path / "target/chroma/vectors") as restored, Chroma(tmp_path / "reference") as reference:
        for name, count in (("indexed", 445), ("logged", 445)):
            assert restored.all(name) == reference.all(name)
            assert restored.call(name, "count") == count
            restored.call(name, "upsert", ids=["new"], embeddings=[[0.5] * 16])
            assert restored.ask("query", name, vector=[0.5] * 16, n=1) == ["new"]


@pytest.mark.parametrize(
    ("only", "tops"),
    [
        ("sqlite", ["sqlite/app.sqlite3"]),
        ("sqlite:app", ["sqlite/app.sqlite3"]),
        ("chroma", ["chroma/vectors"]),
        ("chroma:vectors", ["chroma/vectors"]),
        ("files", ["files/papers"]),
        ("files:papers", ["files/papers"]),
    ],
)
def test_only_one_kind_or_one_store(history: History, tmp_path: Path, only: str, tops: list[str]) -> None:
    restored = restore_to(history.repository, history.backup(2), tmp_path / "target", context(), only=only)
    wanted = {path: what for path, what in what_is_stored(history.expected(2)).items() if path.startswith(tuple(tops))}
    assert what_is_stored(tmp_path / "target") == wanted
    size = sum(path.stat().st_size for path in (tmp_path / "target").rglob("*") if path.is_file() and not path.is_symlink())
    assert restored.bytes == size


@pytest.mark.parametrize("only", ["vectors", "chroma:other", "sqlite:", "", "files/papers", "SQLITE"])
def test_an_unknown_store_in_only_is_wrong_usage(history: History, tmp_path: Path, only: str) -> None:
    if only == "sqlite:":
        restore_to(history.repository, history.backup(0), tmp_path / "target", context(), only=only)
        return
    with pytest.raises(UsageError) as refused:
        restore_to(history.repository, history.backup(0), tmp_path / "target", context(), only=only)
    assert refused.value.exit_code == 2 and left_in(tmp_path) == []


# Targets


def test_an_empty_folder_is_taken(history: History, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    restore_to(history.repository, history.backup(0), tmp_path / "target", context(), only="sqlite")
    assert left_in(tmp_path / "target") == ["sqlite"]


def test_missing_parents_are_made(history: History, tmp_path: Path) -> None:
    restore_to(history.repository, history.backup(0), tmp_path / "a/b/target", context(), only="sqlite")
    assert left_in(tmp_path / "a/b") == ["target"]


def test_a_link_to_a_folder_is_followed(history: History, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "target").symlink_to("there")
    restore_to(history.repository, history.backup(0), tmp_path / "target", context(), only="sqlite")
    assert (tmp_path / "there/sqlite/app.sqlite3").is_file() and (tmp_path / "target").is_symlink()


@pytest.mark.parametrize("occupied", ["folder", "hidden", "file", "link to a file"])
def test_existing_files_are_never_overwritten(history: History, tmp_path: Path, occupied: str) -> None:
    target = tmp_path / "target"
    if occupied in ("folder", "hidden"):
        target.mkdir()
        (target / (".x" if occupied == "hidden" else "x")).write_text("mine")
    else:
        (tmp_path / "mine").write_text("mine")
        target.symlink_to("mine") if "link" in occupied else target.write_text("mine")
    before = tree_of(tmp_path)
    with pytest.raises(TargetOccupied) as refused:
        restore_to(history.repository, history.backup(0), target, context())
    assert refused.value.exit_code == 2 and tree_of(tmp_path) == before


@pytest.mark.parametrize("below", ["trash/x", "scratch/y", "backups/default/z", ""])
def test_nothing_is_restored_into_the_repository(history: History, below: str) -> None:
    target = history.repository.folder / below
    before = tree_of(history.repository.folder)
    with pytest.raises(TargetOccupied, match="not an empty folder" if not below else "inside the repository"):
        restore_to(history.repository, history.backup(0), target, context())
    assert tree_of(history.repository.folder) == before


def test_nothing_is_restored_into_a_live_store(history: History) -> None:
    stores = [Path(record.path) for record in history.backup(0).manifest.sources if record.kind is not SourceKind.SQLITE]
    assert stores
    for store in stores:
        with pytest.raises(TargetOccupied, match="inside the live store"):
            restore_to(history.repository, history.backup(0), store / "new", context())
        assert not (store / "new").exists()


def test_a_mount_point_is_refused_before_anything_is_written(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda self: True)
    with pytest.raises(TargetOccupied, match="mount point"):
        restore_to(history.repository, history.backup(0), Path("target"), context())


@pytest.mark.skipif(os.geteuid() != 0, reason="this machine runs the tests without root, and only root can change the user")
@pytest.mark.slow
def test_restore_and_verify_with_read_only_access_to_the_repository(history: History, mine: History) -> None:
    """A repository on media that cannot be written to."""
    folder = Path("/tmp") / f"refbackup-test-{os.getpid()}"  # noqa: S108 - pytest's own folders are closed to others
    shutil.copytree(mine.repository.folder, folder / "repository")
    try:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        program = (
            "import os, sys; sys.path.insert(0, sys.argv.pop(1)); import backups.engine.cli as cli; "
            "import encodings.ascii, encodings.idna; cli.build_parser(); "
            "os.setgid(65534); os.setuid(65534); sys.exit(cli.main(sys.argv[1:]))"
        )

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-c", program, str(ROOT), *arguments, f"--repo={folder}/repository"],
                cwd=folder,
                env=clean_environment(),
                capture_output=True,
                text=True,
                check=False,
            )

        done = run("restore", mine.ids[3], f"--to={folder}/out/target")
        assert done.returncode == 0, done.stderr
        assert what_is_stored(folder / "out/target") == what_is_stored(history.expected(3))
        done = run("verify", mine.ids[3])
        assert done.returncode == 0, done.stderr
        assert "could not be recorded" in done.stderr
        done = run("restore", mine.ids[3], f"--to={folder}/target")
        assert done.returncode == 1 and not (folder / "target").exists(), "a parent that may not be written to"
        done = run("hold", mine.ids[3])
        assert done.returncode == 1 and "ermission" in done.stderr
    finally:
        shutil.rmtree(folder)


# Dry runs and checks


def test_a_dry_run_writes_nothing_and_reports_the_same(history: History, tmp_path: Path) -> None:
    planned = restore_to(history.repository, history.backup(1), tmp_path / "a/target", context(), dry_run=True)
    assert left_in(tmp_path) == []
    done = restore_to(history.repository, history.backup(1), tmp_path / "target", context())
    assert (planned.bytes, planned.checks, planned.dry_run) == (done.bytes, done.checks, True)
    with pytest.raises(TargetOccupied):
        restore_to(history.repository, history.backup(1), tmp_path / "target", context(), dry_run=True)


@pytest.mark.slow
def test_a_checked_restore_does_not_change_the_stores(history: History, tmp_path: Path) -> None:
    restored = restore_to(history.repository, history.backup(3), tmp_path / "target", context(), check=True)
    assert restored.checks["sqlite/app.sqlite3"] == {
        "integrity_check": "ok",
        "foreign_key_check": 0,
        "tables": {"counter": 1, "item": 3003},
    }
    assert restored.checks["chroma/vectors"]["collections"]["indexed"]["count"] == 445
    assert what_is_stored(tmp_path / "target") == what_is_stored(history.expected(3))
    assert left_in(tmp_path) == ["target"]


# What stops a restore


@pytest.mark.parametrize("step", ["restore-write", "restore-write@9", "publish"])
@pytest.mark.slow
def test_a_kill_leaves_no_target(history: History, tmp_path: Path, step: str) -> None:
    restore = ["restore", history.ids[3], "--to=target", f"--repo={history.repository.folder}"]
    done = refbackup(*restore, cwd=tmp_path, REFBACKUP_FAULT=f"{step}:kill")
    assert done.code == -signal.SIGKILL
    assert not (tmp_path / "target").exists()
    (left,) = left_in(tmp_path)
    assert left.startswith(PARTIAL), "what is left says what it is"
    planned = refbackup(*restore, "--dry-run", cwd=tmp_path)
    assert planned.code == 0 and left_in(tmp_path) == [left]
    again = refbackup(*restore, cwd=tmp_path)
    assert again.code == 0 and what_is_stored(tmp_path / "target") == what_is_stored(history.expected(3))
    assert left_in(tmp_path) == ["target"] and left in again.err


def test_what_killed_restores_left_is_removed_but_not_what_a_running_one_writes(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, mine, file = tmp_path / f"{PARTIAL}0a1b2c", tmp_path / ".mine.0a1b2c.partial", tmp_path / f"{PARTIAL}file"
    left.mkdir()
    (left / "sealed").mkdir(mode=0o500)
    mine.mkdir()
    file.write_text("")
    seen: list[list[str]] = []

    def another() -> None:
        monkeypatch.delitem(durable.FAULTS, "publish")
        restore_to(history.repository, history.backup(1), tmp_path / "other", context(), only="files")
        seen.append([name for name in left_in(tmp_path) if name.startswith(PARTIAL) and name != file.name])

    monkeypatch.setitem(durable.FAULTS, "publish", another)
    restore_to(history.repository, history.backup(1), tmp_path / "target", context(), only="files")
    assert len(seen[0]) == 1 and seen[0] != [left.name], "the running one has its folder"
    assert left_in(tmp_path) == sorted([mine.name, file.name, "other", "target"])


def test_a_folder_that_another_restore_took_for_abandoned_is_made_again(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, said = locks.acquire_folder, []

    def late(descriptor: int, **how: Any) -> bool | None:
        monkeypatch.setattr(locks, "acquire_folder", acquire)
        clear_partials(tmp_path, said.append)
        return acquire(descriptor, **how)

    monkeypatch.setattr(locks, "acquire_folder", late)
    restore_to(history.repository, history.backup(1), tmp_path / "target", context(), only="files")
    assert len(said) == 1 and left_in(tmp_path) == ["target"]


def test_a_kill_after_the_rename_leaves_the_complete_target(history: History, tmp_path: Path) -> None:
    restore = ["restore", history.ids[1], "--to=target", f"--repo={history.repository.folder}"]
    done = refbackup(*restore, cwd=tmp_path, REFBACKUP_FAULT="published:kill")
    assert done.code == -signal.SIGKILL
    assert what_is_stored(tmp_path / "target") == what_is_stored(history.expected(1))


def test_an_existing_empty_folder_keeps_its_mode_and_owner(history: History, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    target.chmod(0o2751)
    if os.geteuid() == 0:
        os.chown(target, 1234, 4321)
    before = target.stat()
    restore_to(history.repository, history.backup(1), target, context(), only="files")
    after = target.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    restore_to(history.repository, history.backup(1), tmp_path / "new", context(), only="files")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("step", ["restore-write", "restore-write@12", "publish"])
def test_a_full_disk_leaves_nothing(history: History, tmp_path: Path, step: str) -> None:
    done = refbackup(
        "restore", history.ids[3], "--to=target", f"--repo={history.repository.folder}", "--json", cwd=tmp_path,
        REFBACKUP_FAULT=f"{step}:full",
    )  # fmt: skip
    assert done.code == 8 and done.json["error"]["code"] == "no_space"
    assert left_in(tmp_path) == []


LIMITED = """
import resource, signal, sys
from backups.engine.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("limit", [3000, 300_000, 700_001 - 1])
def test_a_partial_write_is_detected(history: History, tmp_path: Path, limit: int) -> None:
    """A real limit: the system writes up to it without an error, and refuses the next byte."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), "restore", history.ids[0], "--to=target", "--only=files",
         f"--repo={history.repository.folder}"],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if limit < 700_000:
        assert done.returncode == 8, done.stderr
        assert left_in(tmp_path) == []
    else:
        assert done.returncode == 0 and (tmp_path / "target/files/papers/big.bin").stat().st_size == 700_000


def test_missing_space_is_reported_before_anything_is_written(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10 << 20, 5 << 20, 5 << 20))
    with pytest.raises(NoSpace, match="5 MiB free"):
        restore_to(history.repository, history.backup(0), tmp_path / "target", context())
    assert left_in(tmp_path) == []


def test_a_restore_is_cancelled_between_blocks(history: History, tmp_path: Path) -> None:
    asked = 0

    def cancel() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    with pytest.raises(Cancelled) as stopped:
        restore_to(history.repository, history.backup(0), tmp_path / "target", context(should_cancel=cancel))
    assert stopped.value.exit_code == 9 and left_in(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_cancel(history: History, tmp_path: Path, number: int) -> None:
    """No block is written before the signal was sent."""
    slow = "import os, sys, time; from backups.engine import cli\nfrom backups.engine.runtime import durable\n"
    slow += "def wait():\n    os.write(1, b'writing\\n')\n    while not os.path.exists('signalled'): time.sleep(0.005)\n"
    slow += "durable.FAULTS['restore-write'] = wait\nsys.exit(cli.main(sys.argv[1:]))"
    child = subprocess.Popen(
        [sys.executable, "-c", slow, "restore", history.ids[0], "--to=target", f"--repo={history.repository.folder}"],
        cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    child.send_signal(number)
    (tmp_path / "signalled").touch()
    _, said = child.communicate(timeout=30)
    assert child.returncode == 9, said
    assert left_in(tmp_path) == ["signalled"]


def descriptors(folder: Path) -> list[str]:
    """What this process has open in *folder*."""
    names = (Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return sorted(target for name in names if (target := os.path.realpath(name)).startswith(str(folder)))


@pytest.mark.parametrize("stop", ["cancel", "full", "damage"])
def test_a_restore_that_stops_leaves_no_descriptor_open(
    mine: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    before = descriptors(tmp_path)
    ctx = context()
    if stop == "full":

        def full() -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setitem(durable.FAULTS, "restore-write", full)
    elif stop == "cancel":
        asked = iter(range(10_000))
        ctx = context(should_cancel=lambda: next(asked) > 6)
    else:
        data = mine.place(0) / "data.tar.zst"
        content = bytearray(data.read_bytes())
        content[len(content) // 3] ^= 1
        data.write_bytes(content)
    with pytest.raises((Cancelled, NoSpace, DamageFound)):
        restore_to(mine.repository, mine.backup(0), tmp_path / "target", ctx)
    assert descriptors(tmp_path) == before


# Restores and removals at the same time


def test_no_backup_is_removed_during_a_restore(mine: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        writing.set()
        assert go_on.wait(30)

    monkeypatch.setitem(durable.FAULTS, "restore-write", wait)
    failed: list[BaseException] = []

    def restore() -> None:
        try:
            restore_to(mine.repository, mine.backup(3), tmp_path / "target", context())
        except BaseException as problem:  # noqa: BLE001 - told in the test's own thread
            failed.append(problem)

    thread = threading.Thread(target=restore)
    thread.start()
    try:
        assert writing.wait(30)
        from datetime import timedelta

        with pytest.raises(RepositoryLocked) as locked:
            prune(mine.repository, "default", Policy(keep_last=1), context(), dry_run=False, trash=timedelta())
        assert locked.value.exit_code == 7
        done = refbackup("delete", mine.ids[3], f"--repo={mine.repository.folder}", cwd=tmp_path)
        assert done.code == 7
        assert refbackup("list", f"--repo={mine.repository.folder}", cwd=tmp_path).code == 0
    finally:
        go_on.set()
        thread.join(60)
    assert not failed and (tmp_path / "target/sqlite/app.sqlite3").is_file()
    assert refbackup("delete", mine.ids[3], f"--repo={mine.repository.folder}", cwd=tmp_path).code == 0


def test_a_restore_waits_for_a_running_removal(mine: History, tmp_path: Path) -> None:
    with mine.repository.removing():
        child = subprocess.Popen(
            [sys.executable, "-m", "backups.engine", "restore", mine.ids[0], "--to=target", f"--repo={mine.repository.folder}"],
            cwd=tmp_path, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        readers = str(mine.repository.folder / "readers")
        folder = Path("/proc", str(child.pid), "fd")
        until(lambda: any(os.path.realpath(fd) == readers for fd in folder.iterdir()), "the restore reached the lock")
        assert child.poll() is None and not (tmp_path / "target").exists()
    assert child.wait(60) == 0 and (tmp_path / "target").is_dir()


# What a hostile table could write


def test_set_uid_bits_are_not_restored(history: History, tmp_path: Path) -> None:
    from backups.engine.archive.reader import Archives
    from backups.engine.extract import extract
    from backups.engine.runtime.context import Phase

    with Archives(history.repository.locate("default")) as archives:
        tree = archives.tree(history.ids[0])
        for entry in tree.entries.values():
            if entry.kind is not EntryType.LINK:
                entry.mode |= 0o7000
        extract(archives, tree, tmp_path / "target", Phase(context(), "restore", "write", 1))
    assert all(path.lstat().st_mode & 0o7000 == 0 for path in (tmp_path / "target").rglob("*") if not path.is_symlink())


def test_nothing_is_written_through_a_planted_link(history: History, tmp_path: Path) -> None:
    """The staging folder is new, but another user of the parent folder could create a link there first."""
    from backups.engine.archive.reader import Archives
    from backups.engine.extract import extract
    from backups.engine.runtime.context import Phase

    (tmp_path / "target/sqlite").mkdir(parents=True)
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "target/sqlite/app.sqlite3").symlink_to(tmp_path / "outside")
    with Archives(history.repository.locate("default")) as archives, pytest.raises(FileExistsError):
        tree = archives.tree(history.ids[0])
        extract(archives, tree, tmp_path / "target", Phase(context(), "restore", "write", 1))
    assert (tmp_path / "outside").read_text() == "mine"


def test_missing_permission_is_reported(history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "x")

    monkeypatch.setitem(durable.FAULTS, "publish", refuse)
    with pytest.raises(PermissionMissing) as refused:
        restore_to(history.repository, history.backup(0), tmp_path / "target", context())
    assert refused.value.exit_code == 1 and left_in(tmp_path) == []
