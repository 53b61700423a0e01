"""What would a restore change? Rows, vectors, files, accounts, space and time, told before anything is touched.

The SQLite files of the backup are restored into the repository's scratch folder and compared there with the live ones. This
runs in a process of its own (`manage.py preview_restore`): it connects to live databases, so it reads none of their files raw,
and it never opens Chroma with a client. What is broken or missing on the live side is an answer, not an error: that is when
people restore.

========== =======================================================================================================
field      what it tells
========== =======================================================================================================
in_place   ``possible``, ``why`` not, ``hint``, and of each target ``store, target, bytes_now, bytes_after, how``
space      of each folder beside which stores are staged: ``place, needed, free, enough``
seconds    ``estimate`` and the backup that it was measured ``from``
sqlite     of each database ``tables`` (rows ``before``, ``after``, and how they ``differ``), ``schema``, ``migrations``
chroma     of each directory ``collections`` with records ``before`` and ``after``
files      of each folder counts and bytes, and which files ``appear``, ``vanish``, ``change``
accounts   `accounts.compare`; None when the database that holds them is not restored
========== =======================================================================================================

Each store has ``live``: ``ok``, ``missing``, ``broken``, ``busy`` or ``unknown`` (not this project's), and ``why``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django.db import connections

from backups.engine.archive.table import EntryType, Tree
from backups.engine.chroma_files.tables import DATABASE, list_collections
from backups.engine.config import check_set_name
from backups.engine.errors import EngineError, from_os_error
from backups.engine.extract import extract
from backups.engine.repository.folder import Repository
from backups.engine.restore.in_place import plan_in_place
from backups.engine.restore.to_folder import plan, select, wanted_by
from backups.engine.runtime import durable
from backups.engine.runtime.context import Context, Phase
from backups.engine.runtime.space import need_space
from backups.engine.runtime.sqlite import connect, is_locked
from backups.engine.types import Backup, Depth, Source, SourceKind, SourceRecord
from backups.identity import account_changes
from backups.models import IndexedBackup

MOST_ROWS = 400_000
"""Rows of both sides together up to which a table is compared row by row; of larger ones the rows are counted."""

MOST_SECONDS = 20.0
"""How long comparing row by row may take in all; counting takes what it takes, and can be cancelled."""

MOST_NAMES = 50
"""How many names of files, tables and migrations are listed of a kind; all are counted."""

_INSTRUCTIONS = 200_000
_OPEN_WAIT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The live side of a store: where it is, and what is wrong with it when it cannot be read."""

    path: Path | None
    state: str  # ok, missing, broken, busy, unknown
    why: str = ""

    @property
    def readable(self) -> bool:
        return self.state == "ok"


@dataclass(slots=True)
class _Look:
    """One preview on its way."""

    repository: Repository
    backup: Backup
    ctx: Context
    scratch: Path
    live: dict[tuple[SourceKind, str], Path]
    compare_until: float = field(default_factory=lambda: time.monotonic() + MOST_SECONDS)


def preview(
    repository: Repository, backup: Backup, sources: Sequence[Source] | None, ctx: Context, *, only: str | None = None
) -> dict[str, Any]:
    """What restoring *backup* in place would change, as JSON with the fields above.

    *sources* are the live stores of its set; None for a set of another application, whose stores are not looked at. Nothing
    is changed. Raises `DamageFound`, `NoSpace`, `UsageError` and `Cancelled`. However this process ends, a guard removes what
    it had restored into scratch.
    """
    began = time.monotonic()
    records = select(backup, only)
    scratch = repository.scratch / f"{os.getpid()}.{ctx.token()}"
    known = {(source.kind, source.name): source.path for source in sources or ()}
    look = _Look(repository, backup, ctx, scratch, known)
    try:
        with _guarded(scratch):
            tree = _restore_databases(look, records)
            answer = {
                "id": backup.id,
                "set": backup.manifest.set,
                "kind": backup.manifest.kind,
                "time": backup.manifest.time.isoformat(),
                "age_seconds": round((ctx.now() - backup.manifest.time).total_seconds(), 1),
                "only": only,
                "damaged": backup.damaged,
                "in_place": _in_place(look, sources, only),
                "space": _space(look, records),
                "seconds": _seconds(backup, records),
                "sqlite": [_sqlite(look, record) for record in records if record.kind is SourceKind.SQLITE],
                "chroma": [_chroma(look, record) for record in records if record.kind is SourceKind.CHROMA],
                "files": [_files(look, record, tree) for record in records if record.kind is SourceKind.FILES],
                "accounts": _accounts(look, records),
            }
    except OSError as problem:
        raise from_os_error(problem, f"Looking at what {backup.id} would change") from problem
    return {**answer, "took_seconds": round(time.monotonic() - began, 3)}


