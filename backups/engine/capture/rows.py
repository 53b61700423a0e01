"""Counts the rows of a captured database, as far as a short time allows."""

import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from ..runtime.sqlite import quoted, uri

WITHIN = 1.0
"""Seconds for one database; tables that are not counted by then remain uncounted."""

MOST_TABLES = 1_000
_STEPS = 10_000


REST = ""
"""Among uncounted tables: there may be more, which were not even listed."""

Rows = dict[str, int | None]
"""Rows by table; None for a table that cannot be counted, or not in time."""


def count_rows(connection: sqlite3.Connection) -> Rows:
    """The rows of each ordinary table."""
    deadline = time.monotonic() + WITHIN
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
    counted: Rows = {}
    try:
        listed = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        ).fetchmany(MOST_TABLES + 1)
        for (name,) in listed[:MOST_TABLES]:
            counted[str(name)] = None
            with suppress(sqlite3.DatabaseError):
                if time.monotonic() <= deadline:
                    counted[str(name)] = int(connection.execute(f"SELECT count(*) FROM {quoted(str(name))}").fetchone()[0])
        if len(listed) > MOST_TABLES:
            counted[REST] = None
    except sqlite3.DatabaseError:
        counted[REST] = None
    finally:
        connection.set_progress_handler(None, 0)
    return counted


def count_rows_of(path: Path) -> Rows:
    """The same for a copied file that nobody writes to."""
    with closing(sqlite3.connect(uri(path, immutable=True), uri=True)) as connection:
        connection.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
        return count_rows(connection)
