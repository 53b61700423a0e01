"""The child process that locks the live stores: the only process of a backup with connections to them.

Requests, in the order in which `cut.py` sends them:

======== ==================================================================================== =========================
do       does                                                                                 answer
======== ==================================================================================== =========================
open     connects; copies databases that cannot be pinned                                     versions of Chroma's tables
lock     takes all locks, pins SQLite and lets its writers continue; Chroma stays locked      time, pins, attempts
unlock   lets Chroma's writers continue                                                       pauses in milliseconds
copy     copies the databases that could not be pinned in place                               -
digest   reads a staged Chroma directory                                                      digests of collections
count    counts rows                                                                          rows of tables, by database
release  ends everything                                                                      -
======== ==================================================================================== =========================

Lock order (``docs/explanation/the-cut.md``): every SQLite database, then the gate and ``chroma.sqlite3`` of every Chroma
directory, each in the order of their real paths. An application that writes to Chroma inside a SQLite transaction waits for
SQLite before it holds Chroma, so the opposite order could deadlock with it. Every wait is bounded.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chroma_files.errors import BrokenIndex, NotChroma
from ..chroma_files.hnsw import check_structure
from ..chroma_files.quiescence import QuiescenceProblem, Unrest, quiescence_problems
from ..chroma_files.tables import DATABASE, check_supported, refuse_links
from ..errors import EngineError, SourceBroken, SourceBusy
from ..gate import Gate, GateTimeout
from ..runtime.child import Server
from ..runtime.sqlite import connect, is_interrupted, is_locked
from ..runtime.time_limit import TimeLimit
from .owners import owners
from .rows import Rows
from .sqlite import Database, Pinned, begin_immediate, check_writable, refusal
from .versions import Version, is_same_file, replaced, version_of

if TYPE_CHECKING:
    from ..chroma_files.digests import CollectionDigest

PIN_TRIES = 8
"""Attempts to pin a database in place before it is copied instead."""

SQLITE_WAIT = 5.0
"""Seconds to wait for a writer of SQLite to end its transaction, in each attempt."""

CHROMA_WAIT = 0.1
"""Seconds to wait for a further lock, in each attempt, while writers of the stores locked so far are held up."""

CONNECT_WAIT = 10.0
"""Seconds to wait for a write to end when a directory is opened."""

REST_WAIT = 0.1
"""Seconds to wait, with all locks held, for HNSW files that are being written."""

TABLES_WAIT = 10.0
"""Seconds that reading Chroma's tables may take in one attempt, with all locks held; never more than the cut has left."""

STANDS_STILL = {Unrest.WRITE_PENDING: 1.0, Unrest.INDEX_WRITTEN: 3.0, Unrest.LOG_IN_USE: float("inf")}
"""Seconds, in which writers had the lock most of the time, after which what has not moved is not being written.

A writer that waits for the lock gets it within a tenth of that. One that was killed never comes back, and Chroma applies what
it left when the collection is next used.
"""


