"""Names of the rows that a restore removes, restores or changes, as a person would recognise them."""

import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from backups.engine.runtime.sqlite import quoted

MOST_ROWS_NAMED = 5
"""Rows of each table named as removed, as restored and as changed; all are counted."""

_NAMES = ("title", "name", "username", "label", "subject", "headline", "caption", "file_name", "filename", "slug")
"""Columns that name a row, best first. Others are not shown: they may hold secrets."""

_LONGEST = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """How the rows of a table in the live database, ``main`` as *a*, match those of the backup, ``kept`` as *b*, in SQL."""

    table: str
    columns: Collection[str]
    key: Sequence[str]
    join: str
    unlike: str


def names_of(both: sqlite3.Connection, match: Match, counts: dict[str, int]) -> dict[str, list[str]]:
    """For each of the *counts* ``gone``, ``back`` and ``changed``, the names of up to `MOST_ROWS_NAMED` rows.

    Raises ``sqlite3.DatabaseError``.
    """
    table = quoted(match.table)
    now, kept = (_name_in(both, match, schema, alias) for schema, alias in (("main", "a"), ("kept", "b")))
    alone = "SELECT {} FROM {}.{} AS {} WHERE NOT EXISTS (SELECT 1 FROM {}.{} AS {} WHERE {})"
    queries = {
        "gone": alone.format(now, "main", table, "a", "kept", table, "b", match.join),
        "back": alone.format(kept, "kept", table, "b", "main", table, "a", match.join),
        "changed": f"SELECT {kept}, {now} FROM main.{table} AS a JOIN kept.{table} AS b ON {match.join} WHERE {match.unlike}",
    }
    found: dict[str, list[str]] = {}
    decoded, both.text_factory = both.text_factory, lambda content: content.decode("utf-8", "replace")
    try:
        for what, query in queries.items():
            rows = both.execute(f"{query} LIMIT {MOST_ROWS_NAMED}").fetchall() if counts[what] else []
            found[what] = [_written(*row) for row in rows]
    finally:
        both.text_factory = decoded
    return {what: [name for name in names if name] for what, names in found.items()}


def _written(name: str | None, now: str | None = None) -> str:
    """The name in the backup, after the present one if that differs."""
    return f"{now} \N{RIGHTWARDS ARROW} {name}" if now and name and now != name else name or now or ""


def _name_in(both: sqlite3.Connection, match: Match, schema: str, alias: str) -> str:
    """SQL for the name of a row: a column, or that of the row it belongs to, or else its number."""
    parts = [f"{alias}.{quoted(column)}" for column in _NAMES if column in match.columns][:1]
    if not parts:
        parts = [owner for owner in [_owner(both, match, schema, alias)] if owner]
    if len(match.key) == 1:
        key = f"{alias}.{quoted(match.key[0])}"
        parts.append(f"CASE typeof({key}) WHEN 'integer' THEN {_literal(match.key[0] + ' ')} || {key} END")
    return f"substr(coalesce({', '.join([*parts, 'NULL', 'NULL'])}), 1, {_LONGEST})"


def _owner(both: sqlite3.Connection, match: Match, schema: str, alias: str) -> str:
    """SQL for the name of the row that the first foreign key of one column with a named table refers to; empty without one."""
    keys = both.execute('SELECT "table", "from", "to" FROM pragma_foreign_key_list(?, ?)', (match.table, schema)).fetchall()
    for parent, column, referenced in keys:
        columns = [str(name) for (name,) in both.execute("SELECT name FROM pragma_table_info(?, ?)", (parent, schema))]
        named = next((name for name in _NAMES if name in columns), None)
        if named and referenced in columns and column in match.columns:
            place = f"{schema}.{quoted(parent)} AS p WHERE p.{quoted(referenced)} = {alias}.{quoted(column)}"
            return f"(SELECT p.{quoted(named)} FROM {place})"
    return ""


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
