"""The child process that locks the live stores: the only process of a backup with connections to them.

Requests, in the order in which `cut.py` sends them:

======== ==================================================================================== =========================
do       does                                                                                 answer
======== ==================================================================================== =========================
open     connects; copies databases that cannot be pinned                                     versions of Chroma's tables
lock     takes all locks, pins SQLite and lets its writers continue; Chroma stays locked      time, pins, attempts
back_off lets all writers continue, to take the locks again later                             -
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

import functools
import math
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chroma_files.errors import BrokenIndex
from ..chroma_files.quiescence import Unrest
from ..chroma_files.tables import DATABASE
from ..errors import EngineError
from ..runtime.child import Server
from .directory import Directory, busy, unread
from .rows import Rows
from .sqlite import Database, Pinned

if TYPE_CHECKING:
    from ..chroma_files.digests import CollectionDigest

PIN_TRIES = 8
"""Attempts to pin a database in place before it is copied instead."""

SQLITE_WAIT = 5.0
"""Seconds to wait for a writer of SQLite to end its transaction, in each attempt."""

CHROMA_WAIT = 0.1
"""Seconds to wait for a further lock, in each attempt, while writers of the stores locked so far are held up."""

_LONGER = "Allow a longer pause with --max-pause, or make the backup when less is written. No backup was made."


class Holder:
    """The handlers of the requests above."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._databases: list[Database] = []
        self._directories: list[Directory] = []
        self._pins: dict[str, Pinned] = {}
        self._max_pause = math.inf

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

    def lock(self, within: float, max_pause: float) -> dict[str, Any]:
        """Try for *within* seconds, and hold writers up for at most *max_pause* in each attempt.

        Raises `SourceBusy`, naming the processes that may hold the lock, and `SourceBroken` for tables too long to read in it.
        """
        self._max_pause = max_pause
        deadline = time.monotonic() + within
        pause = 0.005
        attempts = 0
        while True:
            attempts += 1
            for directory in self._directories:
                directory.count()
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
            "held": max((item.held_for for item in self._directories), default=0.0),
        }

    def _try(self, deadline: float, *, last: bool) -> Callable[[], EngineError] | None:
        """Take all locks and pin. None on success, else a function that makes the error once the locks are released.

        In the *last* attempt a database that cannot be read in place is pinned for copying.
        """
        wait = max(0.0, min(SQLITE_WAIT, deadline - time.monotonic()))
        until = math.inf  # no writer is held up yet
        for database in self._databases:
            if not database.lock(wait):
                return database.busy
            until = min(until, time.monotonic() + self._max_pause)
            wait = min(CHROMA_WAIT, self._max_pause)
        for directory in self._directories:
            if not directory.lock(min(CHROMA_WAIT, self._max_pause)):
                return functools.partial(busy, directory.path, "stayed locked by a writer")
            until = min(until, time.monotonic() + self._max_pause)
        for directory in self._directories:
            directory.check_same()
            problem = directory.wait_until_quiescent(max(0.0, until - time.monotonic()))
            if problem is not None and problem.reason is Unrest.TABLES_UNREAD:
                return functools.partial(unread, directory.path, self._max_pause)
            if problem is not None:
                return functools.partial(busy, directory.path, f"did not come to rest: {problem.message}")
        for database in self._databases:
            pinned = database.pin(self._step, last=last)
            if pinned is None:
                return database.busy
            self._pins[database.name] = pinned
        return None

    def back_off(self, last: bool) -> None:
        """Let writers continue: copying their changes took too long. Raises `SourceBusy` if it was the *last* attempt."""
        self._undo()
        if last:
            what = f"was written to so much that its changes could not be copied in a pause of {self._max_pause:g} s"
            places = sorted(self._directories, key=lambda item: item.held_ms)
            raise busy(places[-1].path, what, hint=_LONGER)

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


def main() -> None:
    """Serve one backup."""
    server = Server()
    holder = Holder(server)
    names = ("open", "lock", "back_off", "unlock", "copy", "digest", "count", "release")
    server.serve({name: getattr(holder, name) for name in names}, on_end=holder.release)


if __name__ == "__main__":
    main()
