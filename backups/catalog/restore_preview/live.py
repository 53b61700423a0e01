"""One preview in progress, and read-only access to both sides of it."""

import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backups.engine.repository.folder import Repository
from backups.engine.runtime.context import Context
from backups.engine.runtime.sqlite import connect, is_locked, uri
from backups.engine.types import Backup, SourceKind

MOST_SECONDS = 20.0
"""Seconds for all comparisons row by row; counting has no limit, and can be cancelled."""

MOST_NAMES = 50
"""Names of files, tables and migrations listed of each kind; all are counted."""

OPEN_WAIT = 5.0
"""Seconds to wait for a locked live database."""

_INSTRUCTIONS = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The live side of a store: its path, its state, and why it cannot be read."""

    path: Path | None
    state: str  # ok, missing, broken, busy, unknown
    why: str = ""

    @property
    def readable(self) -> bool:
        return self.state == "ok"


@dataclass(slots=True)
class Comparison:
    """A preview in progress."""

    repository: Repository
    backup: Backup
    ctx: Context
    scratch: Path
    live: dict[tuple[SourceKind, str], Path]
    compare_until: float = field(default_factory=lambda: time.monotonic() + MOST_SECONDS)


def open_live(path: Path | None) -> tuple[Live, sqlite3.Connection | None]:
    """A read-only connection to a live database; None with the reason when it cannot be opened."""
    if path is None:
        return Live(path=None, state="unknown", why="The project has no live store for it."), None
    if not path.exists():
        return Live(path=path, state="missing", why="It does not exist."), None
    try:
        connection = connect(path, mode="ro", timeout=OPEN_WAIT)
    except sqlite3.Error as problem:
        return Live(path=path, state="broken", why=str(problem)), None
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as problem:
        connection.close()
        return Live(path=path, state="busy" if is_locked(problem) else "broken", why=str(problem)), None
    return Live(path=path, state="ok"), connection


def open_restored(path: Path) -> sqlite3.Connection:
    """A connection to a restored database in scratch, without locks: nothing writes to it."""
    return sqlite3.connect(uri(path, immutable=True), uri=True, isolation_level=None)


def allow_cancel(comparison: Comparison, connection: sqlite3.Connection, until: float | None = None) -> None:
    """Let statements of *connection* be cancelled, and end them at *until* on the monotonic clock."""

    def stop() -> bool:
        return comparison.ctx.should_cancel() or (until is not None and time.monotonic() > until)

    connection.set_progress_handler(stop, _INSTRUCTIONS)


def live_fields(live: Live) -> dict[str, Any]:
    """The fields of a live store that the preview shows."""
    return {"live": live.state, "why": live.why, "target": str(live.path) if live.path else None}