# Scratch


@contextlib.contextmanager
def _guarded(scratch: Path) -> Iterator[None]:
    """A scratch folder that is removed when the context is left, and by a guard when this process is killed before."""
    durable.make_folder(scratch)
    remove = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", remove, str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},  # not the job's: whoever ends all processes of a job that was killed leaves the guard to its work
        start_new_session=True,  # a signal to the group of this process is not for it
    )
    try:
        yield
    finally:
        durable.remove_tree(scratch)
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(timeout=30)


def _restore_databases(look: _Look, records: tuple[SourceRecord, ...]) -> Tree:
    """Restore the SQLite files into scratch, each block checked; the tree tells of all files."""
    databases = tuple(record for record in records if record.kind is SourceKind.SQLITE)
    with look.repository.reading():
        archives, tree, size = plan(look.repository, look.backup, databases)
        with archives:
            need_space(look.repository.folder, size, f"look at what restoring {look.backup.id} would change")
            with look.ctx.phase("preview", "restore", size) as phase:
                if databases:
                    extract(archives, tree, look.scratch, phase, wanted=wanted_by(databases), sync=False)
    return tree


# What it takes


def _in_place(look: _Look, sources: Sequence[Source] | None, only: str | None) -> dict[str, Any]:
    """Whether it can be restored in place, and how each store would be exchanged."""
    if sources is None:
        why = f"The set {look.backup.manifest.set} is not one of this project: its live stores are not known here."
        return {"possible": False, "why": why, "hint": "Restore it into a folder.", "targets": []}
    try:
        planned = plan_in_place(look.repository, look.backup, tuple(sources), only=only)
    except EngineError as problem:
        return {"possible": False, "why": problem.message, "hint": problem.hint, "targets": []}
    return {"possible": True, "why": "", "hint": "", "targets": planned["targets"]}


def _space(look: _Look, records: tuple[SourceRecord, ...]) -> list[dict[str, Any]]:
    """What a restore in place needs beside each store, and what is free; SQLite goes through the live file's log once more."""
    needed: dict[Path, int] = {}
    for record in records:
        path = look.live.get((record.kind, record.name))
        if path is not None:
            place = Path(os.path.realpath(path)).parent
            needed[place] = needed.get(place, 0) + record.bytes * (2 if record.kind is SourceKind.SQLITE else 1)
    found = []
    for place, size in needed.items():
        exists = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(exists).free
        found.append({"place": str(place), "needed": size, "free": free, "enough": free > size})
    return found


def _seconds(backup: Backup, records: tuple[SourceRecord, ...]) -> dict[str, Any]:
    """How long it takes, from the newest proof by restore of this backup, or of the set's newest that has one."""
    share = sum(record.bytes for record in records) / max(1, backup.manifest.bytes_source)
    proofs = [proof for proof in backup.proofs if proof.ok and proof.depth is Depth.RESTORE]
    if proofs:
        return {"estimate": round(proofs[-1].seconds * share, 1), "from": backup.id, "measured": proofs[-1].time.isoformat()}
    rows = IndexedBackup.objects.filter(set=check_set_name(backup.manifest.set), restore_seconds__gt=0, bytes_source__gt=0)
    row = rows.order_by("-time")[:1].first()
    if row is None or row.restore_seconds is None:
        return {"estimate": None, "from": "", "measured": None}
    rate = row.restore_seconds / row.bytes_source
    estimate = round(rate * backup.manifest.bytes_source * share, 1)
    return {"estimate": estimate, "from": row.backup_id, "measured": row.verified_at.isoformat() if row.verified_at else None}


# SQLite


