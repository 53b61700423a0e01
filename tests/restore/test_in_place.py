"""Restores in place: a running application sees either its old data or the new data, and no errors."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backups.engine.doctor import diagnose
from backups.engine.errors import DamageFound, EngineError, RestoreIncomplete, RestoreRefused, RestoreUndone
from backups.engine.gate import Gate
from backups.engine.restore.commands import Commands
from backups.engine.restore.dry_run import plan_in_place
from backups.engine.restore.ending import finish_exchange
from backups.engine.restore.exchange import swap
from backups.engine.restore.in_place import restore_in_place
from backups.engine.restore.to_folder import Restored, restore_to
from backups.engine.runtime import durable
from backups.engine.types import Source, SourceKind
from backups.engine.unfinished import STAGE, unfinished_exchange
from tests.restore.stores import (
    Chroma,
    History,
    Live,
    back_up,
    change_rows,
    context,
    make_database,
    python,
    refbackup,
    rows_of,
    tags_of,
    tree_of,
    verified,
)

OLD = {"first"}
"""Tags of the rows in backup 0; the live database has others as well."""


class Scene:
    """An application at work, and a repository with backups of earlier states."""

    def __init__(self, history: History, repository: History, live: Live) -> None:
        self.history = history
        self.repository = repository.repository
        self.live = live
        self.backup = repository.backup(0)
        change_rows(live.database, "later", [1, 2000, 4000])

    def restore(self, only: str | None = "sqlite", **more: Any) -> Restored:
        more.setdefault("wait", 10.0)
        return restore_in_place(self.repository, self.backup, self.live.sources, context(), only=only, **more)

    def rows(self) -> list[Any]:
        return rows_of(self.live.database)

    def restored(self, kind: str) -> Any:
        """What a store must be after the restore."""
        expected = self.history.expected(0)
        if kind == "sqlite":
            return rows_of(expected / "sqlite/app.sqlite3", immutable=True)
        return tree_of(expected / ("chroma/vectors" if kind == "chroma" else "files/papers"))

    def now(self, kind: str) -> Any:
        """What a store is."""
        if kind == "sqlite":
            return self.rows()
        return tree_of(self.live.chroma if kind == "chroma" else self.live.files)

    def leftovers(self) -> list[str]:
        return [path.name for path in self.live.folder.iterdir() if path.name.startswith(STAGE)]

    def safety(self) -> Any:
        """The newest safety backup, loaded."""
        (found,) = [item for item in self.repository.backups("default") if item.manifest.safety][:1]
        return found


@pytest.fixture
def scene(history: History, mine: History, tmp_path: Path) -> Scene:
    return Scene(history, mine, history.live.copy(tmp_path / "live"))


WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
print("ready", flush=True)
done = 0
try:
    for line in sys.stdin:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE counter SET value = value + 1")
        database.execute("INSERT OR REPLACE INTO item VALUES (100000, 'writer', hex(randomblob(300)))")
        database.execute("COMMIT")
        done += 1
        if done == 1: print("done", flush=True)
    print(done, database.execute("SELECT count(*) FROM item WHERE tag LIKE 'later'").fetchone()[0])
except sqlite3.Error as problem:
    print("error", problem)
"""
TAGS = "SELECT group_concat(tag) FROM (SELECT DISTINCT tag FROM item WHERE tag != 'writer' ORDER BY tag)"
READER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
def look(): print(database.execute(sys.argv[2]).fetchone()[0], flush=True)
database.execute("BEGIN")
look()
sys.stdin.readline()
look()
database.execute("COMMIT")
look()
sys.stdin.readline()
"""
WATCHER = """
import sqlite3, sys, threading
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
print("ready", flush=True)
seen = []
while not stop.is_set():
    found = database.execute(sys.argv[2]).fetchone()[0]
    if found not in seen: seen.append(found)
