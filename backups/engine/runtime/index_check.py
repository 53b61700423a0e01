"""Compares the indexes of a table whose ``integrity_check`` does not compile here, because a collation or function is missing.

The order of an index depends on its collation, but not which rows it has an entry for. A stand-in for the collation lets SQLite
read the index from its first entry to its last; it must never search with it.
"""

import sqlite3

from .sqlite import primary_code, quoted
from .sqlite_verdict import Verdict


def check_indexes(database: sqlite3.Connection, verdict: Verdict, table: str) -> None:
    """Compare each index of *table* with its rows, except for its order. Every collation must have a stand-in."""
    columns = database.execute("SELECT name, pk FROM pragma_table_xinfo(?) ORDER BY pk", (table,)).fetchall()
    taken = {name.lower() for name, _ in columns}
    rowid = next((name for name in ("rowid", "oid", "_rowid_") if name not in taken), None)
    query = (
        "SELECT l.name, origin, partial, (SELECT count(*) FROM pragma_index_xinfo(l.name) WHERE cid = -1)"
        " FROM pragma_index_list(?) l"
    )
    indexes = database.execute(query, (table,)).fetchall()
    itself = next((name for name, origin, _, has_rowid in indexes if origin == "pk" and not has_rowid), "")
    for index, _, partial, _ in indexes:
        try:
            if partial:
                verdict.unchecked(f"The index {index} of {table}", "which rows it holds depends on its condition")
            elif index == itself:
                continue
            elif itself:
                _compare_counts(database, verdict, table, (index, itself), next(name for name, pk in columns if pk))
            elif rowid is None:
                verdict.unchecked(f"The index {index} of {table}", "columns of the table have all names of its row numbers")
            else:
                _compare(database, verdict, table, index, rowid)
        except sqlite3.DatabaseError as problem:
            if primary_code(problem) != sqlite3.SQLITE_ERROR:
                raise
            verdict.unchecked(f"The index {index} of {table}", problem)


def _compare_counts(database: sqlite3.Connection, verdict: Verdict, table: str, indexes: tuple[str, str], key: str) -> None:
    """Compare the numbers of entries of an index and of the table without row numbers, whose rows cannot be looked up here."""
    # count(*) would be of any index
    query = f"SELECT count({quoted(key)}) + total({quoted(key)} IS NULL) FROM {quoted(table)} INDEXED BY "
    entries, rows = (int(database.execute(query + quoted(index)).fetchone()[0]) for index in indexes)
    _report(verdict, indexes[0], rows, entries, entries, 0)


def _compare(database: sqlite3.Connection, verdict: Verdict, table: str, index: str, rowid: str) -> None:
    """Look up the row of each entry and compare its values, except for values that functions compute."""
    query = "SELECT name FROM pragma_index_xinfo(?) WHERE key AND cid >= 0"
    names = [quoted(name) for (name,) in database.execute(query, (index,))]
    (rows,) = database.execute(f"SELECT count(*) FROM {quoted(table)} NOT INDEXED").fetchone()
    try:
        found = _entries(database, table, index, rowid, names)
    except sqlite3.DatabaseError as problem:
        if primary_code(problem) != sqlite3.SQLITE_ERROR or not names:
            raise
        found = _entries(database, table, index, rowid, [])
    _report(verdict, index, int(rows), *found)


def _entries(database: sqlite3.Connection, table: str, index: str, rowid: str, names: list[str]) -> tuple[int, int, int]:
    """The entries of an index, the rows that they belong to, and the entries that differ from their rows."""
    values = "".join(f", {name} AS v{number}" for number, name in enumerate(names))
    differ = "".join(f" OR t.{name} COLLATE BINARY IS NOT i.v{number}" for number, name in enumerate(names))
    query = (
        f"SELECT count(*), count(DISTINCT i.number), total(t.{rowid} IS NULL{differ})"
        f" FROM (SELECT {rowid} AS number{values} FROM {quoted(table)} INDEXED BY {quoted(index)}) AS i"
        f" LEFT JOIN {quoted(table)} AS t NOT INDEXED ON t.{rowid} = i.number"
    )
    entries, belong, wrong = database.execute(query).fetchone()
    return int(entries), int(belong), int(wrong)


def _report(verdict: Verdict, index: str, rows: int, entries: int, belong: int, wrong: int) -> None:
    if entries != rows or belong != entries:
        verdict.damaged(f"wrong # of entries in index {index}: {belong} instead of {rows}")
    elif wrong:
        verdict.damaged(f"{wrong} entries of index {index} differ from their rows")