class Directory:
    """One Chroma directory during the cut."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        self.held_ms = 0.0
        self.version = ""
        self.broken: str | None = None
        self.contradiction: str | None = None
        self._unmoved: dict[tuple[object, ...], tuple[QuiescenceProblem, float]] = {}
        self._standing: set[tuple[object, ...]] = set()
        self._gate = Gate(path)
        self._open = contextlib.ExitStack()
        self._locked_at = 0.0
        self._database: sqlite3.Connection | None = None
        self._version: Version | None = None
        self._checkpointer: sqlite3.Connection | None = None

    def connect(self) -> None:
        """Open ``chroma.sqlite3``; if it cannot be read as a database, `broken` says why."""
        file = self.path / DATABASE
        if not file.is_file():
            raise SourceBroken(
                f"{self.path} holds no {DATABASE}, so it is not a Chroma directory.",
                hint="Give the directory that PersistentClient or `chroma run --path` uses.",
            )
        refuse_links(self.path)
        check_writable(file)
        self._version = version_of(file)
        self._database = connect(file)
        self._database.execute(f"PRAGMA busy_timeout = {int(CONNECT_WAIT * 1000)}")
        try:
            with TimeLimit(self._database, CONNECT_WAIT + TABLES_WAIT):
                self.version = check_supported(self.path, self._database)
        except NotChroma as problem:
            self.broken = problem.message
        except sqlite3.OperationalError as problem:
            if is_interrupted(problem):
                raise _unread(self.path) from None
            if not is_locked(problem):
                raise refusal(file, "open", problem) from None
            raise _busy(self.path, "stayed locked by a writer") from None
        self._database.execute("PRAGMA busy_timeout = 0")
        self.check_same()
        if self.broken is None and self._database.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            self._checkpointer = connect(file)

    def check_same(self) -> None:
        """Raise `SourceBusy` if ``chroma.sqlite3`` is no longer the file that is open here."""
        if not is_same_file(version_of(self.path / DATABASE), self._version):
            raise replaced(self.path / DATABASE)

    def lock(self, wait: float) -> bool:
        """Hold up writers, through the application's gate where there is one. False after *wait* seconds."""
        if self.broken is not None:
            return True
        assert self._database is not None
        gated = self._gate.exists()
        if gated:
            try:
                self._open.enter_context(self._gate.exclusive(wait))
            except GateTimeout:
                return False
        since = time.monotonic()
        try:
            if not begin_immediate(self._database, self.path / DATABASE, wait):
                self._open.close()
                return False
            self._locked_at = since if gated else time.monotonic()
        except sqlite3.DatabaseError as problem:
            self.broken = str(problem)
        return True

    def wait_until_quiescent(self, within: float) -> QuiescenceProblem | None:
        """Wait until the index files are at rest. None when they are, else why not.

        Raises `SourceBroken` if the tables cannot be read in *within* seconds, at least one and at most `TABLES_WAIT`.
        """
        if self.broken is not None:
            return None
        assert self._database is not None
        with TimeLimit(self._database, min(TABLES_WAIT, max(1.0, within))):
            return self._look_until_quiescent(self._database)

    def _look_until_quiescent(self, database: sqlite3.Connection) -> QuiescenceProblem | None:
        deadline = time.monotonic() + REST_WAIT
        while True:
            try:
                problems = quiescence_problems(self.path, database, self._standing)
                problem = next(iter(problems), None) or self._fold_log()
            except sqlite3.DatabaseError as broken:
                if is_interrupted(broken):
                    raise _unread(self.path) from None
                self.broken = str(broken)
                return None
            if problem is None:
                return None
            if problem.reason is Unrest.WRITE_PENDING or time.monotonic() > deadline:
                self._note(problems)
                return problem
            time.sleep(0.005)

    def _note(self, problems: list[QuiescenceProblem]) -> None:
        """Remember since when nothing moves; what has not for long enough stands still (`STANDS_STILL`)."""
        now = time.monotonic()
        known = self._unmoved
        self._unmoved = {item.mark: known.get(item.mark, (item, now)) for item in problems}
        for item, since in self._unmoved.values():
            if now - since >= STANDS_STILL[item.reason]:
                self._settle(item)

    def _settle(self, problem: QuiescenceProblem) -> None:
        """Take what stands still as it is. An index that contradicts itself is broken: nobody will complete it."""
        self._standing.add(problem.mark)
        if problem.reason is Unrest.INDEX_WRITTEN:
            try:
                check_structure(self.path / problem.segment)
            except BrokenIndex as broken:
                self.contradiction = self.contradiction or f"{problem.segment}/{broken.file}: {broken}, and nobody writes to it"

    def is_left_alone(self) -> bool:
        """Whether nobody has the directory open, so that what has not moved until now never will."""
        if not self._unmoved or owners(self.path / DATABASE, parent=True):
            return False
        for item, _ in self._unmoved.values():
            self._settle(item)
        self._unmoved.clear()
        return True

    def _fold_log(self) -> QuiescenceProblem | None:
        """Checkpoint a ``chroma.sqlite3`` that was set to WAL mode, with the lock held; why not, when a reader prevents it."""
        if self._checkpointer is None:
            return None
        busy, log, checkpointed = self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if busy == 0 and log == checkpointed:
            return None
        return QuiescenceProblem(Unrest.LOG_IN_USE, "a reader needs the log of chroma.sqlite3", ())

    def unlock(self) -> None:
        """Let writers continue."""
        if self._locked_at:
            assert self._database is not None
            self._database.execute("ROLLBACK")
            self.held_ms = max(self.held_ms, (time.monotonic() - self._locked_at) * 1000)
            self._locked_at = 0.0
        self._open.close()

    def release(self) -> None:
        """End everything."""
        self.unlock()
        for connection in (self._checkpointer, self._database):
            if connection is not None:
                connection.close()


