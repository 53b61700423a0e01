"""Captures a SQLite database: pinned in place in WAL mode, else through the online backup API.

Pinning (https://www.sqlite.org/wal.html) takes three connections of one process, here W, C and R:

1. W: ``BEGIN IMMEDIATE``: no other writer from now on.
2. C: ``PRAGMA wal_checkpoint(PASSIVE)``: with W's lock held nothing is added; when all of the log is checkpointed, the file
   alone is the database. Checkpointing under W's lock only, this cannot meet the WAL-reset bug of SQLite before 3.51.3.
3. R: ``BEGIN`` and a read: with the log fully backfilled, R takes read lock 0, and no checkpoint touches the file until R ends.
4. W: ``ROLLBACK``: writers continue, into the log, while another process reads the file.

If the log cannot be backfilled because of an old reader, R still holds the snapshot of that instant, and the online backup
API copies it. A database in rollback-journal mode cannot be pinned without stopping its writers: it is copied in steps
beforehand, and under W's lock only if it changed since.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import EngineError, NoSpace, SourceBroken, SourceBusy
from ..runtime.space import is_full
from ..runtime.sqlite import connect, is_locked
from .owners import owners
from .rows import REST, Rows, count_rows, count_rows_of
from .versions import Version, is_same_file, replaced, version_of

OPEN_WAIT = 5.0
"""Seconds to wait for a lock when reading: in rollback-journal mode a writer that commits locks readers out."""

PIN_WAIT = 0.05
"""Seconds, in each attempt, to hold up writers until the checkpoint of another process ends."""

READ_HEADER = "PRAGMA schema_version"
"""Begins a read without parsing the schema, which takes a third of a second for 20,000 tables."""

COPY_PAGES = 4096
SMALL = 64 << 20
"""A database in rollback-journal mode up to this size may be copied while its writers wait."""

Method = Literal["pinned", "online", "raw"]


def check_writable(path: Path) -> None:
    """Raise `SourceBroken` for a database that this process may not write to.

    SQLite opens such a file read-only, and ``BEGIN IMMEDIATE`` then succeeds without any lock: writers would continue
    unnoticed (https://www.sqlite.org/lang_transaction.html).
    """
    if not os.access(path, os.W_OK):
        raise SourceBroken(
            f"{path} is not writable by this process, so its writers cannot be held up.",
            hint="Run as the application's user, or mount its folder writable: a backup changes nothing, but takes locks.",
        )


def _ask(connection: sqlite3.Connection, statement: str) -> Any:
    """The first value of *statement*'s result. Retries a locked database twice a millisecond."""
    deadline = time.monotonic() + OPEN_WAIT
    while True:
        try:
            return connection.execute(statement).fetchone()[0]
        except sqlite3.OperationalError as problem:
            if not is_locked(problem) or time.monotonic() > deadline:
                raise
            time.sleep(0.0005)


def refusal(path: Path, doing: str, problem: sqlite3.Error) -> EngineError:
    """The error for a database that SQLite cannot open, lock or copy; on a full disk that is no fault of the database."""
    if is_full(path.parent):
        return NoSpace(
            f"The disk of {path} is full, and SQLite needs space there to {doing} it: {problem}.",
            hint="Free space on that disk; nothing else is known to be wrong with the data. No backup was made.",
        )
    return SourceBroken(f"SQLite cannot {doing} {path}: {problem}.")


def begin_immediate(connection: sqlite3.Connection, path: Path, wait: float) -> bool:
    """Take the write lock of *path*, trying twice a millisecond. False if it stayed taken for *wait* seconds.

    Raises `SourceBroken` or `NoSpace` if it cannot be locked at all, and ``sqlite3.DatabaseError`` if it is not a database.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as problem:
            if not is_locked(problem):
                raise refusal(path, "lock", problem) from None
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        else:
            return True


@dataclass(frozen=True, slots=True)
class Pinned:
    """How a database was pinned, why not in place, and the bytes of its log then; -1 if it is copied after the cut.

    ``version`` is that of the file as long as it is pinned in place.
    """

    method: Method
    reason: str
    log_bytes: int
    not_a_database: bool = False
    version: Version | None = None


class _Overtaken(Exception):
    """Writers kept restarting a copy in steps for too long."""


class Database:
    """One database during the cut. Call `open`, `lock`, `pin`, `unlock`, then `release`."""

    def __init__(self, name: str, path: Path, staged: Path) -> None:
        self.name = name
        self.path = path.resolve()  # SQLite's logs lie beside the file, not beside a link to it
        self.staged = staged
        self._version_at_open: Version | None = None
        self.broken: str | None = None
        self._not_a_database = False
        self.wal = False
        self.held_ms = 0.0  # the longest time that writers waited without a break
        self._connections: list[sqlite3.Connection] = []
        self._locked_at = 0.0
        self._copied_at: int | None = None

    def open(self) -> None:
        """Connect and read the journal mode; if the file is not a database, `broken` says why.

        Raises `SourceBroken` or `NoSpace` if the file cannot be opened, and `SourceBusy`.
        """
        check_writable(self.path)
        before = version_of(self.path)
        try:
            self._writer, self._checkpointer, self._reader = (self._connect() for _ in range(3))
            mode = str(_ask(self._reader, "PRAGMA journal_mode"))
            for connection in (self._reader, self._checkpointer):
                _ask(connection, "SELECT count(*) FROM sqlite_schema")  # parses the schema, however large, before any lock
            self.wal = mode == "wal"
        except sqlite3.OperationalError as problem:
            if is_locked(problem):
                raise SourceBusy(self._busy_message("stayed locked, so that it could not be read")) from None
            raise refusal(self.path, "open", problem) from None
        except sqlite3.DatabaseError as problem:
            self.broken = str(problem)
            self._not_a_database = getattr(problem, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB
        self._version_at_open = version_of(self.path)
        if not is_same_file(before, self._version_at_open):
            raise replaced(self.path)

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self.path)
        self._connections.append(connection)
        return connection

    def copy_beforehand(self, step: Callable[[int], None]) -> None:
        """Copy a database that cannot be pinned, in steps between which writers continue."""
        if self.wal or self.broken is not None:
            return
        self._copied_at = self._version()
        try:
            self._copy(step, self._patience())
        except _Overtaken:
            self._copied_at = None

    def lock(self, wait: float) -> bool:
        """W: hold up writers. False if another writer did not end within *wait* seconds."""
        if self.broken is not None:
            return True
        try:
            if not begin_immediate(self._writer, self.path, wait):
                return False
            self._locked_at = time.monotonic()
        except sqlite3.DatabaseError as problem:
            self.broken = str(problem)
        return True

    def pin(self, step: Callable[[int], None], *, last: bool) -> Pinned | None:
        """With `lock` held, fix the state of this instant for later reading.

        None if the file cannot be read in place now, because another process checkpoints it or an old reader needs its log,
        and this is not the *last* attempt.
        """
        version = version_of(self.path)
        if not is_same_file(version, self._version_at_open):
            raise replaced(self.path)
        if self.broken is not None:
            return Pinned("raw", f"it is broken ({self.broken}); its bytes are kept as they are", 0, self._not_a_database)
        if not self.wal:
            return self._pin_journal(step)
        deadline = time.monotonic() + PIN_WAIT
        while True:
            busy, log, checkpointed = self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if (busy == 0 and log == checkpointed) or time.monotonic() > deadline:
                break
            time.sleep(0.001)  # no process can begin another while the writer's lock is held
        self._reader.execute("BEGIN")
        self._reader.execute(READ_HEADER).fetchone()
        size = self._log_bytes()
        if busy == 0 and log == checkpointed:
            return Pinned("pinned", "", size, version=version_of(self.path))
        if not last:
            return None
        why = "another process keeps checkpointing it" if log == checkpointed else "an old reader needs its log"
        return Pinned("online", f"{why} ({log - checkpointed} of {log} pages are not in the file yet)", size)

    def _pin_journal(self, step: Callable[[int], None]) -> Pinned:
        why = "it is in rollback-journal mode"
        if self._copied_at is not None and self._version() == self._copied_at:
            return Pinned("online", f"{why}; nothing was written since it was copied", 0)
        if self.path.stat().st_size <= SMALL:
            self._copy(step)
            return Pinned("online", f"{why}; its writers waited while it was copied", 0)
        return Pinned("online", f"{why} and written to: copied just after the other stores' instant", -1)

    def unlock(self) -> None:
        """W: let writers continue."""
        if self._locked_at:
            self._writer.execute("ROLLBACK")
            self.held_ms = max(self.held_ms, (time.monotonic() - self._locked_at) * 1000)
            self._locked_at = 0.0

    def unpin(self) -> None:
        """R: release the pinned state, so that the cut can be tried again."""
        if self.broken is None and self._reader.in_transaction:
            self._reader.execute("ROLLBACK")

    def copy_pinned(self, pinned: Pinned, step: Callable[[int], None]) -> None:
        """Copy the pinned state if the file itself must not be read."""
        if pinned.method != "online" or not (self.wal or pinned.log_bytes < 0):
            return
        try:
            self._copy(step, None if self.wal else self._patience())
        except _Overtaken:
            self._read_lock()
            self._copy(step)

    def count(self, pinned: Pinned) -> Rows:
        """The rows of its tables at the cut, as far as they can be counted quickly."""
        if pinned.method == "raw":
            return {REST: None}
        return count_rows(self._reader) if pinned.method == "pinned" else count_rows_of(self.staged)

    def _read_lock(self) -> None:
        """Keep writers in rollback-journal mode from committing, until `release`. Raises `SourceBusy`."""
        self._reader.execute("BEGIN")
        try:
            _ask(self._reader, "SELECT count(*) FROM sqlite_schema")
        except sqlite3.OperationalError:
            raise self.busy() from None

    def _patience(self) -> float:
        """Seconds after which a copy in steps is abandoned; each commit of a writer restarts it."""
        return 2.0 + self.path.stat().st_size / 25_000_000

    def release(self) -> None:
        """Close all connections. The last one checkpoints the log into the file, so reading in place is over."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _copy(self, step: Callable[[int], None], patience: float | None = None) -> None:
        """Copy through R. Raises `_Overtaken` after *patience* seconds, `NoSpace` and `SourceBroken`."""
        self.staged.unlink(missing_ok=True)
        target = sqlite3.connect(self.staged, isolation_level=None)
        began = time.monotonic()

        def on_progress(_: int, left: int, total: int) -> None:
            step((total - left) * page)
            if patience is not None and left and time.monotonic() - began > patience:
                raise _Overtaken

        try:
            target.execute("PRAGMA synchronous = OFF")
            target.execute("PRAGMA journal_mode = OFF")
            page = int(_ask(self._reader, "PRAGMA page_size"))
            self._reader.backup(target, pages=COPY_PAGES, progress=on_progress, sleep=0.001)
        except sqlite3.DatabaseError as problem:
            if problem.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
                raise NoSpace(f"The copy of {self.path} does not fit: the disk or quota is full.") from None
            raise refusal(self.path, "copy", problem) from None
        finally:
            target.close()

    def _version(self) -> int:
        return int(_ask(self._checkpointer, "PRAGMA data_version"))

    def _log_bytes(self) -> int:
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def busy(self) -> SourceBusy:
        """The error for a lock that could not be taken."""
        return SourceBusy(self._busy_message("stayed locked by a writer"))

    def _busy_message(self, what: str) -> str:
        holders = owners(self.path)
        return f"{self.path} {what}; it is open in {holders}." if holders else f"{self.path} {what}."
