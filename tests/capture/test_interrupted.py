"""Crashes, full disks and cancellations at every step: a backup exists or it does not, and nothing is left behind."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from backups.engine.runtime import durable
from backups.engine.runtime.context import Context
from backups.engine.types import Depth
from backups.engine.verify import verify_many
from tests.capture.conftest import Bench, Start, Stores, accounts, chroma_source, sqlite_source, storing
from tests.capture.processes import ROOT, at_work_on, command, descendants, is_running, run, stop, until
from tests.capture.states import integrity

PACKED = ("archive-write", "archive-sync")
"""Steps of the packer, a child: its death is an error of the command, not its end."""

STEPS = [
    *("archive-write@1", "archive-sync@1"),
    *("write@1", "sync@1", "rename@1"),  # the manifest
    *("write@2", "sync@2", "rename@2"),  # the checksums
    *("publish@1", "published@1"),
    *("write@3", "sync@3", "rename@3"),  # the proof
]


OTHERS = {"restore-write", "journal", "arrive"}
"""Steps of restores, besides the ones named ``in-place...``, of signed repositories (tests/trust) and copies (tests/copies)."""


def test_every_step_of_a_create_is_tested_here() -> None:
    known = {step.partition("@")[0] for step in STEPS} | OTHERS
    code = "".join(path.read_text() for path in (ROOT / "backups/engine").rglob("*.py"))
    found = set(re.findall(r'\breach\("([a-z-]+)"\)', code))
    assert {step for step in found if not step.startswith("in-place")} == known


def create(bench: Bench, stores: Stores, *more: str) -> tuple[str | Path, ...]:
    sources = ("--sqlite", stores.database, "--chroma", stores.chroma)
    return ("create", "--repo", bench.repository.folder, "--kind", "incremental", "--verify", "hashes", *sources, *more)


@pytest.fixture
def begun(bench: Bench, stores: Stores) -> list[str]:
    """A first backup, and a change since."""
    bench.create(sqlite_source(stores.database), chroma_source(stores.chroma, "chroma"))
    (stores.chroma / "a-file-beside").write_bytes(os.urandom(700_000))
    return bench.ids()


def is_free(path: Path) -> bool:
    """Whether nobody holds up the writers of a database."""
    database = sqlite3.connect(path, isolation_level=None, timeout=0)
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        database.close()
    return True


def check_after(bench: Bench, stores: Stores, before: list[str], *, published: bool) -> None:
    """Nothing half-made, nobody at work, no lock left, and the next run says what it cleared and succeeds."""
    assert bench.ids()[len(bench.ids()) - len(before) :] == before
    assert len(bench.ids()) == len(before) + published
    until(lambda: not at_work_on(bench.folder), what="the end of all children")
    assert all(proof.ok for proof in verify_many(bench.repository, bench.repository.backups(), Depth.HASHES, Context()))
    for path in (stores.database, stores.chroma / "chroma.sqlite3"):
        assert is_free(path)
    debris = not bench.is_clear()
    following = run(*create(bench, stores))
    assert following.code == 0, following
    assert debris == bool([line for line in following.json["log"] if "an interrupted run left" in line])
    assert bench.is_clear()
    assert len(bench.ids()) == len(before) + published + 1


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step(bench: Bench, stores: Stores, begun: list[str], step: str) -> None:
    ended = run(*create(bench, stores), more={"REFBACKUP_FAULT": f"{step}:kill"})

    if step.startswith(PACKED):
        assert ended.code == 1
        assert "packer" in ended.error["message"]
        assert "SIGKILL" in ended.error["message"]
        assert bench.is_clear()
    else:
        assert ended.code == -signal.SIGKILL, "the step was not reached"
    published = step in STEPS[STEPS.index("published@1") :]
    check_after(bench, stores, begun, published=published)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_at_a_step(bench: Bench, stores: Stores, begun: list[str], step: str) -> None:
    ended = run(*create(bench, stores), more={"REFBACKUP_FAULT": f"{step}:full"})

    assert ended.code == 8, ended
    assert ended.error["code"] == "no_space"
    assert bench.is_clear()
    check_after(bench, stores, begun, published=step in STEPS[STEPS.index("published@1") :])


@pytest.mark.slow
@pytest.mark.parametrize("limit", [40_000, 200_000])
def test_a_file_size_limit_on_the_archive(bench: Bench, stores: Stores, begun: list[str], limit: int) -> None:
    """A limit of the kernel's on the size of files, as a quota is: the write itself fails."""

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = run(*create(bench, stores), preexec_fn=restrict)

    assert ended.code == 8, ended
    check_after(bench, stores, begun, published=False)


def test_a_file_size_limit_on_a_copy_through_sqlite(bench: Bench, tmp_path: Path) -> None:
    path = accounts(tmp_path / "app.sqlite3", wal=False, padding=500)

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    ended = run("create", "--repo", bench.repository.folder, "--sqlite", path, preexec_fn=restrict)
    assert ended.code == 8, ended
    assert bench.is_clear()
    assert integrity(path) == "ok"


