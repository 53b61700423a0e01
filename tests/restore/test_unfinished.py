"""A restore in place killed in the exchange: a record says so, nothing is backed up, and it can be finished or undone."""

from __future__ import annotations

import os
import shlex
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine.doctor import diagnose
from backups.engine.errors import ExchangeUnfinished, RepositoryLocked, RestoreIncomplete, RestoreRefused
from backups.engine.repository.folder import initialise
from backups.engine.restore.commands import Commands
from backups.engine.restore.ending import finish_exchange
from backups.engine.restore.in_place import restore_in_place
from backups.engine.runtime import durable
from backups.engine.types import Source, SourceKind
from backups.engine.unfinished import JOURNAL, STAGE, abandoned, exclusive_restore, unfinished_exchange
from tests.restore.stores import Ran, back_up, change_rows, context, make_database, python, refbackup, rows_of, tree_of
from tests.restore.test_in_place import LOCK, ask, run


class Scene:
    """Two databases and a folder, small, a backup of them, and what was changed since."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "live"
        self.folder.mkdir()
        self.databases = (self.folder / "app.sqlite3", self.folder / "more.sqlite3")
        self.files = self.folder / "papers"
        self.sources = (
            Source(kind=SourceKind.SQLITE, name="app", path=self.databases[0]),
            Source(kind=SourceKind.SQLITE, name="more", path=self.databases[1]),
            Source(kind=SourceKind.FILES, name="papers", path=self.files),
        )
        for database in self.databases:
            make_database(database, 20)
        self.files.mkdir()
        (self.files / "old.txt").write_text("old")
        self.repository = initialise(folder / "repository", datetime.now(UTC))
        self.backup = back_up(self.repository, self.sources)
        self.backed_up = self.state()
        for database in self.databases:
            change_rows(database, "later", [1, 2, 30])
        (self.files / "old.txt").rename(self.files / "new.txt")

    @property
    def arguments(self) -> list[str]:
        return [f"--{source.kind}={source.name}={source.path}" for source in self.sources]

    def state(self) -> Any:
        return [*(rows_of(database) for database in self.databases), tree_of(self.files)]

    def restore(self, **more: Any) -> None:
        restore_in_place(self.repository, self.backup, self.sources, context(), **{"wait": 10.0, **more})

    def stages(self) -> list[Path]:
        return list(self.folder.glob(f"{STAGE}*"))

    def safety(self) -> Any:
        return next(item for item in self.repository.backups("default") if item.manifest.safety)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def command(scene: Scene, *arguments: str, **environment: str) -> Ran:
    return refbackup(
        arguments[0],
        *arguments[1:],
        *scene.arguments,
        f"--repo={scene.repository.folder}",
        cwd=scene.folder,
        **environment,
    )


def kill_in_exchange(scene: Scene, step: str) -> None:
    done = command(scene, "restore", scene.backup.id, "--in-place", "--yes", REFBACKUP_FAULT=f"{step}:kill")
    assert done.code == -signal.SIGKILL, done.err


def clear(scene: Scene) -> None:
    assert unfinished_exchange(scene.sources) is None
    assert scene.stages() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [
        "in-place-recorded",
        "in-place-folder",
        "in-place-database@1",
        "in-place-checked",
    ],
)
def test_a_killed_exchange_is_undone_and_finished_also_after_it_is_killed_again(scene: Scene, step: str) -> None:
    before = scene.state()
    kill_in_exchange(scene, step)
    found = unfinished_exchange(scene.sources)
    assert found is not None and found.journal is not None and found.journal.backup == scene.backup.id
    assert command(scene, "restore", "--undo", "--yes", REFBACKUP_FAULT="in-place-folder:kill").code == -signal.SIGKILL
    again = unfinished_exchange(scene.sources)
    assert again is not None and again.journal is not None and len(again.folders) == 2
    assert (again.journal.backup, again.journal.safety_backup) == (found.journal.backup, found.journal.safety_backup)
    undone = command(scene, "restore", "--undo", "--yes", "--json")
    assert undone.code == 0, undone.err
    assert scene.state() == before
    clear(scene)
    kill_in_exchange(scene, step)
    assert command(scene, "restore", "--finish", "--yes", REFBACKUP_FAULT="in-place-database:kill").code == -signal.SIGKILL
    finished = command(scene, "restore", "--finish", "--yes", "--json")
    assert finished.code == 0, finished.err
    assert scene.state() == scene.backed_up
    clear(scene)
    safety = scene.repository.find(finished.json["checks"]["safety_backup"], "default")
    restore_in_place(scene.repository, safety, scene.sources, context())
    assert scene.state() == before, "the safety backup named at the end is the one of the data before it all"


@pytest.mark.slow
def test_while_an_exchange_is_unfinished_nothing_is_backed_up_and_every_command_says_so(scene: Scene) -> None:
    kill_in_exchange(scene, "in-place-folder")
    backups = scene.repository.ids("default")
    created = command(scene, "create", "--json")
    assert created.code == 1 and created.json["error"]["code"] == "exchange_unfinished"
    assert "--finish" in created.err and scene.backup.id in created.err
    advised = created.json["error"]["hint"].split("`")[1]
    assert shlex.split(advised)[-1] == "--finish"
    assert scene.repository.ids("default") == backups
    settings = {"BACKUP_REPOSITORY": str(scene.repository.folder), "REFSERVER_DATABASE": f"app={scene.databases[0]}"}
    for arguments in (["list"], ["show", "latest"], ["verify", "latest"]):
        said = refbackup(*arguments, cwd=scene.folder, **settings)
        assert said.code == 0 and "--finish" in said.err, arguments
    diagnosis = diagnose(scene.repository.folder, scene.sources, context())
    (named,) = [finding for finding in diagnosis.findings if STAGE in finding.subject]
    assert named.level == "problem" and scene.safety().id in named.message and not diagnosis.ok
    partly = command(scene, "restore", "latest", "--in-place", "--yes", "--only=sqlite")
    assert partly.code == 1 and "--undo" in partly.err
    with pytest.raises(ExchangeUnfinished):
        back_up(scene.repository, scene.sources[:1])
    forced = command(scene, "create", "--force", "--no-verify")
    assert forced.code == 0 and "different times" in forced.err
    newest = next(scene.repository.newest_first("default"))
    assert newest.manifest.mixed and not scene.safety().manifest.mixed
    whole = refbackup(*shlex.split(advised)[1:], "--yes", cwd=scene.folder)
    assert whole.code == 0 and scene.state() == scene.backed_up
    mixed = scene.safety()
    assert mixed.manifest.mixed
    for arguments in (["show", mixed.id], ["restore", mixed.id, "--to=out", "--dry-run"]):
        said = command(scene, *arguments) if arguments[0] == "restore" else refbackup(*arguments, cwd=scene.folder, **settings)
        assert said.code == 0 and f"The stores in {mixed.id} may be of different times" in said.out + said.err
    clear(scene)


def test_stores_beside_those_of_an_unfinished_exchange_are_not_affected(scene: Scene) -> None:
    other = scene.folder / "other.sqlite3"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE here (x)")
    arguments = ["restore", scene.backup.id, "--in-place", "--yes", "--only=sqlite:app", *scene.arguments[:1]]
    arguments.append(f"--repo={scene.repository.folder}")
    killed = refbackup(*arguments, cwd=scene.folder, REFBACKUP_FAULT="in-place-locked:kill")
    assert killed.code == -signal.SIGKILL
    beside = (Source(kind=SourceKind.SQLITE, name="other", path=other),)
    assert unfinished_exchange(beside) is None and unfinished_exchange(scene.sources) is not None
    back_up(scene.repository, beside, set="other")
    link = scene.folder / "link.sqlite3"
    link.symlink_to(scene.databases[0])
    assert unfinished_exchange((Source(kind=SourceKind.SQLITE, name="app", path=link),)) is not None


def test_a_roll_back_that_fails_keeps_the_record_and_starts_nothing(scene: Scene, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    keep = os.open(fifo, os.O_RDWR)
    check = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[2], sys.argv[1]], "
        "stdin=open(sys.argv[3]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL); child.stdout.readline(); sys.exit(1)"
    )
    commands = Commands(check=run(check, scene.databases[0], LOCK, fifo), start=f"touch {tmp_path}/started")
    before = scene.state()
    try:
        with pytest.raises(RestoreIncomplete, match="different times") as problem:
            scene.restore(only="sqlite:app", wait=0.5, commands=commands)
    finally:
        os.close(keep)
    assert problem.value.details["safety_backup"] == scene.safety().id
    assert not (tmp_path / "started").exists()
    found = unfinished_exchange(scene.sources)
    assert found is not None
    finish_exchange(found, scene.repository, context(), undo=True)
    assert scene.state() == before
    clear(scene)


def lose(scene: Scene, *places: str) -> None:
    for place in places:
        for path in scene.folder.glob(f"{place}*"):
            durable.remove_tree(path) if path.is_dir() else path.unlink()


def asides(scene: Scene) -> dict[str, Path]:
    return {path.name.partition(".before-")[0]: path for path in scene.folder.glob("*.before-*")}


@pytest.mark.slow
def test_an_undo_moves_aside_what_did_not_exist_also_after_it_is_killed(scene: Scene) -> None:
    lose(scene, "app.sqlite3", "papers")
    before = rows_of(scene.databases[1])
    kill_in_exchange(scene, "in-place-database@2")
    found = unfinished_exchange(scene.sources)
    assert found is not None and [source.name for source in found.created] == ["app", "papers"]
    assert rows_of(scene.databases[0]) == scene.backed_up[0] and scene.files.exists()
    planned = command(scene, "restore", "--undo", "--dry-run", "--json").json
    assert planned["moved_aside"] == [str(scene.databases[0]), str(scene.files)]
    assert command(scene, "restore", "--undo", "--yes", REFBACKUP_FAULT="in-place-vacated:kill").code == -signal.SIGKILL
    again = unfinished_exchange(scene.sources)
    assert again is not None and again.created == found.created
    undone = command(scene, "restore", "--undo", "--yes", "--json")
    assert undone.code == 0, undone.err
    assert not scene.databases[0].exists() and not scene.files.exists() and rows_of(scene.databases[1]) == before
    kept = asides(scene)
    assert rows_of(kept["app.sqlite3"]) == scene.backed_up[0] and tree_of(kept["papers"]) == scene.backed_up[2]
    assert undone.json["checks"]["moved_aside"] == {str(scene.files): str(kept["papers"])}, "the other one was moved before"
    clear(scene)


@pytest.mark.parametrize("fault", ["in-place-vacated", ""])
def test_an_undo_where_nothing_existed_needs_no_backup(scene: Scene, fault: str, tmp_path: Path) -> None:
    lose(scene, "app.sqlite3", "more.sqlite3", "papers")
    kill_in_exchange(scene, "in-place-checked")
    if fault:
        assert command(scene, "restore", "--undo", "--yes", REFBACKUP_FAULT=f"{fault}:kill").code == -signal.SIGKILL
        assert unfinished_exchange(scene.sources) is not None
    change_rows(scene.databases[1], "written since", [5])
    ran = tmp_path / "ran"
    commands = [f"--stop-command=mkdir {ran}", f"--start-command=mkdir {ran}/started"]
    undone = command(scene, "restore", "--undo", "--yes", *commands)
    assert undone.code == 0 and "nothing was there before it" in undone.out, undone.err
    assert (ran / "started").exists()
    assert not any(source.path.exists() for source in scene.sources)
    kept = asides(scene)
    assert kept.keys() == {"app.sqlite3", "more.sqlite3", "papers"}
    assert rows_of(kept["more.sqlite3"]) != scene.backed_up[1], "what was written since is kept"
    clear(scene)


@pytest.mark.slow
def test_what_cannot_be_moved_aside_keeps_the_record_and_starts_nothing(scene: Scene, tmp_path: Path) -> None:
    lose(scene, "app.sqlite3")
    kill_in_exchange(scene, "in-place-checked")
    started = f"--start-command=mkdir {tmp_path / 'started'}"
    with scene.databases[0].open("rb"):
        refused = command(scene, "restore", "--undo", "--yes", started)
    assert refused.code == 1 and "is open in" in refused.err and unfinished_exchange(scene.sources) is not None
    assert not (tmp_path / "started").exists() and not asides(scene)
    assert command(scene, "restore", "--finish", "--yes", started).code == 0
    assert scene.state() == scene.backed_up and (tmp_path / "started").exists()
    clear(scene)


def test_a_record_that_cannot_be_read_stops_everything_but_a_whole_restore(scene: Scene) -> None:
    stage = scene.folder / f"{STAGE}1234"
    stage.mkdir()
    assert unfinished_exchange(scene.sources) is None, "a restore that was still staging changed nothing"
    (stage / JOURNAL).write_text("{")
    found = unfinished_exchange(scene.sources)
    assert found is not None and "cannot be read" in found.message
    with pytest.raises(ExchangeUnfinished):
        scene.restore(only="sqlite:app")
    with pytest.raises(RestoreRefused):
        finish_exchange(found, scene.repository, context())


@pytest.mark.slow
def test_what_killed_restores_left_is_removed_unless_it_is_needed(scene: Scene) -> None:
    command_line = ("restore", scene.backup.id, "--in-place", "--yes")
    before = scene.state()
    for fault in ("in-place-staging", "restore-write@2"):
        assert command(scene, *command_line, REFBACKUP_FAULT=f"{fault}:kill").code == -signal.SIGKILL
    assert len(scene.stages()) == 1, "the second has removed that of the first"
    (note,) = [found for found in diagnose(None, scene.sources, context()).findings if STAGE in found.subject]
    assert note.level == "note" and "prune" in note.advice and scene.stages()
    with exclusive_restore(scene.databases) as own:
        own(scene.stages())
        assert abandoned(scene.databases) == []
        assert not [found for found in diagnose(None, scene.sources, context()).findings if STAGE in found.subject]
    pruning = ["prune", "--keep-last=9", f"--repo={scene.repository.folder}"]
    assert refbackup(*pruning, "--dry-run", cwd=scene.folder).code == 0 and scene.stages()
    pruned = refbackup(*pruning, cwd=scene.folder)
    assert pruned.code == 0 and scene.stages() == [] and STAGE in pruned.err
    kill_in_exchange(scene, "in-place-recorded")
    assert refbackup(*pruning, cwd=scene.folder).code == 0 and len(scene.stages()) == 1
    other = scene.folder / "other.sqlite3"
    make_database(other, 3)
    alone = (Source(kind=SourceKind.SQLITE, name="other", path=other),)
    restore_in_place(scene.repository, back_up(scene.repository, alone, set="other"), alone, context())
    assert len(scene.stages()) == 1, "an unfinished exchange needs it"
    assert command(scene, "restore", "--undo", "--yes").code == 0
    assert scene.state() == before
    clear(scene)


def test_two_restores_of_one_store_at_once(scene: Scene) -> None:
    before = scene.state()
    with exclusive_restore([scene.databases[0]]), pytest.raises(RepositoryLocked, match="Another restore") as refused:
        scene.restore()
    assert refused.value.exit_code == 7 and scene.state() == before and scene.stages() == []
    scene.restore()


def test_a_running_restore_is_not_an_interrupted_one(scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The application may be started, checked and backed up by the restore's own commands."""
    seen = []
    monkeypatch.setitem(
        durable.FAULTS,
        "in-place-recorded",
        lambda: seen.append((scene.stages() != [], unfinished_exchange(scene.sources))),
    )
    marks = tmp_path / "marks"
    probe = (
        "import sys; from pathlib import Path; from backups.engine.types import Source\n"
        "from backups.engine.unfinished import leftovers, unfinished_exchange\n"
        "found = unfinished_exchange([Source(kind='sqlite', name='app', path=Path(sys.argv[1]))])\n"
        "journals = [left for left in leftovers([Path(sys.argv[1])]) if left.journal]\n"
        "open(sys.argv[2], 'a').write(f'{found} {len(journals)},')"
    )
    looks = run(probe, scene.databases[0], marks)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    scene.restore(commands=Commands(check=looks, start=looks))
    assert seen == [(True, None)]
    assert marks.read_text() == "None 1,None 0,"


def test_another_process_that_locks_the_folder_does_not_hide_an_interrupted_exchange(scene: Scene) -> None:
    kill_in_exchange(scene, "in-place-recorded")
    with exclusive_restore([scene.databases[0]]):  # as a restore of another store in the same folder does
        assert unfinished_exchange(scene.sources) is not None
        assert command(scene, "create").code == 1


def test_a_live_holder_of_the_lock_that_dies_leaves_none(scene: Scene) -> None:
    hold = (
        "import sys; from pathlib import Path; from backups.engine.unfinished import exclusive_restore\n"
        "with exclusive_restore([Path(sys.argv[1])]): print('held', flush=True); sys.stdin.read()"
    )
    with python(hold, scene.databases[0]) as holder:
        assert ask(holder) == "held"
        with pytest.raises(RepositoryLocked), exclusive_restore([scene.databases[0]]):
            pass
        holder.kill()
        holder.wait()
        with exclusive_restore([scene.databases[0]]):
            pass
