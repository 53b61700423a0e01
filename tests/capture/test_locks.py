"""Locks: those of a caller survive, those of others are respected and named, and none of a backup's outlives it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from backups.engine.errors import RepositoryLocked, SourceBusy
from tests.capture.conftest import Bench, Start, Stores, accounts, files_source, sqlite_source, storing
from tests.capture.processes import command, descendants, run, stop, until


@pytest.mark.slow
def test_a_caller_keeps_its_locks(bench: Bench, stores: Stores, peer: Start, tmp_path: Path) -> None:
    """The POSIX trap: closing any descriptor of a file drops all locks that the process holds on it."""
    other = peer("try")
    folder = tmp_path / "papers"
    folder.mkdir()
    locked = folder / "locked.txt"
    locked.write_text("content")
    inside = accounts(folder / "inside.sqlite3")
    mine = sqlite3.connect(inside, isolation_level=None)
    mine.execute("BEGIN IMMEDIATE")
    mine.execute("UPDATE account SET amount = 0 WHERE id = 0")
    reading = sqlite3.connect(stores.database, isolation_level=None)
    reading.execute("BEGIN")
    (before,) = reading.execute("SELECT batches FROM total").fetchone()
    with locked.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert not other.ask(f"fcntl {locked}")["free"]
        assert not other.ask(f"begin {inside}")["free"]

        created = bench.create(*stores.sources, files_source(folder), verify="restore")

        assert created.backup.verification == "restore"
        assert not other.ask(f"fcntl {locked}")["free"], "the lock on a file was dropped"
        assert not other.ask(f"begin {inside}")["free"], "the lock on a database was dropped"
        assert other.ask(f"begin {stores.database}")["free"]
        assert reading.execute("SELECT batches FROM total").fetchone() == (before,)
    mine.execute("COMMIT")
    mine.close()
    reading.close()


def test_a_caller_keeps_its_lock_on_a_database_that_it_backs_up(bench: Bench, peer: Start, tmp_path: Path) -> None:
    """The caller's read transaction keeps what it sees: with its lock dropped, another process could reset the log."""
    path = accounts(tmp_path / "app.sqlite3")
    mine = sqlite3.connect(path, isolation_level=None)
    mine.execute("BEGIN")
    mine.execute("SELECT count(*) FROM account").fetchone()
    writer, other = peer("transfer", path, "a"), peer("try")
    writer.end()
    assert not other.ask(f"checkpoint {path}")["free"]

    bench.create(sqlite_source(path), within=1)

    assert not other.ask(f"checkpoint {path}")["free"], "the caller's read lock was dropped"
    assert mine.execute("SELECT count(*) FROM transfer").fetchone() == (0,)
    mine.execute("COMMIT")
    mine.close()
    assert other.ask(f"checkpoint {path}")["free"]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["sqlite", "chroma"])
def test_a_lock_held_too_long_is_named_and_leaves_no_writer_blocked(
    bench: Bench, stores: Stores, peer: Start, which: str
) -> None:
    path = stores.database if which == "sqlite" else stores.chroma / "chroma.sqlite3"
    holder, other = peer("hold", path), peer("try")

    began = time.monotonic()
    ended = run(
        "create", "--repo", bench.repository.folder, "--within", "1",
        "--sqlite", stores.database, "--chroma", stores.chroma,
    )  # fmt: skip

    assert ended.code == 6
    assert ended.error["code"] == "source_busy"
    assert f"process {holder.pid}" in ended.error["message"]
    assert time.monotonic() - began < 30
    assert bench.ids() == []
    assert bench.is_clear()
    for free in {stores.database, stores.chroma / "chroma.sqlite3"} - {path}:
        assert other.ask(f"begin {free}")["free"]
    holder.end()
    assert other.ask(f"begin {path}")["free"]
    assert not bench.create(*stores.sources).backup.damaged