@pytest.mark.parametrize("module", ["holder", "packer"])
@pytest.mark.parametrize("moment", ["at the start", "while storing"])
@pytest.mark.slow
def test_a_killed_child(bench: Bench, large: Path, module: str, moment: str) -> None:
    with command("create", "--repo", bench.repository.folder, "--verify", "none", "--sqlite", large) as backup:
        packer = storing(bench, backup) if moment == "while storing" else backup.child("packer")
        os.kill(backup.child(module), signal.SIGKILL)
        if module == "holder" and moment == "while storing":
            os.kill(packer, signal.SIGCONT)
        ended = backup.end()
    assert ended.code == 1, ended
    assert f"The {module} process was killed by SIGKILL" in ended.error["message"]
    assert bench.ids() == []
    assert bench.is_clear()
    assert not at_work_on(bench.folder)
    assert is_free(large)


# Cancelling


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.slow
def test_cancelled_by_a_signal(bench: Bench, large: Path, number: int, whole_group: bool) -> None:
    """One process gets it, or all of its group, as with Ctrl-C on a terminal and from service managers."""
    with command(
        "create", "--repo", bench.repository.folder, "--verify", "none", "--sqlite", large, start_new_session=True
    ) as backup:
        packer = storing(bench, backup)
        children = [pid for pid, _ in descendants(backup.pid)]
        assert len(children) == 2
        began = time.monotonic()
        if whole_group:
            os.killpg(backup.pid, number)
        else:
            os.kill(backup.pid, number)
        os.kill(packer, signal.SIGCONT)
        ended = backup.end()
        assert time.monotonic() - began < 20
    assert ended.code == 9, ended
    assert ended.error["code"] == "cancelled"
    assert bench.ids() == []
    assert bench.is_clear()
    assert not any(is_running(pid) for pid in children)
    assert is_free(large)


@pytest.mark.parametrize("signalled", ["holder", "packer"])
@pytest.mark.slow
def test_a_signal_to_the_process_group_is_handled_by_the_parent(bench: Bench, large: Path, signalled: str) -> None:
    """A service manager signals each process of a service on its own; children leave the answer to their parent."""
    with command("create", "--repo", bench.repository.folder, "--verify", "none", "--sqlite", large) as backup:
        packer = storing(bench, backup)
        os.kill(backup.child(signalled), signal.SIGTERM)
        os.kill(backup.pid, signal.SIGTERM)
        os.kill(packer, signal.SIGCONT)
        assert backup.end().code == 9
    assert bench.is_clear()


@pytest.mark.slow
def test_cancelled_while_waiting_for_a_lock(bench: Bench, stores: Stores, peer: Start) -> None:
    peer("hold", stores.database)
    with command("create", "--repo", bench.repository.folder, "--sqlite", stores.database) as backup:
        backup.child("holder")
        until(lambda: list(bench.repository.staging.glob("*/scratch")))
        began = time.monotonic()
        os.kill(backup.pid, signal.SIGTERM)
        assert backup.end().code == 9
        assert time.monotonic() - began < 20
    assert bench.is_clear()


@pytest.mark.slow
def test_children_end_with_their_parent(bench: Bench, large: Path) -> None:
    with command("create", "--repo", bench.repository.folder, "--sqlite", large) as backup:
        packer = storing(bench, backup)
        children = [pid for pid, _ in descendants(backup.pid)]
        assert len(children) == 2
        backup.process.kill()
        backup.process.wait()
        os.kill(packer, signal.SIGCONT)
    until(lambda: not any(is_running(pid) for pid in children), within=5, what="the end of the children")
    assert bench.ids() == []
    ended = run("create", "--repo", bench.repository.folder, "--verify", "none", "--sqlite", large)
    assert ended.code == 0
    assert [line for line in ended.json["log"] if "an interrupted run left" in line]
    assert bench.is_clear()


@pytest.mark.slow
def test_folders_that_another_process_uses_are_not_debris(bench: Bench, stores: Stores) -> None:
    """A restore made for verification by a process that lives is left alone; that of a dead one is cleared."""
    bench.create(*stores.sources)
    bench.repository.scratch.mkdir(exist_ok=True)
    alive, dead = bench.repository.scratch / f"{os.getpid()}.abc", bench.repository.scratch / "4194305.abc"
    for folder in (alive, dead):
        folder.mkdir()
    bench.create(*stores.sources, kind="incremental")
    assert alive.exists()
    assert not dead.exists()
    shutil.rmtree(alive)


@pytest.mark.slow
def test_faults_can_be_injected_in_process(bench: Bench, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw, between staging and publishing, leaves nothing either."""

    class Unforeseen(Exception):
        pass

    def fail() -> None:
        raise Unforeseen

    monkeypatch.setitem(durable.FAULTS, "publish", fail)
    with pytest.raises(Unforeseen):
        bench.create(*stores.sources)
    assert bench.is_clear()
    assert bench.ids() == []


@pytest.mark.slow
def test_stopped_children_do_not_outlive_a_cancelled_command(bench: Bench, stores: Stores) -> None:
    with command("create", "--repo", bench.repository.folder, "--sqlite", stores.database) as backup:
        packer = backup.child("packer")
        stop(packer)
        os.kill(backup.pid, signal.SIGTERM)
        assert backup.end(10).code == 9
        assert not is_running(packer)
