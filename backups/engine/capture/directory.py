"""One Chroma directory during the cut: its lock, and whether its files are at rest."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

from ..chroma_files.errors import BrokenIndex, NotChroma
from ..chroma_files.hnsw import check_structure
from ..chroma_files.log_tally import LogTally
from ..chroma_files.quiescence import QuiescenceProblem, Unrest, quiescence_problems
from ..chroma_files.tables import DATABASE, check_supported, refuse_links
from ..errors import SourceBroken, SourceBusy
from ..gate import Gate, GateTimeout
from ..runtime.sqlite import connect, is_interrupted, is_locked
from ..runtime.time_limit import TimeLimit
from .owners import owners
from .sqlite import begin_immediate, check_writable, refusal
from .versions import Version, is_same_file, replaced, version_of

CONNECT_WAIT = 10.0
"""Seconds to wait for a write to end when a directory is opened."""

REST_WAIT = 0.1
"""Seconds to wait, with all locks held, for HNSW files that are being written."""

TABLES_WAIT = 10.0
"""Seconds that reading Chroma's tables may take without a lock. With locks held it may take what is left of the pause."""

_COUNTS = 2

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
        self._tally = LogTally()
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
                raise unread(self.path, CONNECT_WAIT + TABLES_WAIT) from None
            if not is_locked(problem):
                raise refusal(file, "open", problem) from None
            raise busy(self.path, "stayed locked by a writer") from None
        self._database.execute("PRAGMA busy_timeout = 0")
        self.check_same()
        if self.broken is None and self._database.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            self._checkpointer = connect(file)

    def check_same(self) -> None:
        """Raise `SourceBusy` if ``chroma.sqlite3`` is no longer the file that is open here."""
        if not is_same_file(version_of(self.path / DATABASE), self._version):
            raise replaced(self.path / DATABASE)

    def count(self) -> None:
        """Read the tables while writers continue, so that little is left to read under the lock.

        What cannot be read now is judged under the lock.
        """
        if self.broken is not None or self._database is None:
            return
        with contextlib.suppress(sqlite3.DatabaseError, SourceBroken), TimeLimit(self._database, TABLES_WAIT):
            for _ in range(_COUNTS):  # the first takes longer, so that a writer may come in between
                self._tally.update(self._database)

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
        """Wait until the index files are at rest. None when they are, else why not; *within* seconds may not suffice."""
        if self.broken is not None:
            return None
        assert self._database is not None
        with TimeLimit(self._database, within):
            return self._look_until_quiescent(self._database, within)

    def _look_until_quiescent(self, database: sqlite3.Connection, within: float) -> QuiescenceProblem | None:
        deadline = time.monotonic() + min(REST_WAIT, within)
        while True:
            try:
                problems = quiescence_problems(self.path, database, self._tally, self._standing)
                problem = next(iter(problems), None) or self._fold_log()
            except sqlite3.DatabaseError as broken:
                if is_interrupted(broken):
                    return QuiescenceProblem(Unrest.TABLES_UNREAD, "reading its tables took too long", ())
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

    @property
    def held_for(self) -> float:
        """Seconds for which writers have been held up until now."""
        return time.monotonic() - self._locked_at if self._locked_at else 0.0

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


def busy(path: Path, what: str, hint: str | None = None) -> SourceBusy:
    """The error for a directory that *what*, with the processes that have it open."""
    holders = owners(path / DATABASE)
    return SourceBusy(f"{path} {what}; it is open in {holders}." if holders else f"{path} {what}.", hint=hint)


def unread(path: Path, seconds: float) -> SourceBroken:
    """The error for tables that take more than *seconds* to read."""
    return SourceBroken(
        f"Reading the tables of {path / DATABASE} takes more than {seconds:g} s, and its writers would have had to wait.",
        hint="Allow a longer pause with --max-pause; if that does not help, look for tables larger than they should be.",
    )
