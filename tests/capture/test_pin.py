"""Pinning SQLite: the file is read in place while writers go on, and where that cannot be, the content is right as well."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backups.engine.capture.directory import Directory
from backups.engine.errors import SourceBroken, SourceBusy, UsageError
from tests.capture.conftest import Bench, Start, Stores, accounts, sqlite_source, storing
from tests.capture.peers import ACCOUNTS, EACH
from tests.capture.processes import Peer, command, environment, run
from tests.capture.states import integrity


def balance(path: Path) -> tuple[int, int]:
    """The sum over all accounts, which every transfer conserves, and the number of the last transfer."""
    assert integrity(path) == "ok"
    database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        (total,) = database.execute("SELECT sum(amount) FROM account").fetchone()
        (last,) = database.execute("SELECT coalesce(max(id), 0) FROM transfer").fetchone()
    finally:
        database.close()
    return total, last


def captured(bench: Bench, path: Path, **options: str) -> tuple[str, Path]:
    """Back up one database; the method, and the restored file."""
    created = bench.create(sqlite_source(path), **options)
    assert not created.backup.damaged
    return created.backup.manifest.sources[0].method, bench.restore(created.backup) / "sqlite/app.sqlite3"


@pytest.mark.slow
def test_writers_do_not_wait_for_the_schema(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "app.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        for number in range(4_000):
            database.execute(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, a TEXT, b REFERENCES t0 (id))")
        database.execute("COMMIT")
    began = time.monotonic()
    with closing(sqlite3.connect(path)) as database:
        database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    parsing = (time.monotonic() - began) * 1000
    pauses = [bench.create(sqlite_source(path)).backup.manifest.pause_ms.sqlite for _ in range(2)]
    assert min(pauses) < parsing / 3, (pauses, parsing)


def recreate(path: Path) -> None:
    for old in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
        old.unlink(missing_ok=True)
    accounts(path)


def overwrite(path: Path) -> None:
    path.write_bytes(path.read_bytes())


@pytest.mark.parametrize("change", [recreate, overwrite, Path.unlink], ids=["recreated", "overwritten", "deleted"])
@pytest.mark.slow
def test_a_database_replaced_while_another_is_stored_fails_the_backup(
    bench: Bench, large: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    path = accounts(tmp_path / "app.sqlite3")
    arguments = ["--verify", "none", "--sqlite", f"first={large}", "--sqlite", f"second={path}"]
    with command("create", "--repo", bench.repository.folder, *arguments) as backup:
        packer = storing(bench, backup)
        change(path)
        os.kill(packer, signal.SIGCONT)
        ended = backup.end()
    assert ended.code == 6, ended
    assert f"{path} was replaced" in ended.error["message"]
    assert bench.ids() == [] and bench.is_clear()


@pytest.mark.slow
def test_a_chroma_database_replaced_while_it_is_locked_is_noticed(stores: Stores) -> None:
    directory = Directory("vectors", stores.chroma)
    directory.connect()
    try:
        assert directory.lock(1)
        directory.check_same()
        recreate(stores.chroma / "chroma.sqlite3")
        with pytest.raises(SourceBusy, match="was replaced"):
            directory.check_same()
    finally:
        directory.release()


def test_the_log_of_a_broken_database_behind_a_link_is_kept(bench: Bench, tmp_path: Path) -> None:
    real = accounts(tmp_path / "real.sqlite3")
    real.write_bytes(real.read_bytes()[:100] + b"\xa5" * 8000)
    real.with_name("real.sqlite3-wal").write_bytes(b"log" * 100)
    (tmp_path / "link.sqlite3").symlink_to(real)
    created = bench.create(sqlite_source(tmp_path / "link.sqlite3")).backup
    assert created.manifest.sources[0].method == "raw"
    assert (bench.restore(created) / "sqlite/app.sqlite3-wal").read_bytes() == b"log" * 100


def test_two_names_of_one_database_are_refused_by_name(bench: Bench, tmp_path: Path) -> None:
    one = accounts(tmp_path / "one.sqlite3")
    (tmp_path / "two.sqlite3").hardlink_to(one)
    with pytest.raises(UsageError, match=r"one\.sqlite3 and .*two\.sqlite3 are two names of one file"):
        bench.create(sqlite_source(one), sqlite_source(tmp_path / "two.sqlite3", "other"))


@pytest.mark.slow
def test_the_sum_is_conserved_under_two_writers(bench: Bench, peer: Start, tmp_path: Path, soak: int) -> None:
    path = accounts(tmp_path / "app.sqlite3", padding=500)
    writers = [peer("transfer", path, seed) for seed in "ab"]
    seen, methods = [], []

    for number in range(15 * soak):
        created = bench.create(sqlite_source(path), kind="incremental" if number else "full")
        methods.append(created.backup.manifest.sources[0].method)
        assert created.backup.manifest.pause_ms.sqlite < 1000
        folder = bench.restore(created.backup)
        total, last = balance(folder / "sqlite/app.sqlite3")
        assert total == ACCOUNTS * EACH
        seen.append(last)
        shutil.rmtree(folder)

    assert seen == sorted(seen)
    assert len(set(seen)) > 10 * soak, "the writers stood still"
    assert methods.count("pinned") > 10 * soak
    for writer in writers:
        writer.end()


@pytest.mark.slow
def test_writes_during_the_reading_are_not_in_the_backup(bench: Bench, large: Path) -> None:
    """The packer is stopped in the middle of the file; no checkpoint reaches the rest of it until the backup has ended."""
    database = sqlite3.connect(large, isolation_level=None, timeout=0)
    with command("create", "--repo", bench.repository.folder, "--verify", "restore", "--sqlite", f"app={large}") as backup:
        packer = storing(bench, backup)
        database.execute("UPDATE account SET amount = amount + 1")
        database.execute("UPDATE padding SET text = randomblob(1000) WHERE id % 40 = 0")
        database.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 1, "a checkpoint went through"
        os.kill(packer, signal.SIGCONT)
        ended = backup.end()
    assert database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    database.execute("UPDATE account SET amount = amount - 1")
    database.close()
    assert ended.code == 0, ended
    assert ended.json["sources"][0]["method"] == "pinned"
    restored = bench.restore(bench.repository.find(ended.json["id"], None))
    assert balance(restored / "sqlite/app.sqlite3")[0] == ACCOUNTS * EACH


def test_an_old_reader_causes_a_copy_and_the_log_says_so(bench: Bench, peer: Start, tmp_path: Path) -> None:
    path = accounts(tmp_path / "app.sqlite3")
    keeper = sqlite3.connect(path, isolation_level=None)
    keeper.execute("INSERT INTO transfer (amount) VALUES (1)")
    peer("read", path)
    keeper.execute("INSERT INTO transfer (amount) VALUES (2)")
    keeper.execute("UPDATE account SET amount = amount - 7 WHERE id = 0")
    keeper.execute("UPDATE account SET amount = amount + 7 WHERE id = 1")

    method, restored = captured(bench, path)

    keeper.close()
    assert method == "online"
    assert [line for line in bench.lines if "not read in place but copied (online)" in line and "old reader" in line]
    assert balance(restored) == (ACCOUNTS * EACH, 2)


@pytest.mark.slow
def test_an_old_reader_and_a_writer_at_once(bench: Bench, peer: Start, tmp_path: Path) -> None:
    path = accounts(tmp_path / "app.sqlite3", padding=2000)
    writer = peer("transfer", path, "a")
    peer("read", path)
    seen = set()
    for _ in range(5):
        method, restored = captured(bench, path)
        assert method == "online"
        total, last = balance(restored)
        assert total == ACCOUNTS * EACH
        seen.add(last)
    assert len(seen) == 5
    writer.end()


def test_rollback_journal_mode_is_copied(bench: Bench, tmp_path: Path) -> None:
    path = accounts(tmp_path / "app.sqlite3", wal=False)
    method, restored = captured(bench, path, verify="restore")
    assert method == "online"
    assert [line for line in bench.lines if "rollback-journal mode" in line]
    assert balance(restored) == (ACCOUNTS * EACH, 0)


@pytest.mark.slow
@pytest.mark.parametrize("padding", [100, 24_000], ids=["in one step", "in several steps"])
def test_rollback_journal_mode_under_a_writer(bench: Bench, peer: Start, tmp_path: Path, padding: int) -> None:
    path = accounts(tmp_path / "app.sqlite3", wal=False, padding=padding)
    writer = peer("transfer", path, "a")
    for number in range(3):
        created = bench.create(sqlite_source(path), kind="incremental" if number else "full")
        assert created.seconds < 15
        assert created.backup.manifest.sources[0].method == "online"
        folder = bench.restore(created.backup)
        assert balance(folder / "sqlite/app.sqlite3")[0] == ACCOUNTS * EACH
        shutil.rmtree(folder)
    assert writer.end()["count"] > 50


def test_commits_in_the_log_of_a_killed_writer_are_captured(bench: Bench, peer: Start, tmp_path: Path) -> None:
    path = accounts(tmp_path / "app.sqlite3")
    writer = peer("transfer", path, "a")
    writer.kill()
    log = path.with_name(path.name + "-wal")
    assert log.stat().st_size > 0, "the log is cold: this would prove nothing"

    method, restored = captured(bench, path)

    assert method == "pinned"
    total, last = balance(restored)
    assert total == ACCOUNTS * EACH
    assert last >= 49


def test_a_killed_writer_in_rollback_journal_mode(bench: Bench, tmp_path: Path) -> None:
    """A hot journal is rolled back before the copy, as by any application that opens the file next."""
    path = accounts(tmp_path / "app.sqlite3", wal=False, padding=50)
    code = (
        "import sqlite3, os, signal, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "d.execute('PRAGMA cache_size = 2'); d.execute('PRAGMA cache_spill = 1'); d.execute('BEGIN IMMEDIATE');"
        "d.execute('UPDATE account SET amount = amount + 1'); d.execute('UPDATE padding SET text = randomblob(3000)');"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -9
    assert path.with_name(path.name + "-journal").stat().st_size > 0

    method, restored = captured(bench, path)

    assert method == "online"
    assert balance(restored) == (ACCOUNTS * EACH, 0)


@pytest.mark.parametrize("wal", [True, False])
def test_an_empty_database(bench: Bench, tmp_path: Path, wal: bool) -> None:
    path = tmp_path / "app.sqlite3"
    path.touch()
    if wal:
        database = sqlite3.connect(path)
        database.execute("PRAGMA journal_mode = WAL")
        database.close()
    _, restored = captured(bench, path, verify="restore")
    assert restored.exists()
    assert integrity(restored) == "ok"


@pytest.mark.parametrize("name", ["with space.db", "größe ✓.db", "what?#frag%41.db", "semi;colon&amp=1.db"])
@pytest.mark.parametrize("wal", [True, False])
def test_any_path_is_accepted(bench: Bench, tmp_path: Path, name: str, wal: bool) -> None:
    folder = tmp_path / "a folder? #1"
    folder.mkdir()
    path = accounts(folder / name, wal=wal)
    _, restored = captured(bench, path)
    assert balance(restored)[0] == ACCOUNTS * EACH
    assert sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(("-wal", "-shm"))) == [name]


def test_other_page_sizes(bench: Bench, tmp_path: Path) -> None:
    for size in (512, 65536):
        path = accounts(tmp_path / f"{size}.sqlite3", page_size=size, padding=20)
        method, restored = captured(bench, path)
        assert method == "pinned"
        assert balance(restored)[0] == ACCOUNTS * EACH


READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77; shift; exec "$@"'


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite in WAL mode", "sqlite in rollback mode", "chroma"])
def test_a_read_only_database_is_refused(bench: Bench, stores: Stores, tmp_path: Path, kind: str) -> None:
    """SQLite takes no lock on a file that it may only read, and says nothing: a backup would not hold writers up."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    path = accounts(folder / "app.sqlite3", wal="WAL" in kind)
    if kind == "chroma":
        path = Path(shutil.copytree(stores.chroma, folder / "chroma"))
    source = f"--{kind.split()[0]}"
    begun = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", folder, sys.executable, "-m", "backups.engine", "create"]
    ended = subprocess.run(
        [*begun, "--repo", bench.repository.folder, source, path, "--json"],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if not ended.stdout:
        pytest.skip(f"this machine does not allow read-only mounts in a namespace: {ended.stderr.strip()}")
    assert ended.returncode == 6, ended
    error = json.loads(ended.stdout)["error"]
    assert "is not writable" in error["message"]
    assert str(path) in error["message"]
    assert bench.ids() == []


def test_a_missing_file_makes_no_backup(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(SourceBroken, match="does not exist"):
        bench.create(sqlite_source(tmp_path / "absent.sqlite3"))
    assert bench.ids() == []


# Broken sources


def test_a_file_that_is_not_a_database_is_kept_raw_and_marked_damaged(bench: Bench, tmp_path: Path) -> None:
    path = accounts(tmp_path / "app.sqlite3")
    good = bench.create(sqlite_source(path)).backup.id
    path.write_bytes(b"not a database, and that for many bytes " * 400)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)

    ended = run("create", "--repo", bench.repository.folder, "--sqlite", f"app={path}", "--verify", "restore")

    assert ended.code == 6
    assert ended.json["verification"] == "damaged"
    assert ended.json["sources"][0]["method"] == "raw"
    assert ended.json["problems"][0]["code"] == "sqlite_integrity"
    assert bench.latest() == good
    raw = bench.restore(bench.repository.find(ended.json["id"], None))
    assert (raw / "sqlite/app.sqlite3").read_bytes() == path.read_bytes()


def damage_a_page(path: Path) -> None:
    """Overwrite the content of a table's page in the middle of the file."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(os.urandom(4096))


@pytest.mark.slow
def test_a_corrupt_page_is_found_named_and_skipped(bench: Bench, tmp_path: Path) -> None:
    path = accounts(tmp_path / "app.sqlite3", padding=1000)
    good = bench.create(sqlite_source(path), verify="restore").backup
    assert good.verification == "restore"
    damage_a_page(path)

    ended = run("create", "--repo", bench.repository.folder, "--sqlite", f"app={path}", "--verify", "restore")

    assert ended.code == 6
    assert ended.json["sources"][0]["method"] == "pinned"
    problem = ended.json["problems"][0]
    assert problem["code"] == "sqlite_integrity"
    assert problem["file"] == "sqlite/app.sqlite3"
    assert "page" in problem["message"] or "malformed" in problem["message"]
    assert ended.json["id"] in bench.ids()
    assert bench.latest() == good.id
    following = bench.create(sqlite_source(path), kind="incremental").backup
    assert following.manifest.parent == good.id


@pytest.mark.parametrize("size", [50, 100, 2048, 4096])
@pytest.mark.slow
def test_a_truncated_database(bench: Bench, tmp_path: Path, size: int) -> None:
    """However little is left of a database, the backup is either refused or known as damaged; nothing hangs or crashes."""
    path = accounts(tmp_path / "app.sqlite3", padding=200)
    with path.open("r+b") as file:
        file.truncate(size)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    ended = run("create", "--repo", bench.repository.folder, "--sqlite", f"app={path}", "--verify", "restore")
    assert ended.code == 6, ended


def test_peers_end(peer: Start, tmp_path: Path) -> None:
    """The peers of these tests end when they are told to: no test leaves one behind."""
    started: Peer = peer("read", accounts(tmp_path / "app.sqlite3"))
    started.end()
    assert started.process.returncode == 0
