"""SQLite's own checks of a database, divided into damage and findings.

A check runs in this process, which may lack what the application brings: its collations and functions, or a newer SQLite. What
cannot be checked for that reason, and rows that break a constraint, are *findings*: the application reads and writes such a
database, and a copy of it is whole. *Damage* is a database whose pages or indexes are wrong.

When the check of the whole database cannot be compiled, its pages are checked as a whole all the same (``quick_check`` compares
no values, so that any collation will do), and then the content of each table. Where a constraint or an index prevents that too,
`index_check` compares what does not depend on it.
"""

import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .index_check import check_indexes
from .sqlite import is_locked, primary_code, quoted
from .sqlite_verdict import Verdict
from .time_limit import TimeLimit
from .virtual_tables import check_virtual_tables

_MOST_ROWS = 100_000
_MOST_ROWS_OF_TABLE = 100
"""SQLite's own limit of messages if the check is of one table."""

_MOST_SHOWN = 20
_BUILT_IN = ("BINARY", "NOCASE", "RTRIM")
_ACCEPTED = re.compile(r"(NULL|non-[A-Z]+|TEXT|NUMERIC) value in .+|CHECK constraint failed in .+")
"""Messages of ``integrity_check`` about values (SQLite's ``pragma.c``; it has no codes for them). All others are damage."""

_OF_MODULES = re.compile(r"((malformed|unable to validate the) inverted index for |fts5: |In RTree ).*", re.DOTALL)
"""What ``integrity_check`` of SQLite 3.44 or later passes on from the modules of virtual tables; see `virtual_tables`."""


def check_header(database: sqlite3.Connection, verdict: Verdict) -> None:
    """Add damage if the header promises more pages than there are: SQLite refuses such a file, but `sqlite.connect` does not.

    Raises ``sqlite3.OperationalError`` for a locked database.
    """
    database.execute("PRAGMA writable_schema = RESET")
    try:
        database.execute("PRAGMA user_version").fetchone()  # reads the header, and no definitions
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) != sqlite3.SQLITE_CORRUPT:
            raise
        verdict.damaged(f"{problem}: it is shorter than its header says")
    finally:
        database.execute("PRAGMA writable_schema = ON")


def check_pages(database: sqlite3.Connection, *, thorough: bool, limit: TimeLimit | None = None) -> Verdict:
    """Check pages and, if *thorough*, compare every index with its table. *database* comes from `sqlite.connect`.

    Virtual tables are checked as the ordinary tables that hold their content. If *limit* passes, the verdict is what was found
    until then, and `Verdict.late`. Raises ``sqlite3.OperationalError`` for a locked database.
    """
    verdict = Verdict(limit=limit)
    try:
        check_header(database, verdict)
        if not verdict.damage:
            _check_whole(database, verdict, "integrity_check" if thorough else "quick_check")
    except sqlite3.DatabaseError as problem:
        if is_locked(problem):
            raise
        verdict.damaged(str(problem))
    for message, count in verdict.accepted.items():
        verdict.findings.append(message if count == 1 else f"{message} ({count} times)")
    return verdict


def check_content(
    database: sqlite3.Connection, *, own: bool = True, thorough: bool = True, limit: TimeLimit | None = None
) -> Verdict:
    """`check_pages`, then virtual tables, broken foreign keys and the rows of every table.

    *own*: nobody else uses *database*. Of another one, only what can be read without delaying a writer is checked.
    """
    verdict = check_pages(database, thorough=thorough, limit=limit)
    if not verdict.damage and not verdict.late:
        try:
            check_virtual_tables(database, verdict, own=own)
            if own:
                with _stand_ins(database):
                    _check_keys(database, verdict)
                    _count_rows(database, verdict)
        except sqlite3.DatabaseError as problem:
            verdict.damaged(str(problem))
    return verdict


def _check_whole(database: sqlite3.Connection, verdict: Verdict, check: str) -> None:
    accounted = _check_definitions(database, verdict)
    if accounted and _run(database, check, verdict) is None:
        return
    with _stand_ins(database):
        tables = list(_tables(database))
        with _without_constraints(database):
            for what in [""] if accounted else [f"({quoted(table)})" for table in tables]:
                if problem := _run(database, f"quick_check{what}", verdict):
                    verdict.unchecked("The database as a whole", problem)
    for table in tables:
        _check_table(database, verdict, check, table)


def _check_table(database: sqlite3.Connection, verdict: Verdict, check: str, table: str) -> None:
    first = _run(database, f"{check}({quoted(table)})", verdict)
    if first is None:
        return
    with _without_constraints(database):
        if _run(database, f"{check}({quoted(table)})", verdict) is None:
            verdict.unchecked(f"The CHECK constraints of {table}", first)
            return
    verdict.unchecked(f"The content of {table}", first)
    if check == "integrity_check":
        database.execute("PRAGMA writable_schema = RESET")  # an index that could not be opened is not tried again
        database.execute("PRAGMA writable_schema = ON")
        with _stand_ins(database):
            check_indexes(database, verdict, table)


def _run(database: sqlite3.Connection, check: str, verdict: Verdict) -> sqlite3.Error | None:
    """Run one check. Returns the error if it cannot be compiled here."""
    name, paren, argument = check.partition("(")
    most, where = (_MOST_ROWS_OF_TABLE, argument.rstrip(")")) if paren else (_MOST_ROWS, "the database")
    accepted: Counter[str] = Counter()
    try:
        rows = database.execute(f"PRAGMA {name}({argument}" if paren else f"PRAGMA {name}({most})")
        for number, (message,) in enumerate(rows, start=1):
            if message == "ok" or _OF_MODULES.fullmatch(message):
                continue
            if _ACCEPTED.fullmatch(message):
                accepted[message] += 1
            else:
                verdict.damaged(str(message))
            if len(verdict.damage) >= _MOST_SHOWN:
                break
            if number >= most:
                verdict.unchecked(f"The rest of {where}", f"it has more than {most:,} rows that break a constraint")
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) != sqlite3.SQLITE_ERROR:
            raise
        return problem
    finally:
        verdict.accepted |= accepted  # the greater count: a table may be checked twice
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
        if kind in ("view", "index") and str(statement).upper().startswith("CREATE "):
            why = f"its definition needs a newer version than SQLite {sqlite3.sqlite_version}, or is damaged"
            verdict.unchecked(f"The {kind} {name}", why)
        else:
            verdict.damaged(f"The {kind} {name} is not understood by SQLite {sqlite3.sqlite_version}, so it cannot be read")
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


@contextmanager
def _without_constraints(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("PRAGMA ignore_check_constraints = 1")
    try:
        yield
    finally:
        database.execute("PRAGMA ignore_check_constraints = 0")


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