@pytest.mark.slow
def test_readers_of_a_locked_database_wait_for_a_commit(bench: Bench, stores: Stores, peer: Start) -> None:
    """Chroma's file is locked exclusively for the moment of each commit: that makes a backup wait, not fail."""
    holder = peer("exclusive", stores.chroma / "chroma.sqlite3")
    with command(
        "create", "--repo", bench.repository.folder, "--verify", "none", "--chroma", stores.chroma, "--within", "20"
    ) as backup:
        backup.child("holder")
        until(lambda: has_open(backup.child("holder"), stores.chroma / "chroma.sqlite3"), what="the holder's connection")
        holder.end()
        ended = backup.end()
    assert ended.code == 0, ended
    assert ended.json["sources"][0]["problems"] == []


def has_open(pid: int, path: Path) -> bool:
    try:
        return any(os.readlink(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


@pytest.mark.slow
def test_a_gate_that_stays_closed_is_reported(bench: Bench, stores: Stores) -> None:
    from backups.engine.gate import Gate

    with Gate(stores.chroma).exclusive(), pytest.raises(SourceBusy):
        bench.create(*stores.sources, within=0.5)
    assert not bench.create(*stores.sources, within=0.5).backup.damaged


@pytest.mark.slow
def test_a_process_killed_while_it_holds_the_gate_leaves_it_open(bench: Bench, stores: Stores, peer: Start) -> None:
    reader = peer("shared", stores.chroma)
    stop(reader.pid)
    reader.kill()
    assert not bench.create(*stores.sources, within=2).backup.damaged


# The repository's lock


@pytest.mark.slow
def test_of_two_creates_one_wins_and_the_other_names_the_winner(bench: Bench, stores: Stores) -> None:
    arguments = ("create", "--repo", bench.repository.folder, "--verify", "none", "--sqlite", stores.database)
    with command(*arguments, "--chroma", stores.chroma) as first:
        stop(first.child("packer"))
        refused = run(*arguments)
        assert refused.code == 7
        assert refused.error["code"] == "repository_locked"
        assert f"process {first.pid} " in refused.error["message"]
        assert "create (full)" in refused.error["message"]
        with command(*arguments, "--wait", "30") as second:
            os.kill(first.child("packer"), signal.SIGCONT)
            assert first.end().code == 0
            assert second.end().code == 0
    assert len(bench.ids()) == 2


@pytest.mark.slow
def test_a_killed_process_holds_no_lock(bench: Bench, stores: Stores) -> None:
    with command("create", "--repo", bench.repository.folder, "--sqlite", stores.database) as first:
        stop(first.child("packer"))
        children = [pid for pid, _ in descendants(first.pid)]
        with pytest.raises(RepositoryLocked):
            bench.create(sqlite_source(stores.database))
        first.process.kill()
        first.process.wait()
        assert not bench.create(sqlite_source(stores.database)).backup.damaged
    for pid in children:
        with contextlib.suppress(ProcessLookupError):  # the kernel may have ended it: its group lost its parent
            os.kill(pid, signal.SIGCONT)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), what="the end of the children")


@pytest.mark.slow
def test_neither_the_reading_process_nor_the_command_has_a_connection(bench: Bench, large: Path) -> None:
    with command("create", "--repo", bench.repository.folder, "--verify", "none", "--sqlite", large) as backup:
        packer = storing(bench, backup)
        assert has_open(packer, large), "it reads the file in place"
        assert not has_open(packer, large.with_name(large.name + "-shm"))
        assert has_open(backup.child("holder"), large.with_name(large.name + "-shm"))
        assert not has_open(backup.pid, large)
        os.kill(packer, signal.SIGCONT)
        assert backup.end().code == 0


@pytest.mark.slow
def test_progress_events_are_json_lines(bench: Bench, stores: Stores) -> None:
    ended = run("create", "--repo", bench.repository.folder, "--sqlite", stores.database, "--progress", "json")
    events = [json.loads(line) for line in ended.text.splitlines()]
    assert {event["event"] for event in events} == {"progress", "log"}
    assert [event for event in events if event["event"] == "progress" and event["phase"] == "store" and event["finished"]]
