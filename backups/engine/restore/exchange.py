"""Exchanges live stores with their replacements at one instant.

The databases are locked one after the other; while all of them are locked, the folders are exchanged; then the databases
commit. SQLite comes before Chroma, as in a backup: an application that writes to Chroma inside a transaction locks SQLite
first.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType

from ..capture.owners import owners
from ..capture.sqlite import READ_HEADER
from ..errors import RestoreRefused
from ..gate import GateTimeout
from ..runtime import durable
from ..runtime.sqlite import connect
from .commands import Commands
from .targets import Target, databases_of, folders_of, logs_of, old_in, refuse_mounts_below
from .writes import Watch

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_STEP_BYTES = 1 << 20
_LIBC = ctypes.CDLL(None, use_errno=True)


class OpenStores:
    """What is held open from the exchange until it is certain that it need not be rolled back: connections and gates.

    ``live`` has the connection to each exchanged database, by name. ``before`` has a connection whose transaction still sees
    the old state; only a database in WAL mode has one. ``gates_held`` has the Chroma directories whose gate is closed.
    """

    def __init__(self) -> None:
        self.live: dict[str, sqlite3.Connection] = {}
        self.before: dict[str, sqlite3.Connection] = {}
        self.gates_held: set[Path] = set()
        self._connections = contextlib.ExitStack()
        self._gates = contextlib.ExitStack()
        self._versions: dict[str, int] = {}

    def __enter__(self) -> OpenStores:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._connections.close()
        finally:
            self.open_gates()

    def connect(self, path: Path, timeout: float = 0.0) -> sqlite3.Connection:
        """A connection that is closed at the end."""
        return self._connections.enter_context(contextlib.closing(connect(path, timeout=timeout)))

    def keep_old_state(self, target: Target) -> None:
        """Begin a transaction that sees a locked database as it is before the exchange."""
        before = self.before[target.record.name] = self.connect(target.path, timeout=1)
        before.execute("BEGIN")
        before.execute(READ_HEADER).fetchone()

    def close_gate(self, target: Target, wait: float) -> None:
        """Keep the application out of a Chroma directory until `open_gates`; it must reopen the directory then.

        The generation is raised before the exchange: after a crash, a client that reopens needlessly is better than one that
        does not reopen. Raises `GateTimeout`.
        """
        if target.gate:
            held = self._gates.enter_context(target.gate.exclusive(wait))
            self.gates_held.add(target.path)
            held.advance()

    def open_gates(self) -> None:
        """Let the application use Chroma again."""
        self._gates.close()
        self.gates_held.clear()

    def remember_versions(self) -> None:
        """Record the state of the databases, for `written`."""
        self._versions = {name: self._version(name) for name in self.live}

    def written(self, name: str) -> bool:
        """Whether another connection has committed to a database since `remember_versions`."""
        return name in self._versions and self._version(name) != self._versions[name]

    def _version(self, name: str) -> int:
        return int(self.live[name].execute("PRAGMA data_version").fetchone()[0])


def exchange_stores(targets: list[Target], opened: OpenStores, watch: Watch, commands: Commands, wait: float) -> None:
    """Exchange all *targets*, waiting at most *wait* seconds for each lock.

    On an error some targets may be exchanged already (see `Target.exchanged`), and the caller rolls back. Raises `StoreWritten`
    if *watch* tells that a store was written to, before any database is committed.
    """
    step: Callable[[], None] = partial(_exchange_folders, folders_of(targets), opened, watch, commands, wait)
    for target in reversed(databases_of(targets)):  # each step runs the next one while its database is locked
        step = partial(_exchange_database, target, opened, watch, commands, wait, step)
    step()


def _exchange_database(
    target: Target, opened: OpenStores, watch: Watch, commands: Commands, wait: float, once_locked: Callable[[], None]
) -> None:
    name = target.record.name
    if target.as_file or not target.is_database():
        _replace_file(target, watch, commands, wait)
        durable.reach("in-place-database")
        if not target.as_file:
            opened.live[name] = opened.connect(target.path)
        once_locked()
        return
    staged = opened.connect(target.staged)
    live = opened.live[name] = opened.connect(target.path)
    wal = str(live.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"

    def locked() -> None:
        if wal:
            opened.keep_old_state(target)
        watch.refuse_written(target)
        durable.reach("in-place-locked")
        once_locked()

    def refuse(holders: str) -> Exception:
        return RestoreRefused(f"{target.path} stayed locked; it is open in {holders}. Nothing was changed.")

    copy_database(staged, live, target.path, wait, once_locked=locked, stayed_locked=refuse)
    target.exchanged = True
    durable.reach("in-place-database")


def copy_database(
    source: sqlite3.Connection,
    live: sqlite3.Connection,
    path: Path,
    wait: float,
    *,
    once_locked: Callable[[], None],
    stayed_locked: Callable[[str], Exception],
) -> None:
    """Replace the content of the database *live* at *path* by that of *source* in one transaction.

    Once the database is locked for writing, with nothing committed yet, *once_locked* is called; an error that it raises rolls
    the transaction back. If the lock cannot be acquired within *wait* seconds, raises what *stayed_locked* returns for the
    names of the processes that have the file open.
    """
    # the first step must not fill the cache: in rollback-journal mode SQLite would write pages before all stores are locked
    pages = max(1, int(source.execute("PRAGMA page_count").fetchone()[0]) // 4)
    pages = min(pages, _STEP_BYTES // int(source.execute("PRAGMA page_size").fetchone()[0]))
    deadline = time.monotonic() + wait
    locked = False

    def progress(status: int, remaining: int, total: int) -> None:
        nonlocal locked
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() > deadline:
                raise stayed_locked(owners(path, parent=True) or "another process")
        elif not locked:
            locked = True
            once_locked()

    source.backup(live, pages=pages, progress=progress, sleep=0.005)


def _replace_file(target: Target, watch: Watch, commands: Commands, wait: float) -> None:
    """Put the staged file in place, after the old logs were set aside: SQLite would replay them.

    The old logs go first, the file is replaced in one step, and its own logs come last. A crash in between leaves a file
    without its logs.
    """
    target.refuse_open(commands, stopped=True, wait=wait)
    watch.refuse_written(target)
    target.created = target.exchanged = True
    for old in logs_of(target.path):
        if old.exists():
            aside = old_in(target.stage, old)
            old.rename(aside)
            target.set_aside.append((old, aside))
    durable.sync_folder(target.path.parent)
    if target.path.exists():
        aside = old_in(target.stage, target.path)
        try:
            aside.hardlink_to(target.path)
        except OSError:  # the kernel lets users link only what they own (proc(5), protected_hardlinks)
            target.path.rename(aside)
        target.set_aside.append((target.path, aside))
    target.staged.replace(target.path)
    for staged, log in zip(logs_of(target.staged), logs_of(target.path), strict=True):
        if staged.exists():
            staged.rename(log)
    durable.sync_folder(target.path.parent)


def _exchange_folders(targets: list[Target], opened: OpenStores, watch: Watch, commands: Commands, wait: float) -> None:
    for target in targets:
        try:
            opened.close_gate(target, wait)
        except GateTimeout as problem:
            raise RestoreRefused(f"{problem}. Nothing was changed.") from None
        target.refuse_open(commands, stopped=True, wait=wait)
        refuse_mounts_below(target.path)
        watch.refuse_written(target)
        if target.path.exists():
            swap(target.path, target.staged)
        else:
            target.staged.rename(target.path)
            target.created = True
        target.exchanged = True
        durable.sync_folder(target.path.parent)
        if not target.created:
            watch.refuse_written(target, target.staged)  # nothing keeps writers out of a folder of files
        durable.reach("in-place-folder")


def swap(left: Path, right: Path) -> None:
    """Exchange two folders of one file system in one step (``renameat2(2)``), or in three if the system cannot."""
    result = _LIBC.renameat2(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE)
    if result == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code), str(left))
    aside = _aside(right)
    left.rename(aside)
    right.rename(left)
    aside.rename(right)


def complete_swap(target: Target, folder: Path) -> None:
    """Put back the live folder that a crash between the three steps of `swap` left in the staging folder *folder*."""
    aside = _aside(folder / target.record.prefix)
    if aside.exists() and not target.path.exists():
        aside.rename(target.path)
        durable.sync_folder(target.path.parent)


def _aside(staged: Path) -> Path:
    return staged.with_name(staged.name + ".aside")
