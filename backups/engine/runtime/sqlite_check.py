"""SQLite's own checks of a database, divided into damage and findings.

A check runs in this process, which may lack what the application brings: its collations and functions, or a newer SQLite. What
cannot be checked for that reason, and rows that break a constraint, are *findings*: the application reads and writes such a
database, and a copy of it is whole. *Damage* is a database whose pages or indexes are wrong.

When the check of the whole database cannot be compiled, its pages are checked as a whole all the same (``quick_check`` compares
no values, so that any collation will do), and then the content of each table.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from .sqlite import primary_code, quoted

_MOST_ROWS = 100_000
_MOST_SHOWN = 20
_BUILT_IN = ("BINARY", "NOCASE", "RTRIM")
_ACCEPTED = re.compile(r"(NULL|non-[A-Z]+|TEXT|NUMERIC) value in .+|CHECK constraint failed in .+")
"""Messages of ``integrity_check`` about values (SQLite's ``pragma.c``; it has no codes for them). All others are damage."""


@dataclass(slots=True)
class Verdict:
    """What the checks found. ``partial``: some of the checks could not run here."""

    damage: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    partial: bool = False
    broken_keys: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    _accepted: Counter[str] = field(default_factory=Counter)

    def unchecked(self, what: str, why: object) -> None:
        """Add a finding about something that cannot be checked here."""
        self.partial = True
        self.findings.append(f"{what} cannot be checked here: {why}")


def check_pages(database: sqlite3.Connection, *, thorough: bool) -> Verdict:
    """Check pages and, if *thorough*, compare every index with its table. *database* comes from `sqlite.connect`.

    Raises ``sqlite3.OperationalError`` for a locked database and for a query that a progress handler ended.
    """
    verdict = Verdict()
    try:
        _check_whole(database, verdict, "integrity_check" if thorough else "quick_check")
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_INTERRUPT):
            raise
        verdict.damage.append(str(problem))
    for message, count in verdict._accepted.items():
        verdict.findings.append(message if count == 1 else f"{message} ({count} times)")
    return verdict


def check_content(database: sqlite3.Connection) -> Verdict:
    """`check_pages`, thorough, then count broken foreign keys and the rows of every table."""
    verdict = check_pages(database, thorough=True)
    if not verdict.damage:
        try:
            with _stand_ins(database):
                _check_keys(database, verdict)
                _count_rows(database, verdict)
        except sqlite3.DatabaseError as problem:
            verdict.damage.append(str(problem))
    return verdict


def _check_whole(database: sqlite3.Connection, verdict: Verdict, check: str) -> None:
    accounted = _check_definitions(database, verdict)
    if accounted and _run(database, check, verdict) is None:
        return
    with _stand_ins(database):
        tables = list(_tables(database))
        _without_constraints(database, True)
        try:
            for what in [""] if accounted else [f"({quoted(table)})" for table in tables]:
                if problem := _run(database, f"quick_check{what}", verdict):
                    verdict.unchecked("The database as a whole", problem)
        finally:
            _without_constraints(database, False)
    for table in tables:
        if problem := _run(database, f"{check}({quoted(table)})", verdict):
            verdict.unchecked(f"The content of {table}", problem)


def _run(database: sqlite3.Connection, check: str, verdict: Verdict) -> sqlite3.Error | None:
    """Run one check. Returns the error if it cannot be compiled here."""
    name, paren, argument = check.partition("(")
    whole = not paren
    accepted: Counter[str] = Counter()
    try:
        rows = database.execute(f"PRAGMA {name}({_MOST_ROWS})" if whole else f"PRAGMA {name}({argument}")
        for number, (message,) in enumerate(rows, start=1):
            if message == "ok" or message in verdict.damage:
                continue
            if _ACCEPTED.fullmatch(message):
                accepted[message] += 1
            else:
                verdict.damage.append(str(message))
            if len(verdict.damage) >= _MOST_SHOWN:
                break
            if number >= _MOST_ROWS:
                verdict.unchecked("The rest of the database", f"it has more than {_MOST_ROWS:,} rows that break a constraint")
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) != sqlite3.SQLITE_ERROR:
            raise
        return problem
    finally:
        verdict._accepted |= accepted  # the greater count: a table may be checked twice
    return None


