"""Diagnoses sources and repository and gives advice, without changing anything."""

import contextlib
import os
import sqlite3
import sys
import time
from pathlib import Path

from .capture.owners import owners
from .chroma_files.errors import BrokenIndex
from .chroma_files.hnsw import index_stamps
from .chroma_files.records import count_records
from .chroma_files.tables import DATABASE, Collection, check_supported, list_collections, pending_ids, refuse_links, reread
from .diagnosis import Advice, Diagnosis, check_space
from .encryption.keyring import Keyring
from .errors import EngineError
from .evidence.keys import Keys
from .gate import Gate
from .progress import counted, human_bytes
from .repository_diagnosis import check_repository
from .runtime.context import Context
from .runtime.live_check import check_live
from .runtime.space import is_full
from .runtime.sqlite import connect, is_interrupted, is_locked, primary_code
from .runtime.time_limit import TimeLimit
from .types import Source, SourceKind
from .unfinished import abandoned, unfinished_exchange

_PATIENCE = 5.0
_CHECK_SECONDS = 10.0
_STANDS_STILL = 1.0
_LOOKS = 2


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether a SQLite version has the WAL-reset bug: 3.7.0 to 3.51.2, except 3.44.6 and 3.50.7 and their patch releases.

    https://www.sqlite.org/wal.html#walresetbug
    """
    fixed = version >= (3, 51, 3) or (3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51)
    return version >= (3, 7, 0) and not fixed


def diagnose(
    repository: Path | None,
    sources: tuple[Source, ...],
    ctx: Context,
    keys: Keys | None = None,
    keyring: Keyring | None = None,
) -> Diagnosis:
    """Check the version of SQLite, each of *sources*, and the *repository* (None: not given) with *keys* and *keyring*."""
    report = Diagnosis()
    _check_versions(report)
    for source in sources:
        ctx.check()
        if not source.path.exists():
            report.add("problem", str(source.path), "does not exist", Advice.FIND)
        elif source.kind is SourceKind.SQLITE:
            _check_sqlite(source.path, report)
        elif source.kind is SourceKind.CHROMA:
            _check_chroma(source.path, report, ctx)
        else:
            report.add("ok", str(source.path), "a folder of files")
    if not sources:
        report.add("note", "sources", "none given", "Give --sqlite, --chroma and --files, or set them in .env.")
    _check_restores(sources, report)
    if repository is None:
        report.add("note", "repository", "none given", "Give --repo or set BACKUP_REPOSITORY.")
    else:
        check_repository(repository, keys, keyring, report)
    return report


def _check_versions(report: Diagnosis) -> None:
    if has_wal_reset_bug(sqlite3.sqlite_version_info):
        report.add(
            "warning",
            "SQLite",
            f"{sqlite3.sqlite_version} has the WAL-reset bug: a checkpoint on a timer may lose commits of other connections",
            "Upgrade to 3.51.3 or later if you can. Backups do not trigger it. "
            "Verify with --depth restore, which runs integrity_check.",
        )
    else:
        report.add("ok", "SQLite", sqlite3.sqlite_version)


def _check_sqlite(path: Path, report: Diagnosis) -> None:
    mode = ""
    try:
        with contextlib.closing(connect(path, timeout=_PATIENCE)) as database:
            mode = str(database.execute("PRAGMA journal_mode").fetchone()[0])
            sound = _check_pages(database, path, report)
    except sqlite3.DatabaseError as problem:
        _report_unreadable(path, problem, report)
        return
    if not sound:
        return
    file = path.resolve()  # SQLite's logs lie beside the file, not beside a link to it
    size = file.stat().st_size
    log = file.with_name(file.name + "-wal")
    log_size = log.stat().st_size if log.exists() else 0
    report.add("ok", str(path), f"{human_bytes(size)}, journal mode {mode}, log {human_bytes(log_size)}")
    if mode != "wal":
        message = "in rollback-journal mode: a backup copies it, and writers may have to wait meanwhile"
        report.add("warning", str(path), message, Advice.USE_WAL)
    if (names := file.stat().st_nlink) > 1:
        message = f"the file has {names} names (hard links), and SQLite keeps a log for each: using two of them loses data"
        report.add("warning", str(path), message, Advice.ONE_NAME)
    if log_size > max(size, 256 << 20):
        holders = owners(path) or "no process has it open"
        message = f"its log is larger than the database: a reader blocks checkpoints ({holders})"
        report.add("warning", str(path), message, Advice.END_READERS)
    check_space(path.parent, report, "databases grow while a backup reads them")


def _check_pages(database: sqlite3.Connection, path: Path, report: Diagnosis) -> bool:
    """Run SQLite's checks for about `_CHECK_SECONDS`, and report what they find. False if the database is damaged.

    Raises ``sqlite3.DatabaseError`` for a file that cannot be read as a database.
    """
    database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    verdict = check_live(database, _CHECK_SECONDS)
    if verdict.damage:
        report.add("problem", str(path), f"damaged: {verdict.damage[0]}", Advice.RESTORE)
    for finding in verdict.findings:
        report.add("note", str(path), finding, Advice.HARMLESS)
    for skipped in verdict.skipped:
        report.add("note", str(path), f"not fully checked: {skipped}", Advice.VERIFY)
    return not verdict.damage


def _report_unreadable(path: Path, problem: sqlite3.DatabaseError, report: Diagnosis) -> None:
    """Report a database that SQLite refuses, with the advice for SQLite's reason."""
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.resolve().parent, os.W_OK):
        report.add("problem", str(path), "this user cannot read and write it and its folder", Advice.OTHER_USER)
    elif is_full(path.parent):
        report.add("problem", str(path), f"the disk is full, and SQLite needs space to read it: {problem}", Advice.FREE_SPACE)
    elif is_locked(problem):
        holders = owners(path) or "a process that this user cannot see"
        report.add("warning", str(path), f"locked for {_PATIENCE:g} s by a writer; open in {holders}", Advice.WAIT)
    elif is_interrupted(problem):
        report.add("warning", str(path), f"not fully checked: reading its tables took over {_CHECK_SECONDS:g} s", Advice.VERIFY)
    else:
        advice = {
            sqlite3.SQLITE_NOTADB: Advice.NOT_A_DATABASE,
            sqlite3.SQLITE_IOERR: Advice.OTHER_DISK,
            sqlite3.SQLITE_FULL: Advice.FREE_SPACE,
            sqlite3.SQLITE_CANTOPEN: Advice.OTHER_USER,
        }
        report.add("problem", str(path), f"SQLite cannot read it: {problem}", advice.get(primary_code(problem), Advice.RESTORE))


