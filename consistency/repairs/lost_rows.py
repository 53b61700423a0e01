"""Rows that are lost from SQLite: found in backups, inserted again together with rows that they refer to, and removed again."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from django.db.backends.utils import CursorWrapper

from consistency.declaration import backup_databases
from consistency.engine.context import Context
from consistency.engine.errors import RepairRefused
from consistency.engine.findings import FindingKind
from consistency.engine.rows import Rows, connect, name
from consistency.engine.stores import OpenStores

LOST = frozenset({FindingKind.MISSING_IN_SQLITE, FindingKind.ORPHANED_CHROMADB, FindingKind.ORPHANED_SQLITE})
"""Kinds of findings that a row from a backup may resolve."""

MOST_BACKUPS = 30
_DEEPEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """Every column of a row, the columns of its primary key, and how many rows referred to it when it was inserted."""

    table: str
    key: tuple[str, ...]
    values: dict[str, Any]
    references: int = 0

    @property
    def identity(self) -> tuple[Any, ...]:
        return (self.table, *(self.values[column] for column in self.key or tuple(self.values)))


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRow:
    """A row in the newest *backup* that has it; *rows* begins with the rows that it refers to."""

    backup: str
    rows: tuple[TableRow, ...]


def find_lost(sides: OpenStores, ids: Sequence[str], ctx: Context) -> dict[str, LostRow]:
    """The rows of *ids* in the newest backups that have them, at most `MOST_BACKUPS` back. Raises `RepairRefused`."""
    found: dict[str, LostRow] = {}
    if not ids:
        return found
    source = backup_databases()
    if source is None:
        raise RepairRefused("The project does not say where its backups are.", hint='See CONSISTENCY["BACKUPS"].')
    with closing(source(sides.database)) as backups:
        for number, (backup, path) in enumerate(backups):
            ctx.check()
            with closing(connect(path, at_rest=True)) as database:
                for identifier, row in _read(database, sides, [one for one in ids if one not in found]):
                    found[identifier] = LostRow(backup=backup, rows=row)
            if len(found) == len(set(ids)) or number + 1 == MOST_BACKUPS:
                break
    return found


def _read(database: sqlite3.Connection, sides: OpenStores, ids: Sequence[str]) -> Iterator[tuple[str, tuple[TableRow, ...]]]:
    try:
        rows = Rows(database, sides.mapping)
        for identifier, row in rows.find(ids).items():
            whole = rows.whole(row.rowid)
            if whole is not None and not row.orphan:
                here = TableRow(table=sides.mapping.table, key=_key(database, sides.mapping.table), values=whole)
                yield identifier, (*_referred(database, here, 0), here)
    except sqlite3.DatabaseError:
        return  # of an older schema, without these tables or columns


def _referred(database: sqlite3.Connection, row: TableRow, depth: int) -> Iterator[TableRow]:
    """The rows that *row* refers to, the farthest first."""
    if depth == _DEEPEST:
        return
    for table, column, target in _single(database.execute(_FOREIGN_KEYS.format("?"), (row.table,)).fetchall()):
        key = _key(database, table)
        wanted = target or (key[0] if len(key) == 1 else "")
        if not wanted or row.values.get(column) is None:
            continue
        cursor = database.execute(f"SELECT * FROM {name(table)} WHERE {name(wanted)} = ?", (row.values[column],))
        values = cursor.fetchone()
        if values is not None:
            columns = [item[0] for item in cursor.description]
            parent = TableRow(table=table, key=key, values=dict(zip(columns, values, strict=True)))
            if parent.identity != row.identity:
                yield from _referred(database, parent, depth + 1)
                yield parent


def _key(database: sqlite3.Connection, table: str) -> tuple[str, ...]:
    rows = database.execute("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (table,))
    return tuple(column for (column,) in rows)


_FOREIGN_KEYS = 'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list({})'


def _single(keys: list[tuple[int, str, str, str | None]]) -> list[tuple[str, str, str | None]]:
    """Table, own column and referred column of each foreign key of one column."""
    numbers = [number for number, *_ in keys]
    return [(table, column, target) for number, table, column, target in keys if numbers.count(number) == 1]


def is_present(cursor: CursorWrapper, row: TableRow) -> bool:
    """Whether the live database has a row with that primary key."""
    columns = row.key or tuple(row.values)
    return bool(_count(cursor, row.table, {column: row.values[column] for column in columns}))


def insert(cursor: CursorWrapper, row: TableRow) -> None:
    """Insert the columns that the live table has. Raises ``DatabaseError``."""
    cursor.execute("SELECT name FROM pragma_table_info(%s)", [row.table])
    known = {column for (column,) in cursor.fetchall()}
    values = {column: value for column, value in row.values.items() if column in known}
    columns = ", ".join(name(column) for column in values)
    places = ", ".join(["%s"] * len(values))
    cursor.execute(f"INSERT INTO {name(row.table)} ({columns}) VALUES ({places})", list(values.values()))


def remove(cursor: CursorWrapper, row: TableRow) -> bool:
    """Delete a row that still holds what was inserted, and that no more rows refer to than then; whether it is gone."""
    cursor.execute("SELECT name FROM pragma_table_info(%s)", [row.table])
    known = {column for (column,) in cursor.fetchall()}
    values = {column: value for column, value in row.values.items() if column in known}
    if not is_present(cursor, row):
        return True
    if not _count(cursor, row.table, values) or references(cursor, row) > row.references:
        return False
    condition = " AND ".join(f"{name(column)} IS %s" for column in values)
    cursor.execute(f"DELETE FROM {name(row.table)} WHERE {condition}", list(values.values()))
    return True


def references(cursor: CursorWrapper, row: TableRow) -> int:
    """How many rows refer to the row, whether it exists or not."""
    count = 0
    cursor.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    for (table,) in cursor.fetchall():
        cursor.execute(_FOREIGN_KEYS.format("%s"), [table])
        for referred, column, target in _single(cursor.fetchall()):
            wanted = target or (row.key[0] if len(row.key) == 1 else "")
            if referred == row.table and wanted in row.values:
                count += _count(cursor, table, {column: row.values[wanted]})
    return count


def _count(cursor: CursorWrapper, table: str, values: dict[str, Any]) -> int:
    condition = " AND ".join(f"{name(column)} IS %s" for column in values)
    cursor.execute(f"SELECT count(*) FROM {name(table)} WHERE {condition}", list(values.values()))
    return int(cursor.fetchone()[0])