def _check_definitions(database: sqlite3.Connection, verdict: Verdict) -> bool:
    """Report what is defined in words that this SQLite does not understand. False if such a definition owns pages."""
    database.execute("PRAGMA writable_schema = RESET")  # now a definition that cannot be parsed is an error again
    try:
        database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return True
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) != sqlite3.SQLITE_CORRUPT:
            raise
        why = str(problem)
    finally:
        database.execute("PRAGMA writable_schema = ON")
    accounted = True
    named = False
    defined = database.execute("SELECT rowid, type, name, rootpage, sql FROM sqlite_schema").fetchall()
    for row, kind, name, root, statement in defined:
        if kind == "trigger" or _is_known(database, kind, row):
            continue
        named = True
        accounted = accounted and not root
        message = f"The {kind} {name} is not understood by SQLite {sqlite3.sqlite_version}"
        if kind in ("view", "index") and str(statement).upper().startswith("CREATE "):
            verdict.partial = True
            verdict.findings.append(f"{message}: it needs a newer version, or its definition is damaged")
        else:
            verdict.damage.append(f"{message}, so it cannot be read")
    if not named:
        verdict.unchecked("A trigger", why)
    return accounted


def _is_known(database: sqlite3.Connection, kind: str, row: int) -> bool:
    parts = "pragma_index_info" if kind == "index" else "pragma_table_info"
    query = f"SELECT count(*) FROM sqlite_schema s JOIN {parts}(s.name) WHERE s.rowid = ?"
    try:
        return int(database.execute(query, (row,)).fetchone()[0]) > 0
    except sqlite3.OperationalError:
        return True  # a view of tables or functions that do not exist here is parsed, and fails when it is used


def _tables(database: sqlite3.Connection) -> Iterator[str]:
    """The names of the tables, without virtual ones, which may need a module that is not loaded."""
    for name, _ in database.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        " AND sql NOT LIKE 'CREATE VIRTUAL%' ORDER BY name"
    ).fetchall():
        yield name


@contextmanager
def _stand_ins(database: sqlite3.Connection) -> Iterator[None]:
    """Define a stand-in for every collation of an index that is missing here, so that the index can be opened."""
    wanted = {
        name
        for table in _tables(database)
        for (name,) in database.execute(
            "SELECT DISTINCT x.coll FROM pragma_index_list(?) l JOIN pragma_index_xinfo(l.name) x WHERE x.coll IS NOT NULL",
            (table,),
        )
    }
    missing = [name for name in wanted if name.upper() not in _BUILT_IN]
    for name in missing:
        database.create_collation(name, lambda one, other: (one > other) - (one < other))
    try:
        yield
    finally:
        for name in missing:
            database.create_collation(name, None)


def _without_constraints(database: sqlite3.Connection, without: bool) -> None:
    database.execute(f"PRAGMA ignore_check_constraints = {int(without)}")


def _check_keys(database: sqlite3.Connection, verdict: Verdict) -> None:
    try:
        verdict.broken_keys = sum(1 for _ in database.execute("PRAGMA foreign_key_check"))
        return
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) != sqlite3.SQLITE_ERROR:
            raise
    for table in _tables(database):
        try:
            verdict.broken_keys += sum(1 for _ in database.execute(f"PRAGMA foreign_key_check({quoted(table)})"))
        except sqlite3.DatabaseError as problem:
            if primary_code(problem) != sqlite3.SQLITE_ERROR:
                raise
            verdict.unchecked(f"The foreign keys of {table}", problem)


def _count_rows(database: sqlite3.Connection, verdict: Verdict) -> None:
    for table in _tables(database):
        try:
            verdict.rows[table] = int(database.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()[0])
        except sqlite3.DatabaseError as problem:
            if primary_code(problem) != sqlite3.SQLITE_ERROR:
                raise
            verdict.unchecked(f"The rows of {table}", problem)