print("|".join(seen))
"""


def ask(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def tell(child: subprocess.Popen[str], times: int = 1) -> None:
    assert child.stdin is not None
    child.stdin.write("go on\n" * times)
    child.stdin.flush()


def end(child: subprocess.Popen[str]) -> str:
    said, _ = child.communicate(timeout=60)
    return said.strip()


@pytest.mark.slow
def test_writers_and_readers_see_either_old_or_new_rows_without_errors(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ",".join(sorted(tags_of(scene.live.database)))
    assert before == "change-1,change-2,change-3,first,later"
    with (
        python(WRITER, scene.live.database) as writer,
        python(READER, scene.live.database, TAGS) as reader,
        python(WATCHER, scene.live.database, TAGS) as watcher,
        closing(sqlite3.connect(scene.live.database, timeout=10)) as mine,
    ):
        assert (ask(writer), ask(watcher), ask(reader)) == ("ready", "ready", before)
        assert mine.execute("SELECT count(*) FROM item WHERE tag = 'later'").fetchone() == (3,)
        tell(writer)
        assert ask(writer) == "done"
        monkeypatch.setitem(durable.FAULTS, "in-place-locked", lambda: tell(writer, 20))
        restored = scene.restore()
        assert mine.execute("SELECT count(*) FROM item WHERE tag = 'later'").fetchone() == (0,)
        tell(reader)
        assert ask(reader) == before, "an old reader keeps its snapshot"
        assert ask(reader) == "first", "and then sees the new rows"
        done, later = end(writer).split()
        assert (done, later) == ("21", "0"), "writers wait for the restore, and go on with the new rows"
        assert end(watcher).split("|") == [before, "first"]
    mine_now = [row for row in scene.rows() if row[1] != "writer"]
    assert mine_now == scene.restored("sqlite")
    assert scene.leftovers() == []
    with closing(sqlite3.connect(scene.live.database)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert restored.checks["safety_backup"] == scene.safety().id


def test_the_safety_backup_is_held_and_is_not_the_latest(scene: Scene, tmp_path: Path) -> None:
    before = scene.rows()
    scene.restore()
    safety = scene.safety()
    assert safety.hold is not None and scene.backup.id in safety.hold.note
    assert scene.repository.find("latest", None).id == scene.history.ids[3]
    assert scene.repository.find("latest:incremental", None).id == scene.history.ids[3]
    assert scene.repository.ids("default")[0] == safety.id
    restore_to(scene.repository, safety, tmp_path / "back", context())
    assert rows_of(tmp_path / "back/sqlite/app.sqlite3") == before
    restore_in_place(scene.repository, safety, scene.live.sources, context(), only="sqlite")
    assert scene.rows() == before, "and it undoes the restore"


def test_a_log_left_beside_a_missing_database_is_not_replayed(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.live.database, isolation_level=None)) as database:
        database.execute("PRAGMA wal_autocheckpoint = 0")
        database.execute("INSERT INTO item VALUES (5000, 'in the log', 'x')")
        log = Path(f"{scene.live.database}-wal").read_bytes()
        assert len(log) > 4096
    for path in scene.live.folder.glob("app.sqlite3*"):
        path.unlink()
    Path(f"{scene.live.database}-wal").write_bytes(log)
    restored = scene.restore()
    assert scene.rows() == scene.restored("sqlite") and restored.checks["safety_backup"] == ""
    (kept,) = scene.live.folder.glob("app.sqlite3-wal.before-*")
    assert kept.read_bytes() == log, "no backup holds it"
    # the planted log would have been replayed: this is what happens without care
    shutil.copy(scene.history.expected(0) / "sqlite/app.sqlite3", scene.live.folder / "naive.sqlite3")
    Path(f"{scene.live.folder}/naive.sqlite3-wal").write_bytes(log)
    with closing(sqlite3.connect(scene.live.folder / "naive.sqlite3")) as database:
        database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    naive = (scene.live.folder / "naive.sqlite3").read_bytes()
    assert naive != (scene.history.expected(0) / "sqlite/app.sqlite3").read_bytes()


@pytest.mark.parametrize(
    ("mode", "page_size"), [("wal", 8192), ("wal", 1024), ("delete", 4096), ("delete", 16384), ("truncate", 512)]
)
def test_another_page_size_or_journal_mode(scene: Scene, mode: str, page_size: int) -> None:
    for path in scene.live.folder.glob("app.sqlite3*"):
        path.unlink()
    make_database(scene.live.database, 50, mode=mode, page_size=page_size, tag="other")
    with closing(sqlite3.connect(scene.live.database, timeout=5)) as database:
        assert database.execute("SELECT count(*) FROM item").fetchone() == (50,)
        scene.restore()
        assert database.execute("SELECT count(*) FROM item").fetchone() == (3000,), "an open connection goes on"
        database.execute("UPDATE counter SET value = 7")
        database.commit()
        assert database.execute("PRAGMA page_size").fetchone() == (page_size,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert scene.rows() == scene.restored("sqlite")


@pytest.mark.slow
def test_a_database_of_a_single_page_is_restored_and_put_back(scene: Scene, tmp_path: Path) -> None:
    empty = tmp_path / "empty.sqlite3"
    with closing(sqlite3.connect(empty)) as database:
        database.execute("PRAGMA journal_mode = wal")
    source = Source(kind=SourceKind.SQLITE, name="app", path=empty)
    backup = back_up(scene.repository, (source,), set="small")
    before = scene.rows()
    with pytest.raises(RestoreUndone):
        restore_in_place(
            scene.repository, backup, scene.live.sources, context(), commands=Commands(check="false"), only="sqlite"
        )
    assert scene.rows() == before
    restore_in_place(scene.repository, backup, scene.live.sources, context(), only="sqlite")
    with closing(sqlite3.connect(scene.live.database)) as database:
        assert database.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


@pytest.mark.slow
def test_what_is_left_of_a_chroma_directory_without_its_database_is_kept(scene: Scene) -> None:
    (scene.live.chroma / "chroma.sqlite3").unlink()
    before = tree_of(scene.live.chroma)
    scene.restore(only="chroma")
    assert scene.now("chroma") == scene.restored("chroma") and scene.leftovers() == []
    (kept,) = scene.live.folder.glob("vectors.before-*")
    assert before and tree_of(kept) == before


@pytest.mark.slow
@pytest.mark.parametrize("step", ["in-place-exchanged", "in-place-unkept"])
def test_what_is_left_of_stores_is_kept_by_the_end_of_a_killed_restore(scene: Scene, tmp_path: Path, step: str) -> None:
    (scene.live.chroma / "chroma.sqlite3").unlink()
    for path in scene.live.folder.glob("app.sqlite3*"):
        path.unlink()
    log = scene.live.folder / "app.sqlite3-wal"
    log.write_bytes(b"the log of a missing database")
    before = tree_of(scene.live.chroma)
    command = ["restore", scene.backup.id, "--in-place", "--yes", *scene.live.arguments, f"--repo={scene.repository.folder}"]
    assert refbackup(*command, cwd=tmp_path, REFBACKUP_FAULT=f"{step}:kill").code == -signal.SIGKILL
    assert not list(scene.live.folder.glob("*.before-*"))
    found = unfinished_exchange(scene.live.sources)
    assert found is not None
    finish_exchange(found, scene.repository, context())
    assert scene.now("chroma") == scene.restored("chroma") and scene.leftovers() == []
    assert scene.rows() == scene.restored("sqlite")
    (kept,) = scene.live.folder.glob("vectors.before-*")
    assert before and tree_of(kept) == before
    (kept,) = scene.live.folder.glob("app.sqlite3-wal.before-*")
    assert kept.read_bytes() == b"the log of a missing database"


def test_what_is_left_of_a_store_is_kept_when_a_failed_check_cannot_be_rolled_back(scene: Scene) -> None:
    for path in scene.live.folder.glob("app.sqlite3*"):
        path.unlink()
    (scene.live.folder / "app.sqlite3-wal").write_bytes(b"the log of a missing database")
    write = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); d.execute('CREATE TABLE n (x)'); d.commit(); sys.exit(1)"
    with pytest.raises(RestoreIncomplete, match="not rolled back"):
        scene.restore(commands=Commands(check=run(write, scene.live.database)))
    (kept,) = scene.live.folder.glob("app.sqlite3-wal.before-*")
    assert kept.read_bytes() == b"the log of a missing database"


@pytest.mark.slow
def test_a_missing_store_is_put_in_place(scene: Scene) -> None:
    shutil.rmtree(scene.live.folder)
    scene.live.folder.mkdir()
    restored = scene.restore(only=None)
    assert restored.checks["safety_backup"] == ""
    for kind in ("sqlite", "chroma", "files"):
        assert scene.now(kind) == scene.restored(kind)
    assert scene.leftovers() == []


GARBAGE = b"this was a database once " * 1000


def test_a_file_that_is_not_a_database_is_replaced_and_backed_up_raw(scene: Scene, tmp_path: Path) -> None:
    scene.live.database.write_bytes(GARBAGE)
    scene.restore()
    assert scene.rows() == scene.restored("sqlite")
    for number, check in enumerate((False, True)):
        restored = restore_to(scene.repository, scene.safety(), tmp_path / f"back{number}", context(), check=check)
        assert (tmp_path / f"back{number}/sqlite/app.sqlite3").read_bytes() == GARBAGE
        assert [problem["code"] for problem in restored.damaged] == ["sqlite_integrity"]
    delivered = refbackup(
        "restore", scene.safety().id, "--to", "back", "--check", f"--repo={scene.repository.folder}", cwd=tmp_path
    )
    assert delivered.code == 5 and "DAMAGED app" in delivered.out and not delivered.err.startswith("refbackup:")
    assert (tmp_path / "back/sqlite/app.sqlite3").read_bytes() == GARBAGE


HOLD_OPEN = "import sys, time; file = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"


def test_an_open_file_that_is_not_a_database_is_not_replaced(scene: Scene, tmp_path: Path) -> None:
    scene.live.database.write_bytes(GARBAGE)
    with python(HOLD_OPEN, scene.live.database) as holder:
        assert ask(holder) == "ready"
        with pytest.raises(RestoreRefused, match=f"process {holder.pid}") as refused:
            scene.restore()
        assert "--stop-command" in refused.value.hint
        assert scene.live.database.read_bytes() == GARBAGE and scene.leftovers() == []
        marks = tmp_path / "marks"
        commands = Commands(stop=f"kill {holder.pid}", start=f"touch {marks}")
        scene.restore(commands=commands)
    assert scene.rows() == scene.restored("sqlite") and marks.exists()


def test_a_failed_check_puts_a_broken_file_back(scene: Scene) -> None:
    scene.live.database.write_bytes(GARBAGE)
    with pytest.raises(RestoreUndone):
        scene.restore(commands=Commands(check="false"))
    assert scene.live.database.read_bytes() == GARBAGE and scene.leftovers() == []


def test_a_failed_check_puts_a_lone_log_back(scene: Scene) -> None:
    log = Path(f"{scene.live.database}-wal")
    scene.live.database.unlink()
    log.write_bytes(b"a log")
    with pytest.raises(RestoreUndone):
        scene.restore(commands=Commands(check="false"))
    assert log.read_bytes() == b"a log" and not scene.live.database.exists() and scene.leftovers() == []


# Chroma


def some_vectors(chroma: Chroma) -> Any:
    return chroma.all("indexed"), chroma.all("logged")


@pytest.mark.slow
def test_chroma_is_exchanged_under_the_gate_of_a_running_client(scene: Scene, tmp_path: Path) -> None:
    expected = Path(shutil.copytree(scene.history.expected(0) / "chroma/vectors", tmp_path / "expected"))
    with Chroma(scene.live.chroma, gate=True) as client, Chroma(expected) as reference:
        client.call("indexed", "upsert", ids=["later"], embeddings=[[0.25] * 16])
        with Gate(scene.live.chroma).shared() as before:
            pass
        scene.restore(only="chroma")
        assert some_vectors(client) == some_vectors(reference)
        with Gate(scene.live.chroma).shared() as after:
            assert after > before
        client.call("indexed", "upsert", ids=["new"], embeddings=[[0.5] * 16])
        assert client.ask("query", "indexed", vector=[0.5] * 16, n=1) == ["new"]
    with Chroma(scene.live.chroma) as again:
        assert "new" in again.all("indexed") and "later" not in again.all("indexed")


@pytest.mark.slow
def test_chroma_open_without_the_gate_is_not_replaced(scene: Scene) -> None:
    with Chroma(scene.live.chroma) as client:
        before = some_vectors(client)
        with pytest.raises(RestoreRefused, match=f"process {client.pid}") as refused:
            scene.restore(only="chroma")
        assert "--stop-command" in refused.value.hint and refused.value.exit_code == 1
        assert some_vectors(client) == before
        planned = plan_in_place(scene.repository, scene.backup, scene.live.sources, only="chroma")
        assert str(client.pid) in planned["targets"][0]["how"]
    scene.restore(only="chroma")
    assert scene.now("chroma") == scene.restored("chroma")


@pytest.mark.slow
def test_chroma_without_the_gate_is_exchanged_between_stop_and_start(scene: Scene, tmp_path: Path) -> None:
    with Chroma(scene.live.chroma) as client:
        some_vectors(client)
        log = tmp_path / "log"
        told = shlex.join([sys.executable, "-c", "import sys; open(sys.argv[1], 'a').write(sys.argv[2])", str(log)])
        scene.restore(
            only="chroma", commands=Commands(stop=f"kill {client.pid}", start=f"{told} start", check=f"{told} check,")
        )
    assert log.read_text() == "check,start"
    assert scene.now("chroma") == scene.restored("chroma")


@pytest.mark.slow
def test_all_stores_at_once(scene: Scene) -> None:
    restored = scene.restore(only=None)
    for kind in ("sqlite", "chroma", "files"):
        assert scene.now(kind) == scene.restored(kind)
    assert restored.checks["chroma/vectors"]["collections"]["indexed"]["count"] == 400
    assert scene.leftovers() == []
    assert verified(scene.repository, scene.safety(), "hashes").ok


@pytest.mark.slow
def test_a_gate_that_stays_closed_changes_nothing(scene: Scene) -> None:
    before = [scene.now(kind) for kind in ("sqlite", "chroma", "files")]
    with Gate(scene.live.chroma).shared(), pytest.raises(EngineError) as refused:
        scene.restore(only=None, wait=0.3)
    assert isinstance(refused.value, RestoreRefused)
    assert [scene.now(kind) for kind in ("sqlite", "chroma", "files")] == before and scene.leftovers() == []


# Going back

COUNT = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
sys.exit(database.execute('SELECT count(*) FROM item').fetchone()[0] != 3000)
"""
WRITE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute('UPDATE counter SET value = 99')
database.commit()
sys.exit(1)
"""
QUEUE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute('INSERT INTO embeddings_queue (operation, topic, id) VALUES (3, ?, ?)', ('x', 'y'))
database.commit()
sys.exit(1)
"""
LOCK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute('BEGIN IMMEDIATE')
print('locked', flush=True)
sys.stdin.read()
"""


def run(program: str, *arguments: object) -> str:
    """A command line that runs *program*."""
    return shlex.join([sys.executable, "-c", program, *map(str, arguments)])


@contextmanager
def state_unchanged(scene: Scene) -> Iterator[None]:
    before = {kind: scene.now(kind) for kind in ("sqlite", "chroma", "files")}
    yield
    assert {kind: scene.now(kind) for kind in before} == before
    assert scene.leftovers() == []


@pytest.mark.slow
def test_a_failing_check_command_rolls_back(scene: Scene) -> None:
    with Chroma(scene.live.chroma, gate=True) as client:
        vectors = some_vectors(client)
        with Gate(scene.live.chroma).shared() as before:
            pass
        with state_unchanged(scene), pytest.raises(RestoreUndone, match="status 3") as undone:
            scene.restore(only=None, commands=Commands(check=f"{sys.executable} -c 'raise SystemExit(3)'"))
        assert undone.value.exit_code == 1 and undone.value.code == "restore_undone"
        with Gate(scene.live.chroma).shared() as after:
            assert after >= before + 2, "clients that opened the new directory meanwhile reopen"
        assert some_vectors(client) == vectors
        assert scene.safety().hold is not None


def test_a_check_sees_the_restored_data(scene: Scene) -> None:
    scene.restore(commands=Commands(check=run(COUNT, scene.live.database)))


def test_a_check_that_fails_after_a_write_does_not_roll_back(scene: Scene) -> None:
    with pytest.raises(RestoreIncomplete, match="written to the restored data") as problem:
        scene.restore(commands=Commands(check=run(WRITE, scene.live.database)))
    assert scene.safety().id in problem.value.message and problem.value.details["safety_backup"] == scene.safety().id
    assert scene.rows() == scene.restored("sqlite"), "the restored data stays, and what was written to it"


@pytest.mark.slow
def test_a_roll_back_does_not_lose_a_write_to_chroma(scene: Scene) -> None:
    with Chroma(scene.live.chroma, gate=True) as client:
        some_vectors(client)
        with pytest.raises(RestoreIncomplete):
            scene.restore(only="chroma", commands=Commands(check=run(QUEUE, scene.live.chroma / "chroma.sqlite3")))
        assert len(client.all("indexed")) == 400


def test_a_roll_back_waits_for_a_writer_and_gives_up_in_time(scene: Scene, tmp_path: Path) -> None:
    """The check starts a process that keeps the database locked, and fails."""
    check = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]], "
        "stdin=open(sys.argv[3]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL); child.stdout.readline(); sys.exit(1)"
    )
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    keep = os.open(fifo, os.O_RDWR)
    try:
        with pytest.raises(RestoreIncomplete, match="stayed locked"):
            scene.restore(wait=0.5, commands=Commands(check=run(check, scene.live.database, LOCK, fifo)))
    finally:
        os.close(keep)
    assert scene.rows() == scene.restored("sqlite")


@pytest.mark.slow
@pytest.mark.parametrize("step", ["in-place-locked", "in-place-folder", "in-place-database", "in-place-exchanged"])
def test_a_full_disk_at_any_step_rolls_back(scene: Scene, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(durable.FAULTS, step, full)
    with state_unchanged(scene), pytest.raises(RestoreUndone, match="No space left"):
        scene.restore(only=None)


@pytest.mark.slow
def test_a_signal_handler_that_raises_rolls_back(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(durable.FAULTS, "in-place-folder", stop)
    with state_unchanged(scene), pytest.raises(KeyboardInterrupt):
        scene.restore(only=None)


def test_a_file_size_limit_during_the_copy_rolls_back(scene: Scene) -> None:
    """A real limit on the size of files: SQLite itself meets it while it copies."""
    program = (
        "import resource, signal, sys; from backups.engine import cli\nfrom backups.engine.runtime import durable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def limit(): resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "durable.FAULTS['in-place-locked'] = limit\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    with state_unchanged(scene):
        command = ["restore", scene.backup.id, "--in-place", "--yes", "--json", "--only=sqlite", *scene.live.arguments[:1]]
        command.append(f"--repo={scene.repository.folder}")
        done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert json.loads(done.stdout)["error"]["code"] == "restore_undone"


def test_a_failing_start_command_is_reported_and_the_data_is_restored(scene: Scene) -> None:
    with pytest.raises(RestoreIncomplete, match="was not started"):
        scene.restore(commands=Commands(start="false"))
    assert scene.rows() == scene.restored("sqlite")


def test_a_failing_stop_command_changes_nothing_and_the_start_command_runs(scene: Scene, tmp_path: Path) -> None:
    with state_unchanged(scene), pytest.raises(RestoreRefused, match="stop command"):
        scene.restore(commands=Commands(stop="false", start=f"touch {tmp_path}/started"))
    assert (tmp_path / "started").exists()


@pytest.mark.parametrize("what", ["stop", "check"])
def test_a_command_that_cannot_be_run(scene: Scene, what: str) -> None:
    with state_unchanged(scene), pytest.raises((RestoreRefused, RestoreUndone), match="could not be run"):
        scene.restore(commands=Commands(**{what: "/no/such/command"}))


# Refused before anything is changed


def test_a_writer_that_keeps_its_lock_is_named_and_nothing_is_changed(scene: Scene) -> None:
    """The lock is taken once the safety backup is made, which would wait for it too."""
    marks = scene.live.folder.parent / "locked"
    wait = "import os, sys, time; open(f'/proc/{sys.argv[1]}/fd/0', 'w').write('go\\n')\n"
    wait += "while not os.path.exists(sys.argv[2]): time.sleep(0.01)"
    lock = "import sqlite3, sys; sys.stdin.readline(); database = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    lock += "database.execute('BEGIN IMMEDIATE'); open(sys.argv[2], 'w').close(); sys.stdin.read()"
    with python(lock, scene.live.database, marks) as writer:
        stop = run(wait, writer.pid, marks)
        with state_unchanged(scene), pytest.raises(RestoreRefused, match=f"open in process {writer.pid}"):
            scene.restore(wait=0.5, commands=Commands(stop=stop))


def test_a_damaged_backup_is_refused_before_anything_is_changed(scene: Scene) -> None:
    data = scene.repository.backup_folder("default", scene.backup.id) / "data.tar.zst"
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 1
    data.write_bytes(content)
    with state_unchanged(scene), pytest.raises(DamageFound):
        scene.restore(only=None)
    assert not [item for item in scene.repository.backups() if item.manifest.safety]


@pytest.mark.parametrize("inner", ["repository", "database", "chroma"])
def test_a_folder_that_contains_another_store_is_not_exchanged(scene: Scene, tmp_path: Path, inner: str) -> None:
    """The backup of a folder leaves out the repository and other sources in it; an exchange would take them away."""
    folder = tmp_path / "all"
    shutil.copytree(scene.live.files, folder, symlinks=True)
    paths = {"sqlite": scene.live.database, "chroma": scene.live.chroma}
    repository = scene.repository
    if inner == "repository":
        shutil.copytree(scene.repository.folder, folder / "repository")
        repository = type(scene.repository)(folder / "repository")
    elif inner == "database":
        paths["sqlite"] = Path(shutil.copy2(scene.live.database, folder / "app.sqlite3"))
    else:
        paths["chroma"] = Path(shutil.copytree(scene.live.chroma, folder / "vectors"))
    sources = (
        Source(kind=SourceKind.SQLITE, name="app", path=paths["sqlite"]),
        Source(kind=SourceKind.CHROMA, name="vectors", path=paths["chroma"]),
        Source(kind=SourceKind.FILES, name="papers", path=folder),
    )
    before = tree_of(folder)
    for only in (None, "files"):
        with pytest.raises(RestoreRefused, match="lies inside"):
            restore_in_place(repository, scene.backup, sources, context(), only=only)
    with pytest.raises(RestoreRefused, match="lies inside"):
        plan_in_place(repository, scene.backup, sources)
    assert tree_of(folder) == before


def test_two_stores_cannot_have_one_target(scene: Scene, tmp_path: Path) -> None:
    second = tmp_path / "second.sqlite3"
    make_database(second, 3)
    both = tuple(
        Source(kind=SourceKind.SQLITE, name=name, path=path) for name, path in (("app", scene.live.database), ("b", second))
    )
    backup = back_up(scene.repository, both, set="two")
    one = tuple(Source(kind=SourceKind.SQLITE, name=name, path=second) for name in ("app", "b"))
    with pytest.raises(RestoreRefused, match="two stores"):
        restore_in_place(scene.repository, backup, one, context())
    restore_in_place(scene.repository, backup, both[::-1], context())


@pytest.mark.parametrize("problem", ["another name", "no folder", "mount point", "raw"])
def test_invalid_targets(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    sources: tuple[Source, ...] = (Source(kind=SourceKind.SQLITE, name="app", path=scene.live.database),)
    backup = scene.backup
    if problem == "another name":
        sources = (Source(kind=SourceKind.SQLITE, name="other", path=scene.live.database),)
    elif problem == "no folder":
        sources = (Source(kind=SourceKind.SQLITE, name="app", path=tmp_path / "no/such/folder.sqlite3"),)
    elif problem == "mount point":
        monkeypatch.setattr(Path, "is_mount", lambda self: True)
    else:
        broken = tmp_path / "app.sqlite3"
        back_up(scene.repository, sources, set="broken")  # a file that never was a database is a wrong path
        broken.write_bytes(GARBAGE)
        backup = back_up(scene.repository, (Source(kind=SourceKind.SQLITE, name="app", path=broken),), set="broken")
        assert backup.damaged
    with state_unchanged(scene), pytest.raises(RestoreRefused) as refused:
        restore_in_place(scene.repository, backup, sources, context(), only="sqlite")
    assert refused.value.hint


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="this machine runs the tests without root, and only root can set owners")
def test_root_preserves_the_owner_of_a_store(scene: Scene) -> None:
    for path in [scene.live.chroma, *scene.live.chroma.rglob("*")]:
        os.chown(path, 65534, 65534)
    scene.restore(only="chroma")
    assert {path.stat().st_uid for path in [scene.live.chroma, *scene.live.chroma.rglob("*")]} == {65534}


# Crashes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "new"),
    [
        ("restore-write@3", set()),
        ("in-place-locked", set()),
        ("in-place-folder@1", {"chroma"}),
        ("in-place-folder@2", {"chroma", "files"}),
        ("in-place-database", {"sqlite", "chroma", "files"}),
        ("in-place-exchanged", {"sqlite", "chroma", "files"}),
    ],
)
def test_a_crash_leaves_each_store_old_or_new_and_a_second_restore_completes_it(
    scene: Scene, tmp_path: Path, step: str, new: set[str]
) -> None:
    before = {kind: scene.now(kind) for kind in ("sqlite", "chroma", "files")}
    with Gate(scene.live.chroma).shared() as generation:
        pass
    command = ["restore", scene.backup.id, "--in-place", "--yes", *scene.live.arguments, f"--repo={scene.repository.folder}"]
    done = refbackup(*command, cwd=tmp_path, REFBACKUP_FAULT=f"{step}:kill")
    assert done.code == -signal.SIGKILL, done.err
    for kind in before:
        assert scene.now(kind) == (scene.restored(kind) if kind in new else before[kind]), kind
    with Gate(scene.live.chroma).shared() as after:
        assert (after > generation) is ("chroma" in new), "clients reopen what was exchanged"
    found = diagnose(scene.repository.folder, scene.live.sources, context())
    (left,) = [item for item in found.findings if STAGE in item.subject]
    if step != "restore-write@3":
        safety = scene.safety()
        assert left.level == "problem" and scene.backup.id in left.message and safety.id in left.message
        assert safety.hold is not None
        assert not found.ok
        restore_to(scene.repository, safety, tmp_path / "back", context())
        assert rows_of(tmp_path / "back/sqlite/app.sqlite3") == before["sqlite"]
        assert tree_of(tmp_path / "back/files/papers") == before["files"]
    else:
        assert left.level == "note"
    again = refbackup(*command, cwd=tmp_path)
    assert again.code == 0, again.err
    for kind in before:
        assert scene.now(kind) == scene.restored(kind), kind
    assert scene.repository.find("latest", None).id == scene.history.ids[3]


@pytest.mark.slow
def test_a_crash_while_a_broken_file_is_replaced(scene: Scene, tmp_path: Path) -> None:
    scene.live.database.write_bytes(GARBAGE)
    command = ["restore", scene.backup.id, "--in-place", "--yes", "--only=sqlite", *scene.live.arguments[:1]]
    command.append(f"--repo={scene.repository.folder}")
    done = refbackup(*command, cwd=tmp_path, REFBACKUP_FAULT="in-place-database:kill")
    assert done.code == -signal.SIGKILL
    assert scene.rows() == scene.restored("sqlite")
    assert refbackup(*command, cwd=tmp_path).code == 0
    assert scene.rows() == scene.restored("sqlite")


# The parts


def test_folders_are_exchanged_without_renameat2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    from backups.engine.restore import exchange

    class Old:
        @staticmethod
        def renameat2(*_: object) -> int:
            ctypes.set_errno(38)
            return -1

    def swapped(check: Callable[[], None]) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        (tmp_path / "a/of-a").touch()
        check()
        assert [path.name for path in (tmp_path / "b").iterdir()] == ["of-a"]
        assert not [*(tmp_path / "a").iterdir()]
        shutil.rmtree(tmp_path / "a")
        shutil.rmtree(tmp_path / "b")

    swapped(lambda: swap(tmp_path / "a", tmp_path / "b"))
    monkeypatch.setattr(exchange, "_LIBC", Old())
    swapped(lambda: swap(tmp_path / "a", tmp_path / "b"))
    with pytest.raises(OSError, match="No such file"):
        swap(tmp_path / "a", tmp_path / "b")


def test_a_dry_run_in_place_lists_the_targets_and_changes_nothing(scene: Scene) -> None:
    with state_unchanged(scene):
        planned = plan_in_place(scene.repository, scene.backup, scene.live.sources)
    assert planned["dry_run"] is True and planned["id"] == scene.backup.id
    assert [item["store"] for item in planned["targets"]] == ["sqlite/app.sqlite3", "chroma/vectors", "files/papers"]
    assert all(item["bytes_now"] and item["bytes_after"] and item["how"] for item in planned["targets"])
