"""Opening SQLite databases with the standard library's module, and the reason of a refusal."""

import sqlite3
from pathlib import Path
from urllib.parse import quote


def uri(path: Path, *, mode: str = "ro", immutable: bool = False) -> str:
    """The URI by which SQLite opens an existing file. *immutable*: without locks, for a file that nobody writes to."""
    return f"file:{quote(str(path))}?mode={mode}" + ("&immutable=1" if immutable else "")


def connect(path: Path, *, mode: str = "rw", timeout: float = 0.0) -> sqlite3.Connection:
    """A connection in autocommit mode to an existing file; *timeout* in seconds for locks.

    A table, view, index or trigger whose definition this SQLite cannot parse is left out, where SQLite would by default refuse
    the whole database (https://www.sqlite.org/pragma.html#pragma_writable_schema), and names need not be UTF-8.
    """
    database = sqlite3.connect(uri(path, mode=mode), uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    return _tolerant(database)


def copy_in_memory(database: sqlite3.Connection) -> sqlite3.Connection:
    """A connection to a copy, as `connect` makes it. Raises ``sqlite3.DatabaseError`` if *database* is locked or unreadable."""
    copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        database.backup(copy)
        return _tolerant(copy)
    except BaseException:
        copy.close()
        raise


def _tolerant(database: sqlite3.Connection) -> sqlite3.Connection:
    database.execute("PRAGMA writable_schema = ON")
    database.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
    return database


def quoted(name: str) -> str:
    """*name* as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def is_locked(problem: sqlite3.Error) -> bool:
    """Whether SQLite refused because another connection holds a lock."""
    return primary_code(problem) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_interrupted(problem: sqlite3.Error) -> bool:
    """Whether a progress handler ended the query."""
    return primary_code(problem) == sqlite3.SQLITE_INTERRUPT


def primary_code(problem: sqlite3.Error) -> int:
    """SQLite's primary result code, 0 where the module does not give one (https://www.sqlite.org/rescode.html)."""
    return int(getattr(problem, "sqlite_errorcode", 0)) & 0xFF
