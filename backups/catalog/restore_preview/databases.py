"""SQLite stores: rows, schema, migrations and accounts of the live database and of the backup's."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.db import DatabaseError, connections

from backups.engine.runtime.sqlite import connect, is_locked, primary_code, quoted, uri
from backups.engine.types import SourceKind, SourceRecord
from backups.identity import account_changes, accounts, known_accounts
from backups.identity.withholding import withheld, withheld_from_groups, without

from .live import MOST_NAMES, OPEN_WAIT, Comparison, Live, allow_cancel, live_fields, open_live, open_restored
from .names import Match, names_of

MOST_ROWS = 400_000
"""Tables with more rows than this, on both sides together, are counted but not compared row by row."""


def compare_database(comparison: Comparison, record: SourceRecord) -> dict[str, Any]:
    """Rows of each table on both sides, differences in the schema, and migrations of one side only."""
    path = comparison.live.get((record.kind, record.name))
    kept_file = comparison.scratch / record.prefix
    answer: dict[str, Any] = {"store": record.prefix, "name": record.name, "tables": [], "schema": [], "migrations": None}
    if record.method == "raw":
        live = Live(path=path, state="unknown", why="It is not compared.")
        answer["note"] = "The backup has only the raw bytes of a broken database."
        return answer | live_fields(live)
    with contextlib.closing(open_restored(kept_file)) as kept, contextlib.ExitStack() as opened:
        live, now = open_live(path)
        if now is not None:
            opened.enter_context(contextlib.closing(now))
            allow_cancel(comparison, now)
        allow_cancel(comparison, kept)
        schema_now = _schema(now) if now is not None else {}
        schema_kept = _schema(kept)
        names = sorted({name for kind, name in (*schema_now, *schema_kept) if kind == "table"})
        with comparison.ctx.phase("preview", f"count {record.prefix}", len(names)) as phase:
            for name in names:
                after = _count(comparison, kept, name) if ("table", name) in schema_kept else None
                before = None
                if now is not None and ("table", name) in schema_now:
                    try:
                        before = _count(comparison, now, name)
                    except sqlite3.DatabaseError as problem:
                        live = Live(path=path, state="busy" if is_locked(problem) else "broken", why=str(problem))
                answer["tables"].append({"name": name, "before": before, "after": after, "differs": None, "names": {}})
                phase.advance(1)
        if now is not None:
            assert path is not None
            if damage := _compare_rows(comparison, record, path, kept_file, answer["tables"]):
                live = Live(path=path, state="broken", why=damage)
            answer["migrations"] = _migrations(now, kept)
        if live.readable:
            answer["schema"] = _schema_differences(schema_now, schema_kept)
    answer["rows_before"] = _total(answer["tables"], "before") if live.readable else None
    answer["rows_after"] = _total(answer["tables"], "after")
    return answer | live_fields(live)


def _count(comparison: Comparison, connection: sqlite3.Connection, name: str) -> int:
    try:
        return int(connection.execute(f"SELECT count(*) FROM {quoted(name)}").fetchone()[0])
    except sqlite3.OperationalError:
        comparison.ctx.check()
        raise


def _total(tables: list[dict[str, Any]], side: str) -> int:
    return sum(table[side] or 0 for table in tables)


def _schema(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """The schema as (kind, name) -> SQL.

    Virtual tables, which may need a missing module, and tables whose name is not text, as in a damaged or malicious database,
    are not of the kind ``table``.
    """
    found = {}
    connection.text_factory = bytes
    try:
        rows = connection.execute(
            "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'"
        ).fetchall()
    finally:
        connection.text_factory = str
    for row in rows:
        kind, name, sql = (value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else "" for value in row)
        text = " ".join(sql.split())
        kind = "virtual table" if text.upper().startswith("CREATE VIRTUAL") else kind
        found[kind if row[1] == name.encode() else f"{kind} without a name", name] = text
    return found


def _schema_differences(now: dict[tuple[str, str], str], kept: dict[tuple[str, str], str]) -> list[dict[str, str]]:
    found = []
    for kind, name in sorted(now.keys() | kept.keys()):
        if now.get((kind, name)) != kept.get((kind, name)):
            how = "only now" if (kind, name) not in kept else "only in the backup" if (kind, name) not in now else "differs"
            found.append({"kind": kind, "name": name, "how": how})
    return found


def _migrations(now: sqlite3.Connection, kept: sqlite3.Connection) -> dict[str, list[str]] | None:
    """Django's migrations of one side only: ``missing`` ones must be run after the restore. None without a readable table."""
    try:
        sides = [
            {f"{app}.{name}" for app, name in side.execute("SELECT app, name FROM django_migrations")} for side in (now, kept)
        ]
    except sqlite3.DatabaseError:
        return None
    return {"missing": sorted(sides[0] - sides[1])[:MOST_NAMES], "unknown": sorted(sides[1] - sides[0])[:MOST_NAMES]}


