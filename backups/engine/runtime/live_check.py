"""SQLite's checks of a database that an application uses: they write nothing, and end after some seconds."""

import sqlite3
from contextlib import closing

from .sqlite import copy_in_memory, is_locked
from .sqlite_check import check_content, check_header
from .sqlite_verdict import Verdict
from .time_limit import TimeLimit

_MOST_COPIED = 64 << 20
"""Bytes of the largest database that is copied into memory, where it is checked like a restored copy."""


def check_live(database: sqlite3.Connection, seconds: float) -> Verdict:
    """Check a database for about *seconds*; if they are too few, start over without comparing indexes, for as long again.

    Where ``skipped`` is empty, the verdict is that of `check_content`. *database* comes from `sqlite.connect`. Raises
    ``sqlite3.DatabaseError`` for one that is locked or cannot be read.
    """
    verdict = Verdict()
    check_header(database, verdict)  # SQLite would correct it in a copy
    if verdict.damage:
        return verdict
    pages, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size <= _MOST_COPIED:
        try:
            copy = copy_in_memory(database)
        except sqlite3.DatabaseError as problem:
            if is_locked(problem):
                raise
        else:
            with closing(copy):
                return _check(copy, seconds, own=True)
    return _check(database, seconds, own=False)


def _check(database: sqlite3.Connection, seconds: float, *, own: bool) -> Verdict:
    with TimeLimit(database, seconds) as limit:
        verdict = check_content(database, own=own, limit=limit)
    if verdict.damage or not verdict.late:
        return verdict
    with TimeLimit(database, seconds) as limit:
        verdict = check_content(database, own=own, thorough=False, limit=limit)
    what = "to read all its pages" if verdict.late else "to compare its indexes with its tables"
    verdict.skipped.insert(0, f"{seconds:g} s were not enough {what}")
    return verdict
