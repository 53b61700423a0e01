"""Rows that are lost from SQLite: found in backups with the rows around them, inserted again, and removed again."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from django.db import DatabaseError, connections, transaction
from django.db.backends.utils import CursorWrapper

from backups.engine.runtime.wording import counted
from consistency.declaration import backup_databases
from consistency.engine.context import Context
from consistency.engine.errors import RepairRefused
from consistency.engine.findings import FindingKind
from consistency.engine.rows import Rows, connect, name
from consistency.engine.stores import OpenStores
from consistency.resolution import alias_of

LOST = frozenset({FindingKind.MISSING_IN_SQLITE, FindingKind.ORPHANED_CHROMADB, FindingKind.ORPHANED_SQLITE})
"""Kinds of findings that a row from a backup may resolve."""

MOST_BACKUPS = 30
MOST_DEPENDENTS = 1000
"""How many rows that refer to a lost row, directly or not, are restored with it."""

_MOST_DAMAGED = 300
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


Reason = tuple[str, str]
"""A table, and why rows of it stay lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRow:
    """A row in the newest *backup* that has it; *rows* begins with the rows that it refers to.

    *dependents* are rows of that backup that refer to missing ones of *rows*, or to each other, and that are missing too; those
    that cannot be restored are counted in *left*.
    """

    backup: str
    rows: tuple[TableRow, ...]
    dependents: tuple[TableRow, ...] = ()
    left: Counter[Reason] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The lost rows that were found, by id, and for the others *why* not."""

    found: dict[str, LostRow]
    why: str


def find_lost(sides: OpenStores, ids: Sequence[str], ctx: Context) -> Search:
    """The rows of *ids* in the newest sound backups that have them, at most `MOST_BACKUPS` back. Raises `RepairRefused`."""
    found: dict[str, LostRow] = {}
    if not ids:
        return Search(found=found, why="")
    source = backup_databases()
    if source is None:
        raise RepairRefused("The project does not say where its backups are.", hint='See CONSISTENCY["BACKUPS"].')
    read = damaged = 0
    followed: set[tuple[Any, ...]] = set()
    with closing(source(sides.database)) as backups, connections[alias_of(sides.mapping.name)].cursor() as live:
        for backup, path in backups:
            ctx.check()
            if path is None:
                damaged += 1
            else:
                read += 1
                with closing(connect(path, at_rest=True)) as database:
                    wanted = [one for one in ids if one not in found]
                    found |= _read(database, live, sides, wanted, backup, followed)
            if len(found) == len(set(ids)) or read == MOST_BACKUPS or damaged == _MOST_DAMAGED:
                break
    return Search(found=found, why=_why(read, damaged))


def _why(read: int, damaged: int) -> str:
    if damaged:
        many = counted(damaged, "damaged backup was", "damaged backups were")
        return f"No sound backup has the row; {many} not searched."
    return f"None of the {read} newest backups has the row." if read == MOST_BACKUPS else "No backup has the row."


def _read(
    database: sqlite3.Connection,
    live: CursorWrapper,
    sides: OpenStores,
    ids: Sequence[str],
    backup: str,
    followed: set[tuple[Any, ...]],
) -> dict[str, LostRow]:
    found = {}
    try:
        rows = Rows(database, sides.mapping)
        referring = _referring(database)
        for identifier, row in rows.find(ids).items():
            whole = rows.whole(row.rowid)
            if whole is not None and not row.orphan:
                here = TableRow(table=sides.mapping.table, key=_key(database, sides.mapping.table), values=whole)
                chain = (*_referred(database, here, 0), here)
                lost = [one for one in chain if one.identity not in followed and not is_present(live, one)]
                followed.update(one.identity for one in chain)
                dependents, left = _dependents(database, live, lost, referring, followed)
                found[identifier] = LostRow(backup=backup, rows=chain, dependents=tuple(dependents), left=left)
    except sqlite3.DatabaseError:
        pass  # of an older schema, without these tables or columns
    return found


def _dependents(
    database: sqlite3.Connection,
    live: CursorWrapper,
    lost: list[TableRow],
    referring: dict[str, list[tuple[str, str, str | None]]],
    followed: set[tuple[Any, ...]],
) -> tuple[list[TableRow], Counter[Reason]]:
    """Rows that refer to *lost* ones, the nearest first, and how many are left out. A row that is present ends the search."""
    found: list[TableRow] = []
    left: Counter[Reason] = Counter()
    level = lost
    for depth in range(_DEEPEST + 1):
        following: list[TableRow] = []
        for row in level:
            for table, column, target in referring.get(row.table, ()):
                wanted = target or (row.key[0] if len(row.key) == 1 else "")
                if row.values.get(wanted) is None:
                    continue
                clause = f"FROM {name(table)} WHERE {name(column)} = ?"
                room = MOST_DEPENDENTS - len(found) if depth < _DEEPEST else 0
                (number,) = database.execute(f"SELECT count(*) {clause}", (row.values[wanted],)).fetchone()
                if number > room:
                    left[table, f"more than {MOST_DEPENDENTS:,} rows refer to one row"] += number - room
                key = _key(database, table)
                cursor = database.execute(f"SELECT * {clause} LIMIT ?", (row.values[wanted], room))
                columns = [item[0] for item in cursor.description]
                for values in cursor:
                    child = TableRow(table=table, key=key, values=dict(zip(columns, values, strict=True)))
                    if child.identity in followed:
                        continue
                    followed.add(child.identity)
                    if not is_present(live, child):
                        following.append(child)
                    elif not _count(live, table, {one: child.values[one] for one in (*key, column)}):
                        left[table, "another row has the key now"] += 1
                if len(found) + len(following) > MOST_DEPENDENTS:
                    surplus = following[MOST_DEPENDENTS - len(found) :]
                    left.update((one.table, f"more than {MOST_DEPENDENTS:,} rows refer to one row") for one in surplus)
                    del following[MOST_DEPENDENTS - len(found) :]
        found += following
        level = following
        if not level:
            break
    return found, left


def _referring(database: sqlite3.Connection) -> dict[str, list[tuple[str, str, str | None]]]:
    """By table: the table, column and referred column of each foreign key of one column that refers to it."""
    by_table: dict[str, list[tuple[str, str, str | None]]] = {}
    for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name").fetchall():
        for referred, column, target in _single(database.execute(_FOREIGN_KEYS.format("?"), (table,)).fetchall()):
            by_table.setdefault(referred, []).append((table, column, target))
    return by_table


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
    if not _columns(cursor, row.table).issuperset(columns):
        return False
    return bool(_count(cursor, row.table, {column: row.values[column] for column in columns}))


def insert(cursor: CursorWrapper, row: TableRow) -> None:
    """Insert the columns that the live table has. Raises ``DatabaseError``."""
    known = _columns(cursor, row.table)
    values = {column: value for column, value in row.values.items() if column in known}
    columns = ", ".join(name(column) for column in values)
    places = ", ".join(["%s"] * len(values))
    cursor.execute(f"INSERT INTO {name(row.table)} ({columns}) VALUES ({places})", list(values.values()))


def insert_dependents(cursor: CursorWrapper, alias: str, rows: Sequence[TableRow]) -> tuple[list[TableRow], Counter[Reason]]:
    """Insert rows that fit the present data and whose foreign keys have targets; the inserted ones, and how many stay lost."""
    done: list[TableRow] = []
    left: Counter[Reason] = Counter()
    waiting = list(rows)
    while waiting:
        rest = []
        for row in waiting:
            if not _targets_exist(cursor, row):
                rest.append(row)
                continue
            try:
                with transaction.atomic(using=alias):
                    insert(cursor, row)
                done.append(row)
            except DatabaseError:
                left[row.table, "the present data does not allow them"] += 1
        if len(rest) == len(waiting):
            left.update((row.table, "they also refer to rows that do not exist") for row in rest)
            break
        waiting = rest
    return done, left


def _targets_exist(cursor: CursorWrapper, row: TableRow) -> bool:
    cursor.execute('SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(%s) ORDER BY id, seq', [row.table])
    keys: dict[tuple[int, str], list[tuple[str, str | None]]] = {}
    for number, table, column, target in cursor.fetchall():
        keys.setdefault((number, table), []).append((column, target))
    for (_, table), pairs in keys.items():
        cursor.execute("SELECT name FROM pragma_table_info(%s) WHERE pk ORDER BY pk", [table])
        primary = [column for (column,) in cursor.fetchall()]
        targets = [target or (primary[place] if place < len(primary) else "") for place, (_, target) in enumerate(pairs)]
        values = [row.values.get(column) for column, _ in pairs]
        if None in values:
            continue
        if not _columns(cursor, table).issuperset(targets) or not _count(
            cursor, table, dict(zip(targets, values, strict=True))
        ):
            return False
    return True


def remove(cursor: CursorWrapper, row: TableRow) -> bool:
    """Delete a row that still holds what was inserted, and that no more rows refer to than then; whether it is gone."""
    known = _columns(cursor, row.table)
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


def _columns(cursor: CursorWrapper, table: str) -> set[str]:
    cursor.execute("SELECT name FROM pragma_table_info(%s)", [table])
    return {column for (column,) in cursor.fetchall()}


def _count(cursor: CursorWrapper, table: str, values: dict[str, Any]) -> int:
    condition = " AND ".join(f"{name(column)} IS %s" for column in values)
    cursor.execute(f"SELECT count(*) FROM {name(table)} WHERE {condition}", list(values.values()))
    return int(cursor.fetchone()[0])