def _sqlite(look: _Look, record: SourceRecord) -> dict[str, Any]:
    """Rows a table on both sides, differences in the schema, and migrations that the backup does not know."""
    path = look.live.get((record.kind, record.name))
    kept_file = look.scratch / record.prefix
    answer: dict[str, Any] = {"store": record.prefix, "name": record.name, "tables": [], "schema": [], "migrations": None}
    if record.method == "raw":
        live = Live(path=path, state="unknown", why="It is not compared.")
        answer["note"] = "The backup holds it only as the raw bytes of a broken database."
        return answer | _told(live)
    with contextlib.closing(_kept(kept_file)) as kept, contextlib.ExitStack() as opened:
        live, now = _open_live(path)
        if now is not None:
            opened.enter_context(contextlib.closing(now))
            _watch(look, now)
        _watch(look, kept)
        schema_now = _schema(now) if now is not None else {}
        schema_kept = _schema(kept)
        names = sorted({name for kind, name in (*schema_now, *schema_kept) if kind == "table"})
        with look.ctx.phase("preview", f"count {record.prefix}", len(names)) as phase:
            for name in names:
                after = _count(look, kept, name) if ("table", name) in schema_kept else None
                before = None
                if now is not None and ("table", name) in schema_now:
                    try:
                        before = _count(look, now, name)
                    except sqlite3.DatabaseError as problem:
                        live = Live(path=path, state="busy" if is_locked(problem) else "broken", why=str(problem))
                answer["tables"].append({"name": name, "before": before, "after": after, "differs": None})
                phase.advance(1)
        if now is not None:
            assert path is not None
            if damage := _compare_rows(look, record, path, kept_file, answer["tables"]):
                live = Live(path=path, state="broken", why=damage)
            answer["migrations"] = _migrations(now, kept)
        if live.readable:
            answer["schema"] = _schema_differences(schema_now, schema_kept)
    answer["rows_before"] = _total(answer["tables"], "before") if live.readable else None
    answer["rows_after"] = _total(answer["tables"], "after")
    return answer | _told(live)


def _told(live: Live) -> dict[str, Any]:
    return {"live": live.state, "why": live.why, "target": str(live.path) if live.path else None}


def _kept(path: Path) -> sqlite3.Connection:
    """A database in scratch, which nobody writes to: no lock and no further file."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, isolation_level=None)


def _open_live(path: Path | None) -> tuple[Live, sqlite3.Connection | None]:
    """A read-only connection to a live database, or what is wrong with it."""
    if path is None:
        return Live(path=None, state="unknown", why="The project names no live store for it."), None
    if not path.exists():
        return Live(path=path, state="missing", why="There is nothing at its place."), None
    try:
        connection = connect(path, mode="ro", timeout=_OPEN_WAIT)
    except sqlite3.Error as problem:
        return Live(path=path, state="broken", why=str(problem)), None
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as problem:
        connection.close()
        return Live(path=path, state="busy" if is_locked(problem) else "broken", why=str(problem)), None
    return Live(path=path, state="ok"), connection


def _watch(look: _Look, connection: sqlite3.Connection, until: float | None = None) -> None:
    """Let a statement of *connection* be cancelled, and ended at *until* on the monotonic clock."""

    def stop() -> bool:
        return look.ctx.should_cancel() or (until is not None and time.monotonic() > until)

    connection.set_progress_handler(stop, _INSTRUCTIONS)


def _count(look: _Look, connection: sqlite3.Connection, name: str) -> int:
    try:
        return int(connection.execute(f"SELECT count(*) FROM {_q(name)}").fetchone()[0])
    except sqlite3.OperationalError:
        look.ctx.check()
        raise


def _total(tables: list[dict[str, Any]], side: str) -> int:
    return sum(table[side] or 0 for table in tables)


def _schema(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    """What a database declares: (kind, name) -> SQL. Virtual tables count as no table: they may need a missing module.

    Nor does what has a name that is no text: a database may be damaged, or made by somebody who means harm.
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
    """Django's migrations that only one side has had: after the restore, those that are missing are to be run."""
    try:
        sides = [
            {f"{app}.{name}" for app, name in side.execute("SELECT app, name FROM django_migrations")} for side in (now, kept)
        ]
    except sqlite3.DatabaseError:
        return None
    return {"missing": sorted(sides[0] - sides[1])[:MOST_NAMES], "unknown": sorted(sides[1] - sides[0])[:MOST_NAMES]}