def _check_chroma(directory: Path, report: Diagnosis, ctx: Context) -> None:
    database_file = directory / DATABASE
    if not database_file.is_file():
        report.add("problem", str(directory), f"contains no {DATABASE}", Advice.CHROMA_PATH)
        return
    try:
        refuse_links(directory)
        with contextlib.closing(connect(database_file, mode="ro", timeout=_PATIENCE)) as database:
            database.set_progress_handler(ctx.should_cancel, 10_000)
            database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            version = check_supported(directory, database)
            if not _check_pages(database, database_file, report):
                return
            with TimeLimit(database, _CHECK_SECONDS):
                listed = list_collections(database)
                unfinished = [item.name for item in listed if pending_ids(database, item)]
            mode = str(database.execute("PRAGMA journal_mode").fetchone()[0])
            for collection in listed:
                ctx.check()
                _check_index(directory, database, collection, report)
    except (sqlite3.DatabaseError, EngineError) as problem:
        ctx.check()
        if isinstance(problem, EngineError):
            report.add("problem", str(directory), problem.message, problem.hint)
        else:
            _report_unreadable(database_file, problem, report)
        return
    for name in unfinished:
        message = "a record is in Chroma's log alone: a write is under way, or a writer was killed"
        report.add("note", f"{directory} {name}", message, Advice.COMPLETES)
    report.add("ok", str(directory), f"tables {version}, journal mode {mode}, {counted(len(listed), 'collection')}")
    if not Gate(directory).exists():
        holders = owners(database_file)
        message = "no application has used the gate here yet; one that does not must be closed for a restore in place"
        report.add("note", str(directory), message + (f"; open in {holders}" if holders else ""), Advice.USE_GATE)


def _check_index(directory: Path, database: sqlite3.Connection, listed: Collection, report: Diagnosis) -> None:
    """Check an index; one that contradicts itself and does not change for a second is broken, else it is being written."""
    from .chroma_files.whole import check_index  # numpy is loaded only to check one

    folder = directory / listed.vector_segment
    subject = f"{directory} {listed.name}"
    why = ""
    for _ in range(_LOOKS):
        before = index_stamps(folder)
        if (collection := reread(database, listed)) is None:
            return  # deleted since
        try:
            graph = check_index(directory, database, collection)
        except BrokenIndex as problem:
            why = f"{problem.file}: {problem}"
        else:
            records = count_records(database, collection, sys.maxsize)
            where = (
                "all in the index" if graph.count >= records else f"{graph.count:,} in the index, the others in Chroma's log"
            )
            report.add("ok", subject, f"{counted(records, 'record')}, {where}; {collection.space}")
            if graph.unreached:
                message = f"no search can find {graph.unreached} of its {graph.count} vectors: no link leads to them"
                report.add("note", subject, message, Advice.UNREACHED)
            return
        time.sleep(_STANDS_STILL)
        if index_stamps(folder) == before:
            report.add("problem", subject, f"its index is broken: {why}", Advice.REBUILD)
            return
    report.add("note", subject, f"its index is being written ({why})", Advice.WAIT)


def _check_restores(sources: tuple[Source, ...], report: Diagnosis) -> None:
    unfinished = unfinished_exchange(sources)
    if unfinished is not None:
        error = unfinished.as_error("")
        safety = unfinished.journal.safety_backup if unfinished.journal is not None else ""
        kept = f" The safety backup is {safety}." if safety else ""
        report.add("problem", ", ".join(map(str, unfinished.folders)), f"{unfinished.message}{kept}", error.hint)
    for folder in abandoned([source.path for source in sources]):
        message = "left by a restore that was killed before it changed anything, or after its end"
        report.add("note", str(folder), message, Advice.NEXT_RESTORE)
