"""Exchange the data of an application by a backup, while it runs.

SQLite is replaced through the online backup API in one transaction: open connections see the new rows, old readers keep their
snapshot, writers wait. Chroma directories and folders of files are exchanged in one step, Chroma's under the gate of an
application that takes part (`gate`); others must be stopped by a command, or not have the directory open.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shlex
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..archive.table import Tree
from ..capture.owners import owners
from ..capture.sqlite import connect, is_locked
from ..chroma_files import directory
from ..create import Request, create_backup
from ..errors import Cancelled, EngineError, NoSpace, RestoreIncomplete, RestoreRefused, RestoreUndone, from_os_error
from ..extract import extract
from ..gate import Gate, GateTimeout
from ..repository.folder import Repository
from ..runtime import durable
from ..runtime.context import Context
from ..runtime.space import need_space
from ..types import Backup, BackupKind, Depth, Hold, Source, SourceKind, SourceRecord
from ..verify import Findings, record_failure
from .to_folder import Restored, check_manifest, check_untouched, plan, select, wanted_by

STAGE = ".refbackup-restore."
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commands:
    """Run without a shell: ``stop`` and ``start`` around the exchange, ``check`` after it; a status but 0 undoes it."""

    stop: str = ""
    start: str = ""
    check: str = ""
    seconds: float = 300.0


@dataclass(slots=True)
class Target:
    """A live store to be replaced: its record in the backup, its path, and the staged replacement beside it."""

    record: SourceRecord
    path: Path
    stage: Path
    created: bool = False
    exchanged: bool = False
    set_aside: list[tuple[Path, Path]] = field(default_factory=list)

    @property
    def staged(self) -> Path:
        return self.stage / self.record.prefix


def restore_in_place(
    repository: Repository,
    backup: Backup,
    sources: tuple[Source, ...],
    ctx: Context,
    *,
    only: str | None = None,
    commands: Commands = Commands(),
    wait: float = 30.0,
) -> Restored:
    """Replace the stores at *sources* (by kind and name; without any, where the backup was made of) by *backup*'s.

    1. Look: every target's folder, space, mounts, page size, and who has a Chroma directory open.   A crash leaves: nothing.
    2. Stage each replacement beside its target and check it: SQLite's checks, digests, Chroma opened.  staged folders.
    3. Safety backup of what is there, held, in the same repository and set.                            and that backup.
    4. ``stop`` command.
    5. Exchange: all SQLite files are locked, then Chroma's gates; Chroma and files exchanged, SQLite committed.
       Each store is old or new after a crash, never between; ``doctor`` names a restore that did not end.
    6. Check what is live now; when that fails, exchange back.
    7. ``check`` command, the same; ``start`` command.

    Writers wait for at most *wait* seconds at step 5, else nothing is changed. Raises `RestoreRefused` (nothing changed),
    `RestoreUndone` (all is as before), `RestoreIncomplete` (says what is where).
    """
    began = time.monotonic()
    records = select(backup, only)
    targets = _targets(records, sources, ctx, whole=only is None)
    _refuse_nested(targets, repository, backup, sources)
    for target in targets:
        _refuse_open(target, commands)
    try:
        with contextlib.ExitStack() as stages:
            for target in targets:
                stages.callback(durable.remove_tree, target.stage)
            size = _stage(repository, backup, targets, ctx)
            checks = _check_staged(repository, backup, targets, ctx)
            for target in targets:
                if target.record.kind is SourceKind.SQLITE:
                    _fit_page_size(target)
                _give_to_owner(target)
            safety = _safety(repository, backup, targets, wait, ctx)
            _journal(targets, backup, safety, "exchanging")
            try:
                _run(commands.stop, commands, ctx, "stop")
                _exchange(targets, commands, wait, ctx)
            except RestoreIncomplete as problem:
                _start(commands, ctx)
                raise RestoreIncomplete(
                    f"{problem.message} What was there before is kept as {safety or 'no backup, for there was nothing'}.",
                    hint=problem.hint,
                    safety_backup=safety,
                ) from problem
            except BaseException:
                _start(commands, ctx)
                raise
            if why := _start(commands, ctx):
                raise RestoreIncomplete(
                    f"{backup.id} is restored, and the application was not started: {why}",
                    hint="Start the application yourself; the data is in place and was checked.",
                    safety_backup=safety,
                    restored=True,
                )
    except OSError as problem:
        raise from_os_error(problem, "Restoring in place") from problem
    return Restored(
        id=backup.id,
        to=", ".join(str(target.path) for target in targets),
        seconds=round(time.monotonic() - began, 3),
        bytes=size,
        checks={**checks, "safety_backup": safety},
    )


# Looking


def _targets(records: tuple[SourceRecord, ...], sources: tuple[Source, ...], ctx: Context, *, whole: bool) -> list[Target]:
    """The live store of each record. Raises `RestoreRefused` for any that cannot be exchanged, and, unless a part of the
    *whole* backup was asked for, for a source that the backup does not hold."""
    given = {(source.kind, source.name): source.path for source in sources}
    left = sorted(f"{kind}:{name}" for kind, name in given.keys() - {(record.kind, record.name) for record in records})
    if left and whole:
        raise RestoreRefused(
            f"Targets are given that this backup does not hold: {', '.join(left)}. The stores would be of different times.",
            hint="Choose a backup that holds them all, or say --only KIND[:NAME]. Nothing was changed.",
        )
    targets: list[Target] = []
    stages: dict[Path, Path] = {}
    for record in records:
        path = given.get((record.kind, record.name)) if given else Path(record.path)
        if path is None:
            offered = ", ".join(f"{kind}:{name}" for kind, name in given)
            raise RestoreRefused(
                f"The backup holds {record.kind}:{record.name}, and no target of that name is given ({offered}).",
                hint=f"Name it: --{record.kind} {record.name}=PATH, or leave it out with --only.",
            )
        path = Path(os.path.realpath(path))
        if path.is_mount():
            raise RestoreRefused(f"{path} is a mount point, which cannot be exchanged. Restore into a folder instead.")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise RestoreRefused(f"{path.parent} is no folder that this user may write to.")
        if record.method == "raw":
            raise RestoreRefused(
                f"The backup holds {record.prefix} only as the raw bytes of a broken store.",
                hint="Restore it into a folder and repair it there, or choose another backup.",
            )
        stage = stages.setdefault(path.parent, path.parent / f"{STAGE}{ctx.token()}")
        targets.append(Target(record, path, stage))
    return targets


def _refuse_open(target: Target, commands: Commands) -> None:
    """Raise `RestoreRefused` for a Chroma directory that somebody has open without the gate and no command would stop."""
    if target.record.kind is not SourceKind.CHROMA or commands.stop or Gate(target.path).exists():
        return
    holders = owners(target.path / directory.DATABASE, parent=True)
    if holders:
        raise RestoreRefused(
            f"{target.path} is open in {holders}, which does not use the gate.",
            hint="Give --stop-command and --start-command, or stop the application first. Nothing was changed.",
        )


def _refuse_nested(targets: list[Target], repository: Repository, backup: Backup, sources: tuple[Source, ...]) -> None:
    """Raise `RestoreRefused` when two targets are one, or when exchanging a folder would take away what lies in it."""
    paths = [target.path for target in targets]
    for path in paths:
        if paths.count(path) > 1:
            raise RestoreRefused(f"{path} is the target of two stores. Nothing was changed.")
    others = [source.path for source in sources] or [Path(record.path) for record in backup.manifest.sources]
    within = [repository.folder.resolve(), *paths, *(Path(os.path.realpath(path)) for path in others)]
    for target in targets:
        for inner in within:
            if target.record.kind is not SourceKind.SQLITE and inner != target.path and inner.is_relative_to(target.path):
                raise RestoreRefused(
                    f"{inner} lies inside {target.path} and would be taken away when that is exchanged.",
                    hint=f"Restore {target.record.kind}:{target.record.name} into a folder, or leave it out with --only.",
                )


def leftovers(paths: list[Path]) -> list[dict[str, Any]]:
    """What in-place restores that did not end have left beside *paths*: folder, backup, safety backup, phase, and age."""
    found = []
    for folder in sorted({path.absolute().parent for path in paths}):
        for stage in sorted(folder.glob(f"{STAGE}*")):
            try:
                about = json.loads((stage / "journal.json").read_text())
            except (OSError, ValueError):
                about = {"phase": "staging"}
            found.append({"folder": str(stage), **about})
    return found


# Staging


def _stage(repository: Repository, backup: Backup, targets: list[Target], ctx: Context) -> int:
    with repository.reading():
        archives, tree, size = plan(repository, backup, tuple(target.record for target in targets))
        with archives:
            for stage in {target.stage for target in targets}:
                here = [target for target in targets if target.stage == stage]
                # a restored SQLite file passes through the live file's log once more
                again = sum(target.record.bytes for target in here if target.record.kind is SourceKind.SQLITE)
                need_space(stage.parent, _size(tree, here) + again, f"stage {backup.id}")
            with ctx.phase("restore", "stage", size) as phase:
                for target in targets:
                    extract(archives, tree, target.stage, phase, wanted=wanted_by((target.record,)))
    _journal(targets, backup, "", "staged")
    return size


def _size(tree: Tree, targets: list[Target]) -> int:
    wanted = wanted_by(tuple(target.record for target in targets))
    return sum(entry.size for path, entry in tree.entries.items() if wanted(path))


def _journal(targets: list[Target], backup: Backup, safety: str, phase: str) -> None:
    """Say beside the data what is under way, for whoever finds it after a crash."""
    for target in targets:
        about = {
            "phase": phase,
            "backup": backup.id,
            "safety_backup": safety,
            "targets": [str(other.path) for other in targets],
        }
        durable.write_file(target.stage / "journal.json", json.dumps(about).encode())


def _check_staged(repository: Repository, backup: Backup, targets: list[Target], ctx: Context) -> dict[str, Any]:
    """All that can be checked is checked before anything live is touched."""
    findings = Findings()
    for target in targets:
        check_untouched(backup, target.stage, target.record, findings, ctx)
    if findings.problems:
        record_failure(repository, backup, Depth.RESTORE, findings.problems, ctx)
        raise RestoreRefused(
            f"What was staged from {backup.id} is not sound: {findings.problems[0].message.rstrip('.')}. Nothing was changed.",
            hint="It is marked damaged now, and `latest` names the one before it: run the same command again, or choose "
            "another by `refbackup list`.",
            problems=[problem.model_dump(mode="json") for problem in findings.problems],
        )
    return findings.checks


def _fit_page_size(target: Target) -> None:
    """Give the staged database the page size of the live one: the backup API cannot change it."""
    if not target.path.exists():
        return
    try:
        live = connect(target.path, timeout=10)
        try:
            wanted = int(live.execute("PRAGMA page_size").fetchone()[0])
        finally:
            live.close()
    except sqlite3.DatabaseError:
        return  # it is broken and will be set aside
    staged = connect(target.staged, timeout=10)
    try:
        if int(staged.execute("PRAGMA page_count").fetchone()[0]) < 2:
            # One page would be copied and committed in a single step, with no moment at which it is locked and the rest is not
            staged.execute("CREATE TABLE refbackup_page (x)")
            staged.execute("DROP TABLE refbackup_page")
        if int(staged.execute("PRAGMA page_size").fetchone()[0]) != wanted:
            mode = str(staged.execute("PRAGMA journal_mode").fetchone()[0])
            staged.execute("PRAGMA journal_mode = DELETE")
            staged.execute(f"PRAGMA page_size = {wanted}")
            staged.execute("VACUUM")
            staged.execute(f"PRAGMA journal_mode = {mode}")
    finally:
        staged.close()


def _give_to_owner(target: Target) -> None:
    """Let what root restores belong to whom the store belonged, or the folder around it."""
    if os.geteuid() != 0:
        return
    live = (target.path if target.path.exists() else target.path.parent).stat()
    for place in [target.staged, *(target.staged.rglob("*") if target.staged.is_dir() else ())]:
        os.chown(place, live.st_uid, live.st_gid, follow_symlinks=False)


def _safety(repository: Repository, backup: Backup, targets: list[Target], wait: float, ctx: Context) -> str:
    """Back up what is there, and hold it; *wait* seconds for writers to pause. Returns its id, "" where nothing is there."""
    there = tuple(
        Source(kind=target.record.kind, name=target.record.name, path=target.path) for target in targets if target.path.exists()
    )
    there = tuple(
        source for source in there if source.kind is not SourceKind.CHROMA or (source.path / "chroma.sqlite3").exists()
    )
    if not there:
        ctx.log("There is nothing at the targets, so there is nothing to keep before the restore.")
        return ""
    request = Request(
        sources=there,
        set=backup.manifest.set,
        kind=BackupKind.INCREMENTAL,
        note=f"safety: before the restore of {backup.id}",
        verify=Depth.HASHES,
        wait=60.0,
        within=wait,
        safety=True,
    )
    try:
        created = create_backup(repository, request, replace(ctx, lines=[]))
    except (Cancelled, NoSpace):
        raise
    except EngineError as problem:
        raise RestoreRefused(
            f"No safety backup of what is there could be made: {problem.message} Nothing was changed.",
            hint=problem.hint,
            reason=problem.code,
        ) from problem
    repository.set_hold(created.backup, Hold(time=ctx.now(), note=f"safety: before the restore of {backup.id}"))
    ctx.log(f"What was there is kept as {created.backup.id}")
    return created.backup.id


# Exchanging


@dataclass(slots=True)
class _Open:
    """What is held open while stores are exchanged: gates, and for each database the connection that wrote it.

    ``before`` is a connection whose transaction still sees the state before; only a database in WAL mode has one.
    """

    held: contextlib.ExitStack
    gates: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    gates_held: set[Path] = field(default_factory=set)
    live: dict[str, sqlite3.Connection] = field(default_factory=dict)
    before: dict[str, sqlite3.Connection] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)

    def open_gates(self) -> None:
        """Let the application use Chroma again."""
        self.gates.close()
        self.gates_held.clear()

    def version(self, name: str) -> int:
        """A number that changes when anybody else commits to a database."""
        return int(self.live[name].execute("PRAGMA data_version").fetchone()[0])


def _exchange(targets: list[Target], commands: Commands, wait: float, ctx: Context) -> None:
    """Steps 5 to 7: exchange all targets at one instant, check, and go back when a check fails."""
    databases = [target for target in targets if target.record.kind is SourceKind.SQLITE]
    folders = [target for target in targets if target.record.kind is not SourceKind.SQLITE]
    with contextlib.ExitStack() as held:
        opened = _Open(held)
        held.callback(opened.open_gates)
        try:
            with ctx.phase("restore", "exchange"):
                _exchange_databases(databases, folders, opened, wait, commands)
                durable.reach("in-place-exchanged")
        except (OSError, sqlite3.Error) as problem:
            _exchange_back(databases, folders, opened, wait)
            raise RestoreUndone(f"The exchange failed and was undone: {problem}.") from problem
        except BaseException:
            _exchange_back(databases, folders, opened, wait)
            raise
        opened.versions = {name: opened.version(name) for name in opened.live}
        chroma = [_chroma_position(target) for target in folders]
        why = _quick_check(targets)
        if why is None:
            opened.open_gates()
            why = _check_command(commands, ctx)
        if why is None:
            return
        versions = {name: opened.version(name) for name in opened.live}
        if versions != opened.versions or [_chroma_position(target) for target in folders] != chroma:
            raise RestoreIncomplete(
                f"{why} It was not undone, because the application has written to the restored data since.",
                hint="Stop the application and restore the safety backup with `refbackup restore ID --in-place`.",
            )
        _exchange_back(databases, folders, opened, wait)
        raise RestoreUndone(f"{why} Everything was put back as it was.")


def _chroma_position(target: Target) -> object:
    """How far a Chroma directory is in its log: it moves with each write."""
    if target.record.kind is not SourceKind.CHROMA:
        return None
    try:
        database = connect(target.path / directory.DATABASE, mode="ro", timeout=5)
        try:
            newest = database.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()
            return newest, sorted(database.execute("SELECT segment_id, seq_id FROM max_seq_id")), directory.positions(database)
        finally:
            database.close()
    except sqlite3.DatabaseError as problem:
        return str(problem)


def _exchange_databases(databases: list[Target], folders: list[Target], opened: _Open, wait: float, commands: Commands) -> None:
    """Lock the first database by copying its first pages, do all the rest while it is locked, then copy on and commit.

    SQLite before Chroma, as in a backup: an application that writes to Chroma inside a transaction holds SQLite first.
    """
    if not databases:
        for folder in folders:
            _exchange_folder(folder, opened, wait, commands)
            durable.reach("in-place-folder")
        return
    target, *rest = databases
    name = target.record.name
    if not _is_database(target.path):
        _replace_file(target, commands)
        durable.reach("in-place-database")
        opened.live[name] = opened.held.enter_context(contextlib.closing(connect(target.path)))
        _exchange_databases(rest, folders, opened, wait, commands)
        return
    source = opened.held.enter_context(contextlib.closing(connect(target.staged)))
    live = opened.live[name] = opened.held.enter_context(contextlib.closing(connect(target.path)))
    wal = str(live.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"
    pages = max(1, int(source.execute("PRAGMA page_count").fetchone()[0]) // 4)
    deadline = time.monotonic() + wait
    entered = False

    def step(status: int, left: int, total: int) -> None:
        nonlocal entered
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() > deadline:
                holders = owners(target.path, parent=True) or "another process"
                raise RestoreRefused(f"{target.path} stayed locked; it is open in {holders}. Nothing was changed.")
        elif not entered:
            entered = True
            if wal:
                opened.before[name] = opened.held.enter_context(contextlib.closing(connect(target.path, timeout=1)))
                opened.before[name].execute("BEGIN")
                opened.before[name].execute("SELECT count(*) FROM sqlite_schema").fetchone()
            durable.reach("in-place-locked")
            _exchange_databases(rest, folders, opened, wait, commands)

    source.backup(live, pages=pages, progress=step, sleep=0.005)
    target.exchanged = True
    durable.reach("in-place-database")


def _is_database(path: Path) -> bool:
    """Whether there is a database at *path* that the backup API can write into."""
    if not path.exists():
        return False
    try:
        probe = connect(path, timeout=10)
        try:
            probe.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        finally:
            probe.close()
    except sqlite3.DatabaseError as problem:
        return is_locked(problem)
    return True


def _replace_file(target: Target, commands: Commands) -> None:
    """Put the staged file where no usable database is, its old logs set aside with it: one left behind would be replayed.

    The logs go first, and the file is replaced in one step. A crash between leaves what was unusable, without its logs.
    """
    if target.path.exists() and not commands.stop:
        holders = owners(target.path, parent=True)
        if holders:
            raise RestoreRefused(
                f"{target.path} is no readable database, so it must be exchanged as a file, and it is open in {holders}.",
                hint="Stop the application, or give --stop-command and --start-command. Nothing was changed.",
            )
    target.created = target.exchanged = True
    for old in _logs(target.path):
        if old.exists():
            aside = target.stage / f"old-{old.name}"
            old.rename(aside)
            target.set_aside.append((old, aside))
    durable.sync_folder(target.path.parent)
    if target.path.exists():
        aside = target.stage / f"old-{target.path.name}"
        aside.hardlink_to(target.path)
        target.set_aside.append((target.path, aside))
    target.staged.replace(target.path)
    durable.sync_folder(target.path.parent)


def _logs(database: Path) -> list[Path]:
    return [database.with_name(database.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


def _exchange_folder(target: Target, opened: _Open, wait: float, commands: Commands) -> None:
    """Exchange a folder with the staged one in one step, Chroma's while nobody is inside its gate.

    The generation is raised before: after a crash a client that reopens in vain is better than one that does not.
    """
    if target.record.kind is SourceKind.CHROMA:
        gate = Gate(target.path)
        if gate.exists():
            try:
                held = opened.gates.enter_context(gate.exclusive(wait))
            except GateTimeout as problem:
                raise RestoreRefused(f"{problem}. Nothing was changed.") from None
            opened.gates_held.add(target.path)
            held.advance()
        else:
            _refuse_open(target, commands)
    if target.path.exists():
        exchange(target.path, target.staged)
    else:
        target.staged.rename(target.path)
        target.created = True
    target.exchanged = True
    durable.sync_folder(target.path.parent)


def exchange(left: Path, right: Path) -> None:
    """Swap two folders on one file system in one step (``renameat2`` with ``RENAME_EXCHANGE``), or in three where that is
    not known to the system."""
    result = _LIBC.renameat2(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE)
    if result == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code), str(left))
    aside = right.with_name(right.name + ".aside")
    left.rename(aside)
    right.rename(left)
    aside.rename(right)


# Checking and going back


def _quick_check(targets: list[Target]) -> str | None:
    """A quick look at what is live now. None, or what is wrong."""
    for target in targets:
        if target.record.kind is SourceKind.SQLITE:
            try:
                live = connect(target.path, timeout=10)
                try:
                    found = str(live.execute("PRAGMA quick_check(1)").fetchone()[0])
                finally:
                    live.close()
            except sqlite3.DatabaseError as problem:
                found = str(problem)
            if found != "ok":
                return f"{target.path} fails its check after the exchange: {found}."
        elif not target.path.is_dir():
            return f"{target.path} is not there after the exchange."
    return None


def _check_command(commands: Commands, ctx: Context) -> str | None:
    """Run the application's own check. None, or what it said."""
    try:
        _run(commands.check, commands, ctx, "check")
    except RestoreRefused as problem:
        return problem.message
    return None