class Holder:
    """The handlers of the requests above."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._databases: list[Database] = []
        self._directories: list[Directory] = []
        self._pins: dict[str, Pinned] = {}

    def open(self, sqlite: list[list[str]], chroma: list[list[str]]) -> dict[str, str]:
        for name, path, staged in sqlite:
            self._databases.append(Database(name, Path(path), Path(staged)))
        for name, path in chroma:
            self._directories.append(Directory(name, Path(path)))
        self._databases.sort(key=lambda item: item.path.resolve())
        self._directories.sort(key=lambda item: item.path.resolve())
        for database in self._databases:
            database.open()
            database.copy_beforehand(self._step)
        for directory in self._directories:
            directory.connect()
        return {item.name: item.version for item in self._directories}

    def lock(self, within: float) -> dict[str, Any]:
        """Try for *within* seconds. Raises `SourceBusy`, naming the processes that may hold the lock."""
        deadline = time.monotonic() + within
        pause = 0.005
        attempts = 0
        while True:
            attempts += 1
            refusal = self._try(deadline, last=attempts >= PIN_TRIES)
            if refusal is None:
                break
            self._undo()
            if time.monotonic() > deadline and not any(item.is_left_alone() for item in self._directories):
                raise refusal()
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 1.6, 0.5)
        moment = datetime.now(UTC)
        # The state is fixed now: SQLite's writers may continue, Chroma's wait until its files are copied
        for database in self._databases:
            database.unlock()
        return {
            "time": moment.isoformat(),
            "attempts": attempts,
            "pins": {name: astuple(pin) for name, pin in self._pins.items()},
            "broken": {item.name: why for item in self._directories if (why := item.broken or item.contradiction)},
            "raw": [item.name for item in self._directories if item.broken],
        }

    def _try(self, deadline: float, *, last: bool) -> Callable[[], EngineError] | None:
        """Take all locks and pin. None on success, else a function that makes the error once the locks are released.

        In the *last* attempt a database that cannot be read in place is pinned for copying.
        """
        wait = max(0.0, min(SQLITE_WAIT, deadline - time.monotonic()))
        for database in self._databases:
            if not database.lock(wait):
                return database.busy
            wait = CHROMA_WAIT
        for directory in self._directories:
            if not directory.lock(CHROMA_WAIT):
                return functools.partial(_busy, directory.path, "stayed locked by a writer")
        for directory in self._directories:
            directory.check_same()
            problem = directory.wait_until_quiescent(deadline - time.monotonic())
            if problem is not None:
                return functools.partial(_busy, directory.path, f"did not come to rest: {problem.message}")
        for database in self._databases:
            pinned = database.pin(self._step, last=last)
            if pinned is None:
                return database.busy
            self._pins[database.name] = pinned
        return None

    def unlock(self) -> dict[str, Any]:
        for directory in self._directories:
            directory.check_same()  # its files were copied since `lock`
            directory.unlock()
        return {
            "sqlite": {item.name: item.held_ms for item in self._databases},
            "chroma": {item.name: item.held_ms for item in self._directories},
        }

    def _undo(self) -> None:
        for database in self._databases:
            database.unlock()
            database.unpin()
        for directory in self._directories:
            directory.unlock()
        self._pins.clear()

    def copy(self) -> None:
        for database in self._databases:
            database.copy_pinned(self._pins[database.name], self._step)

    def count(self) -> dict[str, Rows]:
        return {f"sqlite/{one.name}.sqlite3": one.count(self._pins[one.name]) for one in self._databases}

    def release(self) -> None:
        for database in self._databases:
            database.release()
        for directory in self._directories:
            directory.release()

    def digest(self, directory: str, parents: dict[str, dict[str, Any]], *, carry_on: bool) -> dict[str, Any]:
        """Digests of a copy, or ``{"problem", "file", "offset"}`` when its files contradict each other.

        *parents* maps ids of collections to the fields of `digests.ParentDigest`. *carry_on* as there.
        """
        from ..chroma_files import digests  # numpy is loaded only when a Chroma directory changed

        try:
            known = {collection: digests.ParentDigest(**fields) for collection, fields in parents.items()}
            found = digests.digest_collections(Path(directory), known, carry_on=carry_on)
        except BrokenIndex as problem:
            return {"problem": str(problem), "file": problem.file, "offset": problem.offset}
        except sqlite3.DatabaseError as problem:
            return {"problem": str(problem), "file": DATABASE, "offset": None}
        return {"collections": [_as_json(item) for item in found]}

    def _step(self, done: int) -> None:
        self._server.emit("copied", bytes=done)


def _as_json(item: CollectionDigest) -> dict[str, Any]:
    fields = ("id", "name", "dimension", "space", "metadata_at", "vector_at")
    digests = ("count", "indexed_count", "indexed", "recent", "records")
    return {
        **{name: getattr(item.collection, name) for name in fields},
        "digest": {name: getattr(item, name) for name in digests},
        "altered": item.altered,
    }


def _busy(path: Path, what: str) -> SourceBusy:
    holders = owners(path / DATABASE)
    return SourceBusy(f"{path} {what}; it is open in {holders}." if holders else f"{path} {what}.")


def _unread(path: Path) -> SourceBroken:
    return SourceBroken(
        f"Reading the tables of {path / DATABASE} took too long, and its writers would have had to wait.",
        hint="Allow more time with --within. If that does not help, look for tables that are larger than they should be.",
    )


def main() -> None:
    """Serve one backup."""
    server = Server()
    holder = Holder(server)
    names = ("open", "lock", "unlock", "copy", "digest", "count", "release")
    server.serve({name: getattr(holder, name) for name in names}, on_end=holder.release)


if __name__ == "__main__":
    main()
