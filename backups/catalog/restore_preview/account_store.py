"""Accounts in the live database and in the backup's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from django.db import connections

from backups.engine.types import SourceKind, SourceRecord
from backups.identity import account_changes, accounts

from .live import Comparison, allow_cancel, open_live, open_restored


def compare_accounts(comparison: Comparison, records: tuple[SourceRecord, ...]) -> dict[str, Any] | None:
    """Changes of accounts and permissions; None when their database is not restored."""
    record = account_store(comparison.live, records)
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
    return {"store": record.prefix, **account_changes.compare(before, account_changes.with_groups_made(after, before))}


def account_store(live: dict[tuple[SourceKind, str], Path], records: Sequence[SourceRecord]) -> SourceRecord | None:
    """The record of the database that holds this project's accounts; None if it is not among *records*."""
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
    query: Callable[[str], list[Any]] = lambda statement: connection.execute(statement).fetchall()  # noqa: E731
    try:
        return accounts.read(query)
    except sqlite3.DatabaseError:
        comparison.ctx.check()
        return None