def _exchange_back(databases: list[Target], folders: list[Target], opened: _Open, wait: float) -> None:
    """Put everything back that was exchanged. Raises `RestoreIncomplete` naming what could not be."""
    stuck = []
    for target in databases:
        try:
            _database_back(target, opened, wait)
        except (OSError, sqlite3.Error) as problem:
            stuck.append(f"{target.path} ({problem})")
    for target in folders:
        if not target.exchanged:
            continue
        try:
            with _inside_gate(target, opened, wait):
                if target.created:
                    target.path.rename(target.staged)
                else:
                    exchange(target.path, target.staged)
            target.exchanged = False
        except (OSError, GateTimeout) as problem:
            stuck.append(f"{target.path} ({problem})")
    if stuck:
        raise RestoreIncomplete(f"A check failed, and these could not be put back: {'; '.join(stuck)}.")


def _database_back(target: Target, opened: _Open, wait: float) -> None:
    if not target.exchanged:
        return
    before = opened.before.get(target.record.name)
    if target.created:
        if target.record.name in opened.live:
            opened.live[target.record.name].close()
        for new in [target.path, *_logs(target.path)]:
            new.unlink(missing_ok=True)
        for old, aside in target.set_aside:
            aside.rename(old)
        durable.sync_folder(target.path.parent)
    elif before is None:
        raise OSError(errno.EBUSY, "it is in rollback-journal mode: restore its safety backup")
    else:
        _copy_back(target, before, opened, wait)
    target.exchanged = False


