"""The rows of a mapping, read from SQLite in the order of their ids in Chroma.

Connections are read-only. A copy that nobody writes to is opened as immutable: SQLite takes no lock and creates no file.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backups.engine.chroma_files.errors import BrokenIndex, UnsupportedIndex
from backups.engine.errors import SourceBroken
from backups.engine.runtime.sqlite import is_interrupted, is_locked, primary_code, uri

from .errors import Cancelled, IndexBroken, StoreBusy, StoreUnreadable
from .mapping import Column, Mapping, Scalar

PATIENCE = 20.0
"""Seconds to wait for a lock."""

_STEPS = 100_000
"""SQLite's instructions between two checks for a cancellation: some milliseconds."""

RowTuple = tuple[str, int, bytes, int | None]
"""id, rowid, vector, dimension."""


def address(path: Path, *, at_rest: bool, mode: str = "ro") -> str:
    """The URI by which SQLite opens *path*; one *at_rest* with a ``-wal`` beside it is not immutable."""
    return uri(path, mode=mode, immutable=at_rest and not path.with_name(path.name + "-wal").exists())


def connect(path: Path, *, at_rest: bool, check: Callable[[], None] = lambda: None) -> sqlite3.Connection:
    """A read-only connection that any one thread may use at a time; *check* may end a long query by raising."""
    if not path.is_file():
        raise StoreUnreadable(f"There is no database at {path}.", hint="Correct the path. Nothing was changed.")
    database = sqlite3.connect(
        address(path, at_rest=at_rest), uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )
    database.execute("PRAGMA mmap_size = 0")
    database.execute("PRAGMA cache_size = -8192")
    database.execute("PRAGMA temp_store = FILE")

    def interrupted() -> int:
        try:
            check()
        except Cancelled:
            return 1
        return 0

    database.set_progress_handler(interrupted, _STEPS)
    return database