def _compare_rows(look: _Look, record: SourceRecord, live: Path, kept: Path, tables: list[dict[str, Any]]) -> str:
    """Say of each table that is not too large how many rows go, come back and change, by its primary key.

    Returns what was found damaged on the way, or nothing.
    """
    damage = ""
    with contextlib.ExitStack() as opened:
        try:
            both = opened.enter_context(contextlib.closing(connect(live, mode="ro", timeout=_OPEN_WAIT)))
            both.execute("ATTACH DATABASE ? AS kept", (f"file:{quote(str(kept))}?mode=ro&immutable=1",))
        except sqlite3.Error:
            return ""
        _watch(look, both, look.compare_until)
        with look.ctx.phase("preview", f"compare {record.prefix}", len(tables)) as phase:
            for table in tables:
                before, after = table["before"], table["after"]
                if before is not None and after is not None and before + after <= MOST_ROWS:
                    try:
                        table["differs"] = _row_differences(look, both, table["name"])
                    except sqlite3.DatabaseError as problem:
                        damage = damage or f"{table['name']}: {problem}"
                phase.advance(1)
    return damage


def _row_differences(look: _Look, both: sqlite3.Connection, name: str) -> dict[str, int] | None:
    """``{"gone", "back", "changed"}`` of a table; None where it has no key in common, or time is up.

    Raises ``sqlite3.DatabaseError`` for a table that is damaged.
    """
    try:
        columns = [_table_columns(both, schema, name) for schema in ("main", "kept")]
        common = [column for column in columns[0] if column in columns[1]]
        key = [column for column, position in columns[0].items() if position]
        if key != [column for column, position in columns[1].items() if position]:
            return None
        join = " AND ".join(f"a.{_q(column)} = b.{_q(column)}" for column in key) or "a.rowid = b.rowid"
        unlike = " OR ".join(f"a.{_q(column)} IS NOT b.{_q(column)}" for column in common if column not in key) or "0"
        place = f"main.{_q(name)} AS a JOIN kept.{_q(name)} AS b ON {join}"
        matched, changed = both.execute(f"SELECT count(*), coalesce(sum({unlike}), 0) FROM {place}").fetchone()
        before, after = (both.execute(f"SELECT count(*) FROM {schema}.{_q(name)}").fetchone()[0] for schema in ("main", "kept"))
    except sqlite3.DatabaseError as problem:
        look.ctx.check()
        if getattr(problem, "sqlite_errorcode", 0) & 0xFF in (
            sqlite3.SQLITE_CORRUPT,
            sqlite3.SQLITE_NOTADB,
            sqlite3.SQLITE_IOERR,
        ):
            raise
        return None
    return {"gone": before - matched, "back": after - matched, "changed": changed}


def _table_columns(connection: sqlite3.Connection, schema: str, name: str) -> dict[str, int]:
    """Columns of a table with their place in its primary key, 0 for none."""
    rows = connection.execute("SELECT name, pk FROM pragma_table_info(?, ?)", (name, schema))
    return {str(column): int(position) for column, position in rows}


# Chroma and files


def _chroma(look: _Look, record: SourceRecord) -> dict[str, Any]:
    """Vectors a collection: now, read from Chroma's tables, and in the backup, as its manifest says."""
    path = look.live.get((record.kind, record.name))
    live, now = _open_live(path / DATABASE if path is not None else None)
    before: dict[str, dict[str, Any]] = {}
    if now is not None:
        with contextlib.closing(now):
            _watch(look, now)
            try:
                for place in list_collections(now):
                    counted = "SELECT count(*) FROM embeddings WHERE segment_id = ?"
                    count = int(now.execute(counted, (place.metadata_segment,)).fetchone()[0])
                    before[place.name] = {
                        "count": count,
                        "dimension": place.dimension,
                        "at": [place.metadata_at, place.vector_at],
                    }
            except (sqlite3.DatabaseError, EngineError) as problem:
                look.ctx.check()
                locked = isinstance(problem, sqlite3.Error) and is_locked(problem)
                live = Live(path=live.path, state="busy" if locked else "broken", why=str(problem))
                before = {}
    after = {
        item.name: {"count": item.digest.count, "dimension": item.dimension, "at": [item.metadata_at, item.vector_at]}
        for item in record.collections
    }
    collections = [
        {
            "name": name,
            "before": before[name]["count"] if name in before else None,
            "after": after[name]["count"] if name in after else None,
            "dimension_before": before.get(name, {}).get("dimension"),
            "dimension_after": after.get(name, {}).get("dimension"),
            "same": name in before and before.get(name) == after.get(name),
        }
        for name in sorted(before.keys() | after.keys())
    ]
    told = _told(live) | {"target": str(path) if path else None}
    return {"store": record.prefix, "name": record.name, "collections": collections, **told}