def _copy_back(target: Target, before: sqlite3.Connection, opened: _Open, wait: float) -> None:
    """Copy the state that *before* still sees over the live database, unless somebody has written to it meanwhile."""
    name = target.record.name
    pages = max(1, int(before.execute("PRAGMA page_count").fetchone()[0]) // 4)
    deadline = time.monotonic() + wait
    entered = False

    def step(status: int, left: int, total: int) -> None:
        nonlocal entered
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, f"it stayed locked by {owners(target.path, parent=True) or 'another process'}")
        elif not entered:
            entered = True
            if name in opened.versions and opened.version(name) != opened.versions[name]:
                raise OSError(errno.EBUSY, "the application has written to it since")

    with contextlib.closing(connect(target.path)) as live:
        before.backup(live, pages=pages, progress=step, sleep=0.005)


@contextlib.contextmanager
def _inside_gate(target: Target, opened: _Open, wait: float) -> Iterator[None]:
    """Be inside the gate of a Chroma directory: whoever opened what is moved away must reopen."""
    gate = Gate(target.path)
    if target.record.kind is not SourceKind.CHROMA or not gate.exists() or target.path in opened.gates_held:
        yield
        return
    with gate.exclusive(wait) as held:
        held.advance()
        yield


def _run(command: str, commands: Commands, ctx: Context, what: str) -> None:
    """Run a command without a shell. Raises `RestoreRefused` when it cannot be run or its status is not 0."""
    if not command:
        return
    ctx.log(f"Running the {what} command: {command}")
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=commands.seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise RestoreRefused(f"The {what} command could not be run: {problem}.") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise RestoreRefused(f"The {what} command failed with status {done.returncode}: {said}.")


