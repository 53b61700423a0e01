"""A limit of time for SQLite statements."""

from __future__ import annotations

import sqlite3
import threading
from types import TracebackType

_PULSE = 0.05


class TimeLimit:
    """A context that interrupts the statements of a connection which still run after *seconds*.

    A progress handler is not enough: SQLite before 3.41 calls none while ``integrity_check`` walks the pages. An interrupted
    check may report errors that do not exist, so nothing counts that it says once ``passed`` is true.
    """

    def __init__(self, database: sqlite3.Connection, seconds: float) -> None:
        self._database = database
        self._seconds = seconds
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._interrupt, daemon=True)
        self.passed = False

    def _interrupt(self) -> None:
        wait = self._seconds
        while not self._over.wait(wait):
            self.passed = True
            self._database.interrupt()  # repeated: it does not affect the next statement
            wait = _PULSE

    def __enter__(self) -> TimeLimit:
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._watch.join()