def _compare_rows(comparison: Comparison, record: SourceRecord, live: Path, kept: Path, tables: list[dict[str, Any]]) -> str:
    """Count by primary key the rows that a restore removes, restores and changes, in each table up to `MOST_ROWS`.

    Returns the first damage found, or "".
    """
    damage = ""
    with contextlib.ExitStack() as opened:
        try:
            both = opened.enter_context(contextlib.closing(connect(live, mode="ro", timeout=OPEN_WAIT)))
            both.execute("ATTACH DATABASE ? AS kept", (uri(kept, immutable=True),))
        except sqlite3.Error:
            return ""
        allow_cancel(comparison, both, comparison.compare_until)
        with comparison.ctx.phase("preview", f"compare {record.prefix}", len(tables)) as phase:
            for table in tables:
                before, after = table["before"], table["after"]
                if before is not None and after is not None and before + after <= MOST_ROWS:
                    try:
                        table["differs"], table["names"] = _row_differences(comparison, both, table["name"])
                    except sqlite3.DatabaseError as problem:
                        damage = damage or f"{table['name']}: {problem}"
                phase.advance(1)
    return damage


def _row_differences(
    comparison: Comparison, both: sqlite3.Connection, name: str
) -> tuple[dict[str, int] | None, dict[str, list[str]]]:
    """``{"gone", "back", "changed"}`` of a table, and names of such rows; None when the primary keys differ, or after
    `MOST_SECONDS`.

    Raises ``sqlite3.DatabaseError`` for a damaged table.
    """
    try:
        columns = [_table_columns(both, schema, name) for schema in ("main", "kept")]
        common = [column for column in columns[0] if column in columns[1]]
        key = [column for column, position in columns[0].items() if position]
        if key != [column for column, position in columns[1].items() if position]:
            return None, {}
        join = " AND ".join(f"a.{quoted(column)} = b.{quoted(column)}" for column in key) or "a.rowid = b.rowid"
        unlike = " OR ".join(f"a.{quoted(column)} IS NOT b.{quoted(column)}" for column in common if column not in key) or "0"
        place = f"main.{quoted(name)} AS a JOIN kept.{quoted(name)} AS b ON {join}"
        matched, changed = both.execute(f"SELECT count(*), coalesce(sum({unlike}), 0) FROM {place}").fetchone()
        before, after = (
            both.execute(f"SELECT count(*) FROM {schema}.{quoted(name)}").fetchone()[0] for schema in ("main", "kept")
        )
    except sqlite3.DatabaseError as problem:
        comparison.ctx.check()
        if primary_code(problem) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR):
            raise
        return None, {}
    counts = {"gone": before - matched, "back": after - matched, "changed": changed}
    try:
        return counts, names_of(both, Match(table=name, columns=common, key=key, join=join, unlike=unlike), counts)
    except sqlite3.DatabaseError:  # out of time, or damaged in a part that the counts did not read: they hold without names
        comparison.ctx.check()
        return counts, {}


def _table_columns(connection: sqlite3.Connection, schema: str, name: str) -> dict[str, int]:
    """Columns of a table with their position in the primary key, from 1; 0 for others."""
    rows = connection.execute("SELECT name, pk FROM pragma_table_info(?, ?)", (name, schema))
    return {str(column): int(position) for column, position in rows}


def compare_accounts(comparison: Comparison, records: tuple[SourceRecord, ...]) -> dict[str, Any] | None:
    """Changes of accounts and permissions; None when their database is not restored."""
    record = _account_store(comparison.live, records)
    if record is None or record.method == "raw":
        return None
    with contextlib.closing(open_restored(comparison.scratch / record.prefix)) as kept:
        after = _read_accounts(comparison, kept)
    if after is None and record.path:
        return None
    _, now = open_live(comparison.live.get((record.kind, record.name)))
    before = None
    if now is not None:
        with contextlib.closing(now):
            before = _read_accounts(comparison, now)
    after = account_changes.with_groups_made(after, before)
    known = _known(before)
    present = dict.fromkeys(before.by_name if before else (), "a hash")
    taken = withheld(known, after, present) if after else ()
    groups = withheld_from_groups(before, after) if after else {}
    left = without(after, taken, known, groups) if after else None
    return {
        "store": record.prefix,
        **account_changes.compare(before, left),
        "withheld": [one.as_json() for one in taken[: account_changes.MOST_LISTED]],
        "groups_withheld": {name: list(permissions) for name, permissions in groups.items()},
    }


def _known(before: accounts.Accounts | None) -> known_accounts.Known:
    try:
        return known_accounts.known(before)
    except DatabaseError:  # the control database cannot be read
        return {**before.by_name} if before else {}


def _account_store(live: dict[tuple[SourceKind, str], Path], records: Sequence[SourceRecord]) -> SourceRecord | None:
    """The database that holds this project's accounts; None if it is not among *records*."""
    database = connections.settings[accounts.alias()]
    if not str(database["ENGINE"]).endswith("sqlite3"):
        return None
    place = os.path.realpath(str(database["NAME"]))
    for record in records:
        path = live.get((record.kind, record.name))
        if record.kind is SourceKind.SQLITE and path is not None and os.path.realpath(path) == place:
            return record
    return None


def _read_accounts(comparison: Comparison, connection: sqlite3.Connection) -> accounts.Accounts | None:
    allow_cancel(comparison, connection)
    connection.text_factory = accounts.text_of
    query: Callable[[str], list[Any]] = lambda statement: connection.execute(statement).fetchall()  # noqa: E731
    try:
        return accounts.read(query)
    except sqlite3.DatabaseError:
        comparison.ctx.check()
        return None