def _start(commands: Commands, ctx: Context) -> str | None:
    """Run the start command, whatever happened before. None, or why it did not work."""
    try:
        _run(commands.start, commands, ctx, "start")
    except RestoreRefused as problem:
        ctx.log(problem.message)
        return problem.message
    return None


def plan_in_place(
    repository: Repository, backup: Backup, sources: tuple[Source, ...], *, only: str | None = None
) -> dict[str, Any]:
    """What `restore_in_place` would do: ``{"id", "dry_run", "targets": [{"store", "target", "bytes_now", ...}]}``.

    Raises what the restore would raise before it changes anything.
    """
    targets = _targets(select(backup, only), sources, Context(), whole=only is None)
    _refuse_nested(targets, repository, backup, sources)
    check_manifest(repository, backup)
    planned = []
    for target in targets:
        how = "online, in one transaction"
        if target.record.kind is SourceKind.SQLITE:
            if not _is_database(target.path):
                how = "the file is put in place; old logs are set aside"
        elif target.record.kind is SourceKind.CHROMA and not Gate(target.path).exists():
            holders = owners(target.path / directory.DATABASE, parent=True)
            how = f"exchanged; open without a gate in {holders}: needs a stop command" if holders else "exchanged"
        else:
            how = "exchanged in one step" + (", under the gate" if target.record.kind is SourceKind.CHROMA else "")
        planned.append(
            {
                "store": target.record.prefix,
                "target": str(target.path),
                "bytes_now": _bytes_at(target.path),
                "bytes_after": target.record.bytes,
                "how": how,
            }
        )
    return {"id": backup.id, "dry_run": True, "targets": planned}


def _bytes_at(path: Path) -> int | None:
    if not path.exists():
        return None
    if path.is_file():
        return path.stat().st_size
    return sum(place.lstat().st_size for place in path.rglob("*") if not place.is_dir())
