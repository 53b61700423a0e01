"""Years of backups, jobs and log lines, made in seconds by SQLite itself."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

MANY = ("backups_indexedbackup", "backups_job", "backups_joblog", "backups_auditentry")

_PHASES = json.dumps(
    [
        {"name": name, "started": "2026-11-21T03:00:00+00:00", "seconds": 1.5, "done": 1, "total": 1}
        for name in ("cut", "store", "restore")
    ]
)
_SOURCES = json.dumps([{"kind": "sqlite", "name": "refserver", "bytes": 1_000_000, "files": 1, "method": "pages"}])
_BUSY = json.dumps({"code": "source_busy", "message": "A lock could not be had.", "hint": "Try again."})


def many(*, backups: int = 0, jobs: int = 0, lines: int = 0) -> str:
    """Add that many rows over 400 days, newest now; the newest jobs have 20,000 *lines* each. Returns the newest job's id.

    One backup in 24 is full; one in 1,000 is damaged, one in 50 not proven. One job in 200 failed, one in 20 is not a backup.
    """
    step = 400 * 24 * 60 / max(backups, jobs, 1)
    minutes = f"(i * {step:.6f} + 3)"
    begun, ended = _ago(minutes), _ago(f"({minutes} - 0.3)")
    kind = "CASE WHEN i % 24 = 0 THEN 'full' ELSE 'incremental' END"
    with transaction.atomic(using="control"):
        _insert(
            "backups_indexedbackup",
            backups,
            {
                "repository": "'main'",
                "backup_id": f"strftime('%Y%m%dT%H%M%SZ', {begun}) || '-' || {kind} || '-' || printf('%06x', i)",
                "set": "'default'",
                "kind": kind,
                "parent_id": "''",
                "time": begun,
                "finished": ended,
                "host": "'test-host'",
                "note": "''",
                "bytes_source": "40000000 + i",
                "bytes_stored": "CASE WHEN i % 24 = 0 THEN 20000000 ELSE 300000 + (i * 7919) % 100000 END",
                "seconds": "4 + i % 7",
                "pause_sqlite": "0.4",
                "pause_chroma": "2.5 + i % 3",
                "verification": "CASE WHEN i % 1000 = 999 THEN 'damaged' WHEN i % 50 = 7 THEN 'none' ELSE 'restore' END",
                "verified_at": ended,
                "held": "0",
                "hold_note": "''",
                "encrypted": "0",
                "safety": "0",
                "sources": f"'{_SOURCES}'",
                "proofs": "1",
                "restore_seconds": "3.5",
                "job": "''",
                "problem": "''",
                "losses": "''",
                "check_failed": "''",
                "check_found_damage": "0",
                "damaged_in": "''",
                "seen": "''",
            },
        )
        failed = "i % 200 = 99"
        _insert(
            "backups_job",
            jobs,
            {
                "id": _id("i"),
                "kind": "CASE WHEN i % 20 = 13 THEN 'verify' ELSE 'backup' END",
                "arguments": "'{}'",
                "note": "''",
                "state": f"CASE WHEN {failed} THEN 'failed' ELSE 'succeeded' END",
                "created": begun,
                "not_before": begun,
                "via": "CASE WHEN i % 3 = 0 THEN 'pages' ELSE 'plan' END",
                "by": "CASE WHEN i % 3 = 0 THEN 'ada' ELSE 'hourly-incremental' END",
                "by_id": "''",
                "host": "'test-host'",
                "repository": "'main'",
                "set": "'default'",
                "writes": "1",
                "attempt": "1",
                "attempts": "3",
                "limit": "86400",
                "claim": "''",
                "worker": "''",
                "child": "''",
                "started": begun,
                "heartbeat": ended,
                "cancel_by": "''",
                "phase": "'restore'",
                "done": "1",
                "rate": "0",
                "phases": f"'{_PHASES}'",
                "finished": ended,
                "exit_code": "0",
                "result": "'{}'",
                "error": f"CASE WHEN {failed} THEN '{_BUSY}' END",
                "backup_id": "''",
            },
        )
        level = "CASE WHEN i % 500 = 3 THEN 'warning' ELSE 'info' END"
        line = "'Stored block ' || i || ' of the documents'"
        _insert("backups_joblog", lines, {"job_id": _id("(i / 20000)"), "time": _ago("0"), "level": level, "line": line})
        return str(_run(f"SELECT {_id('0')}")[0][0])


def unindexed(captured: CaptureQueriesContext) -> list[str]:
    """The steps of captured queries that read a whole table of many rows, or sort what an index could have sorted."""
    found = []
    for query in captured.captured_queries:
        if not query["sql"].startswith("SELECT"):
            continue
        for step in (row[-1] for row in _run("EXPLAIN QUERY PLAN " + query["sql"])):
            whole = step.startswith("SCAN") and any(f" {table}" in step for table in MANY) and " INDEX " not in step
            if whole or "TEMP B-TREE FOR ORDER BY" in step:
                found.append(f"{step}: {query['sql']}")
    return found


def _insert(table: str, count: int, values: dict[str, str]) -> None:
    columns = ", ".join(f'"{name}"' for name in values)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {max(count, 1)})"
    _run(f'{numbers} INSERT INTO "{table}" ({columns}) SELECT {", ".join(values.values())} FROM n WHERE i < {count}')


def _run(statement: str) -> list[Any]:
    connection = connections["control"]
    connection.ensure_connection()
    return connection.connection.execute(statement).fetchall()  # Django's cursor would interpret %


def _ago(minutes: str) -> str:
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || {minutes} || ' minutes') || '000')"


def _id(number: str) -> str:
    return f"printf('%08x%08x%08x%08x', {number}, 1, 2, {number})"


@dataclass
class Steps:
    """How many instructions SQLite's virtual machine ran, in thousands rounded down."""

    taken: int = 0

    def count(self) -> None:
        self.taken += 1_000


@contextmanager
def vdbe_steps(connection: sqlite3.Connection) -> Iterator[Steps]:
    """Count the work of queries. Unlike the time that it takes, it is the same on every machine."""
    steps = Steps()
    connection.set_progress_handler(steps.count, 1_000)
    try:
        yield steps
    finally:
        connection.set_progress_handler(None, 0)
