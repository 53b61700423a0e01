"""Counts the rows of a captured database, as far as a short time allows."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from ..runtime.sqlite import quoted, uri

WITHIN = 1.0
"""Seconds for one database; tables that are not counted by then are left out."""

MOST_TABLES = 1_000
_STEPS = 10_000


def count_rows(connection: sqlite3.Connection) -> dict[str, int]:
    """The rows of each ordinary table. Tables that cannot be counted, or not in time, are left out."""
    deadline = time.monotonic() + WITHIN
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    counted = {}
    try:
        listed = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        ).fetchmany(MOST_TABLES)
        for (name,) in listed:
            if time.monotonic() > deadline:
                break
            try:
                counted[str(name)] = int(connection.execute(f"SELECT count(*) FROM {quoted(str(name))}").fetchone()[0])
            except sqlite3.DatabaseError:
                continue
    except sqlite3.DatabaseError:
        return counted
    finally:
        connection.set_progress_handler(None, 0)
    return counted


def count_rows_of(path: Path) -> dict[str, int]:
    """The same for a copied file that nobody writes to."""
    with closing(sqlite3.connect(uri(path, immutable=True), uri=True)) as connection:
        connection.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
        return count_rows(connection)