@contextmanager
def reading(what: str, check: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn SQLite's errors while reading *what* into those of this package; an interrupted query into `Cancelled`."""
    try:
        yield
    except sqlite3.Error as problem:
        if is_interrupted(problem):
            check()
        if is_locked(problem):
            raise StoreBusy(f"{what} stayed locked for {PATIENCE:g} s.") from None
        raise StoreUnreadable(f"{what} cannot be read: {problem}.") from None
    except UnsupportedIndex as problem:
        raise StoreUnreadable(f"The index of {what} cannot be read: {problem} ({problem.file}).") from None
    except BrokenIndex as problem:
        raise IndexBroken(f"The index of {what} is broken: {problem} ({problem.file}).") from problem
    except SourceBroken as problem:
        raise StoreUnreadable(problem.message, hint=problem.hint) from None


def name(identifier: str) -> str:
    """*identifier* quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """*text* as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def expression(column: Column) -> str:
    """A column as Chroma repeats it."""
    plain = f"t{column.table}.{name(column.name)}"
    if column.type != "uuid":
        return plain
    cuts = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
    return "(" + " || '-' || ".join(f"substr({plain}, {start}, {length})" for start, length in cuts) + ")"


def id_expression(mapping: Mapping) -> str:
    """The SQL of a row's id in Chroma."""
    return "(" + " || ".join(literal(part) if isinstance(part, str) else expression(part) for part in mapping.id) + " || '')"


def document_expression(mapping: Mapping) -> str:
    """The SQL of a row's document."""
    whole = f"coalesce({expression(mapping.document[0])}, '')"
    for column in mapping.document[1:]:
        part = f"coalesce({expression(column)}, '')"
        whole = f"({whole} || iif({whole} = '' OR {part} = '', '', {literal(mapping.separator)}) || {part})"
    return whole


def tables(mapping: Mapping) -> str:
    """The mapping's table, ``t0``, as the first of a FROM clause."""
    return f"{name(mapping.table)} t0"


def joins(mapping: Mapping) -> str:
    """The joins that follow `tables`; they keep rows whose joined row is missing."""
    return "".join(
        f" LEFT JOIN {name(join.table)} t{number} ON t{number}.{name(join.key)} = t{join.column.table}.{name(join.column.name)}"
        for number, join in enumerate(mapping.joins, start=1)
    )


def orphan_expression(mapping: Mapping) -> str:
    """The SQL for whether a row names a parent that does not exist."""
    parent = mapping.parent
    if parent is None:
        return "0"
    key = f"t{parent.join}.{name(mapping.joins[parent.join - 1].key)}"
    return f"({key} IS NULL AND {expression(parent.column)} IS NOT NULL)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row, whole. *values* are by metadata key; *twins* is the number of rows with the id."""

    id: str
    rowid: int
    vector: bytes
    dimension: int | None
    model: str | None
    parent: Scalar
    orphan: bool
    changed: str | None
    values: dict[str, Scalar]
    document: str | None
    twins: int = 1


class Rows:
    """The rows of one mapping, over a connection."""

    def __init__(self, database: sqlite3.Connection, mapping: Mapping) -> None:
        self._database = database
        self.mapping = mapping
        dimension = mapping.dimension
        self._dimension = expression(dimension) if dimension else "NULL"
        self._dimension_joins = joins(mapping) if dimension is not None and dimension.table else ""
        self._where = f"{id_expression(mapping)} IS NOT NULL" + "".join(
            f" AND {expression(column)} IS ?" for column, _ in mapping.where
        )
        self._values = tuple(value for _, value in mapping.where)
        ids = [part for part in mapping.id if isinstance(part, Column)]
        elsewhere = any(column.table for column in (*ids, *(column for column, _ in mapping.where)))
        self._where_joins = joins(mapping) if elsewhere else ""

    def count(self) -> int:
        """How many rows the table has, for progress: SQLite counts them in its smallest index."""
        return int(self._database.execute(f"SELECT count(*) FROM {tables(self.mapping)}").fetchone()[0])

    def stream(self) -> sqlite3.Cursor:
        """All rows by id. SQLite sorts ids and row numbers alone, on disk where they are many, and then fetches the vectors.

        ``LIMIT -1`` keeps SQLite from merging the inner query into the outer one: it would sort the vectors with the ids. The
        inner query does not look at the vector, so that it can do with an index.
        """
        mapping = self.mapping
        return self._database.execute(
            f"SELECT s.id, s.r, t0.{name(mapping.vector)}, {self._dimension} FROM ("
            f"SELECT {id_expression(mapping)} AS id, t0.rowid AS r FROM {tables(mapping)}{self._where_joins}"
            f" WHERE {self._where} ORDER BY 1 LIMIT -1) s"
            f" CROSS JOIN {tables(mapping)} ON t0.rowid = s.r{self._dimension_joins}"
            f" WHERE t0.{name(mapping.vector)} IS NOT NULL",
            self._values,
        )

    def find(self, ids: Sequence[str]) -> dict[str, Row]:
        """The rows of those *ids* that have one, found by the columns of the id."""
        mapping = self.mapping
        wanted = [(identifier, mapping.parts_of(identifier)) for identifier in ids]
        asked = json.dumps([[identifier, *parts] for identifier, parts in wanted if parts is not None])
        columns = [part for part in mapping.id if isinstance(part, Column)]
        on = " AND ".join(
            f"t{column.table}.{name(column.name)} = j.value ->> {number}" for number, column in enumerate(columns, 1)
        )
        parent = expression(mapping.parent.column) if mapping.parent else "NULL"
        extra = [
            self._dimension,
            expression(mapping.model.column) if mapping.model else "NULL",
            parent,
            orphan_expression(mapping),
            expression(mapping.changed) if mapping.changed else "NULL",
            document_expression(mapping) if mapping.document else "NULL",
            *(expression(field.column) for field in mapping.metadata),
        ]
        rows = self._database.execute(
            f"SELECT {id_expression(mapping)}, t0.rowid, t0.{name(mapping.vector)}, {', '.join(extra)}"
            f" FROM json_each(?) j CROSS JOIN {tables(mapping)}{joins(mapping)}"
            f" WHERE {on} AND {id_expression(mapping)} = j.value ->> 0 AND {self._where}"
            f" AND t0.{name(mapping.vector)} IS NOT NULL ORDER BY t0.rowid",
            (asked, *self._values),
        )
        found: dict[str, Row] = {}
        for identifier, rowid, vector, dimension, model, owner, orphan, changed, document, *values in rows:
            before = found.get(identifier)
            found[identifier] = Row(
                id=identifier,
                rowid=rowid,
                vector=bytes(vector) if isinstance(vector, bytes) else str(vector).encode(),
                dimension=dimension,
                model=model,
                parent=owner,
                orphan=bool(orphan),
                changed=changed,
                values={
                    field.key: bool(value) if field.column.type == "boolean" and value is not None else value
                    for field, value in zip(mapping.metadata, values, strict=True)
                },
                document=document,
                twins=before.twins + 1 if before else 1,
            )
        return found

    def parents(self, keys: Sequence[Scalar]) -> set[Scalar]:
        """Those of *keys* that a parent has."""
        if self.mapping.parent is None or not keys:
            return set()
        join = self.mapping.joins[self.mapping.parent.join - 1]
        key = name(join.key)
        rows = self._database.execute(
            f"SELECT p.{key} FROM json_each(?) j CROSS JOIN {name(join.table)} p ON p.{key} = j.value",
            (json.dumps(list(keys)),),
        )
        return {value for (value,) in rows}

    def whole(self, rowid: int) -> dict[str, Any] | None:
        """Every column of one row of the mapping's table."""
        cursor = self._database.execute(f"SELECT * FROM {name(self.mapping.table)} WHERE rowid = ?", (rowid,))
        row = cursor.fetchone()
        return dict(zip((item[0] for item in cursor.description), row, strict=True)) if row is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenKey:
    """A row of *table* whose *column* refers to a missing row of *referred*; or *problem*: why its keys cannot be checked."""

    table: str
    rowid: int | None
    column: str = ""
    value: Scalar = None
    referred: str = ""
    problem: str = ""


def broken_keys(database: sqlite3.Connection, known: set[tuple[str, str]], table: str | None = None) -> Iterator[BrokenKey]:
    """Foreign keys without a target, of one table or of all, except those in *known*: pairs of table and column.

    Tables whose keys are all known are skipped: the check examines their rows anyway.
    """
    names = [table] if table else [row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for one in names:
        keys: dict[int, list[tuple[str, str]]] = {}
        for number, _, referred, column, *_ in database.execute(f"PRAGMA foreign_key_list({name(one)})"):
            keys.setdefault(number, []).append((column, referred))
        if all(len(columns) == 1 and (one, columns[0][0]) in known for columns in keys.values()):
            continue
        try:
            broken = database.execute(f"PRAGMA foreign_key_check({name(one)})").fetchall()
        except sqlite3.OperationalError as problem:
            if primary_code(problem) != sqlite3.SQLITE_ERROR:
                raise
            yield BrokenKey(table=one, rowid=None, problem=str(problem))
            continue
        for _, rowid, referred, number in broken:
            column = keys[number][0][0]
            if len(keys[number]) == 1 and (one, column) in known:
                continue
            value = None
            if rowid is not None:
                row = database.execute(f"SELECT {name(column)} FROM {name(one)} WHERE rowid = ?", (rowid,)).fetchone()
                value = row[0] if row else None
            yield BrokenKey(table=one, rowid=rowid, column=column, value=value, referred=referred)


@contextmanager
def held(path: Path, seconds: float) -> Iterator[bool]:
    """Keep other processes from writing to a database within the context; False if the lock was not free within *seconds*.

    It waits for the open transaction: an application that writes to Chroma inside it has done so when it ends.
    """
    database = sqlite3.connect(address(path, at_rest=False, mode="rw"), uri=True, timeout=seconds, isolation_level=None)
    try:
        until = time.monotonic() + seconds
        got = False
        while not got and time.monotonic() <= until:
            try:
                database.execute("BEGIN IMMEDIATE")
                got = True
            except sqlite3.OperationalError:
                time.sleep(0.01)
        yield got
        if got:
            database.execute("ROLLBACK")
    finally:
        database.close()