def _files(look: _Look, record: SourceRecord, tree: Tree) -> dict[str, Any]:
    """Files on both sides, by size and time of change; the files themselves are not read."""
    path = look.live.get((record.kind, record.name))
    prefix = record.prefix + "/"
    kept = {
        entry_path.removeprefix(prefix): (entry.size, entry.mtime_ns)
        for entry_path, entry in tree.entries.items()
        if entry_path.startswith(prefix) and entry.kind is EntryType.FILE
    }
    if path is None:
        live = Live(path=None, state="unknown", why="The project names no live folder for it.")
    elif not path.is_dir():
        live = Live(path=path, state="missing", why="There is no folder at its place.")
    else:
        live = Live(path=path, state="ok")
    now: dict[str, tuple[int, int]] = {}
    if live.readable:
        assert path is not None
        with look.ctx.phase("preview", f"walk {record.prefix}") as phase:
            now = _walk(path, phase)
    changes = {
        "appear": sorted(kept.keys() - now.keys()),
        "vanish": sorted(now.keys() - kept.keys()),
        "change": sorted(name for name in kept.keys() & now.keys() if kept[name] != now[name]),
    }
    return {
        "store": record.prefix,
        "name": record.name,
        "files_before": len(now) if live.readable else None,
        "files_after": len(kept),
        "bytes_before": sum(size for size, _ in now.values()) if live.readable else None,
        "bytes_after": sum(size for size, _ in kept.values()),
        "counts": {what: len(names) for what, names in changes.items()} if live.readable else None,
        **{what: names[:MOST_NAMES] if live.readable else [] for what, names in changes.items()},
        **_told(live),
    }


def _walk(folder: Path, phase: Phase) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file below *folder*; one that goes meanwhile is passed over."""
    found = {}
    waiting = [folder]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    facts = entry.stat(follow_symlinks=False)
                    found[os.path.relpath(entry.path, folder)] = (facts.st_size, facts.st_mtime_ns)
                    phase.advance(facts.st_size)
    return found


# Accounts


def _accounts(look: _Look, records: tuple[SourceRecord, ...]) -> dict[str, Any] | None:
    """Accounts and rights that come back or go; None when the database that holds them is not restored."""
    record = account_store(look.live, records)
    if record is None or record.method == "raw":
        return None
    with contextlib.closing(_kept(look.scratch / record.prefix)) as kept:
        after = _read_accounts(look, kept)
    if after is None and record.path:
        return None
    _, now = _open_live(look.live.get((record.kind, record.name)))
    before = None
    if now is not None:
        with contextlib.closing(now):
            before = _read_accounts(look, now)
    return {"store": record.prefix, **account_changes.compare(before, account_changes.with_groups_made(after, before))}


def account_store(live: dict[tuple[SourceKind, str], Path], records: Sequence[SourceRecord]) -> SourceRecord | None:
    """The record of the database in which this project's accounts live, if it is among *records*."""
    home = connections.settings[account_changes.alias()]
    if not str(home["ENGINE"]).endswith("sqlite3"):
        return None
    place = os.path.realpath(str(home["NAME"]))
    for record in records:
        path = live.get((record.kind, record.name))
        if record.kind is SourceKind.SQLITE and path is not None and os.path.realpath(path) == place:
            return record
    return None


def _read_accounts(look: _Look, connection: sqlite3.Connection) -> account_changes.Accounts | None:
    _watch(look, connection)
    query: Callable[[str], list[Any]] = lambda statement: connection.execute(statement).fetchall()  # noqa: E731
    try:
        return account_changes.read(query)
    except sqlite3.DatabaseError:
        look.ctx.check()
        return None


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
