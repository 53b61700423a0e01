"""Diagnoses sources and repository and gives advice, without changing anything."""

import contextlib
import os
import shutil
import sqlite3
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from .capture.owners import owners
from .chroma_files.errors import BrokenIndex
from .chroma_files.hnsw import index_stamps
from .chroma_files.records import count_records
from .chroma_files.tables import DATABASE, Collection, check_supported, list_collections, pending_ids, refuse_links, reread
from .errors import EngineError, PermissionMissing, RepositoryTooNew
from .evidence.keys import Keys
from .gate import Gate
from .progress import counted, human_bytes
from .repository.base import Unreadable, set_of
from .repository.folder import SCRATCH, STAGING, Repository, open_repository
from .repository.suspicion import suspicions
from .runtime.context import Context
from .runtime.live_check import check_live
from .runtime.sqlite import connect, is_interrupted, is_locked, primary_code
from .runtime.time_limit import TimeLimit
from .types import Source, SourceKind
from .unfinished import abandoned, unfinished_exchange

Level = Literal["ok", "note", "warning", "problem"]
_LOW_SPACE = 1 << 30
_LEAST_SPACE = 64 << 10
_PATIENCE = 5.0
_CHECK_SECONDS = 10.0
_STANDS_STILL = 1.0
_LOOKS = 2


class Advice(StrEnum):
    """What to do about a source, one sentence for each cause."""

    FIND = "Correct the path, or restore the newest good backup: refbackup restore latest --in-place."
    OTHER_USER = "Run as the application's user."
    FREE_SPACE = "Free space on that disk; nothing else is known to be wrong."
    WAIT = "Wait until the writer is done, or end it: nothing is known to be wrong with the data."
    NOT_A_DATABASE = (
        "If the application encrypts it, refbackup cannot read it: back up an export. If it was a plain database, its "
        "beginning is overwritten: restore the newest good backup. Else correct the path."
    )
    OTHER_DISK = "Look for errors of the disk in the system's log, and restore the newest good backup onto a disk that works."
    RESTORE = "Restore it from the newest good backup."
    HARMLESS = "Nothing has to be done if the application works with it: backups hold it as it is."
    VERIFY = "Run refbackup verify latest --depth restore, which checks a copy completely."
    USE_WAL = "Switch it to WAL: sqlite3 FILE 'PRAGMA journal_mode=WAL'."
    ONE_NAME = "Use one name everywhere, and remove the others."
    END_READERS = "End long-running read transactions."
    CHROMA_PATH = "Give the directory that Chroma uses."
    COMPLETES = "Nothing has to be done: Chroma completes it when the collection is next used."
    REBUILD = (
        "Chroma cannot be relied on to open it. Restore the newest good backup, or write its vectors again into a new "
        "collection. In a Django project that compares them with rows of SQLite (the app consistency), manage.py "
        "consistency_check offers that."
    )
    UNREACHED = (
        "Chroma's indexes have such vectors where many are equal or max_neighbors is small. A new collection with more "
        "neighbours finds more of them."
    )
    NEXT_RESTORE = "The next restore in place of a store beside it removes it, and so does refbackup prune."
    REPOSITORY = (
        "Put back a folder or a regular file. Links in a repository are not followed: to keep a part of it on another disk, "
        "mount that disk there."
    )
    LOOK = "Find out who did it, bring back what is missing, delete what nobody signed, and run refbackup adopt."
    SIGN = "Run refbackup adopt: with a signing key, forged and removed backups are noticed."
    USE_GATE = "Use backups.engine.gate around calls of Chroma, or give the restore stop and start commands."


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The state of one subject, and advice if something should be done."""

    level: Level
    subject: str
    message: str
    advice: str = ""


@dataclass(slots=True)
class Diagnosis:
    """All findings."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(finding.level != "problem" for finding in self.findings)

    def add(self, level: Level, subject: str, message: str, advice: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(level=level, subject=subject, message=message, advice=advice))

    def as_json(self) -> dict[str, Any]:
        """``{"ok", "findings": [{"level", "subject", "message", "advice"}]}``."""
        return {"ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def as_text(self) -> str:
        """A line per finding, with the advice below it."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.level.upper():<8} {finding.subject}: {finding.message}")
            if finding.advice:
                lines.append(f"         -> {finding.advice}")
        return "\n".join(lines)


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether a SQLite version has the WAL-reset bug: 3.7.0 to 3.51.2, except 3.44.6 and 3.50.7 and their patch releases.

    https://www.sqlite.org/wal.html#walresetbug
    """
    fixed = version >= (3, 51, 3) or (3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51)
    return version >= (3, 7, 0) and not fixed


def diagnose(repository: Path | None, sources: tuple[Source, ...], ctx: Context, keys: Keys | None = None) -> Diagnosis:
    """Check the version of SQLite, each of *sources*, and the *repository* (None: not given) with *keys*."""
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
        _check_repository(repository, keys, report)
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
    _check_space(path.parent, report, "databases grow while a backup reads them")


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
    elif shutil.disk_usage(path.parent).free < _LEAST_SPACE:
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


def _check_repository(folder: Path, keys: Keys | None, report: Diagnosis) -> None:
    try:
        repository = open_repository(folder, keys)
    except EngineError as problem:
        report.add("problem", str(folder), problem.message, problem.hint)
        return
    for check in (_check_backups, _check_evidence, _check_debris, _check_trash):
        try:
            check(repository, report)
        except OSError as problem:  # such as a link in the place of a folder: the other folders are checked all the same
            report.add("problem", str(folder), f"it cannot be read: {problem}", Advice.REPOSITORY)
    if not os.access(folder, os.W_OK):
        report.add("problem", str(folder), "this user cannot write to it", "Correct owner and mode.")
    _check_space(folder, report, "backups need room")


def _check_backups(repository: Repository, report: Diagnosis) -> None:
    folder, scanned = repository.folder, repository.scan()
    unreadable = [item for item in scanned if isinstance(item, Unreadable)]
    newer = [item.id for item in unreadable if item.problem.code == RepositoryTooNew.code]
    closed = [item.id for item in unreadable if item.problem.code == PermissionMissing.code]
    broken = [item.id for item in unreadable if item.id not in {*newer, *closed}]
    unsound = [item for item in scanned if not isinstance(item, Unreadable) and item.damaged]
    damaged = [item.id for item in unsound if not item.manifest.safety]
    kept = [item.id for item in unsound if item.manifest.safety]
    proven = [item for item in scanned if not isinstance(item, Unreadable) and item.verified_at and not item.damaged]
    stored = sum(item.manifest.bytes_stored for item in scanned if not isinstance(item, Unreadable))
    report.add("ok", str(folder), f"{counted(len(scanned), 'backup')}, {human_bytes(stored)}, {len(proven)} verified")
    times = Counter(item.id for item in scanned)
    same = [f"{set_of(item)}/{item.id}" for item in scanned if times[item.id] > 1]
    if same:
        message = f"several sets hold one id: {', '.join(same[:6])}"
        report.add("problem", str(folder), message, "Delete the one that refbackup did not make: refbackup delete SET/ID.")
    damaged = [one for one in damaged if times[one] == 1]
    if broken or damaged:
        named = ", ".join((broken + damaged)[:5])
        report.add("problem", str(folder), f"damaged: {named}", "Make a new full backup, then delete the damaged ones.")
    if closed:
        report.add("problem", str(folder), f"this user cannot read: {', '.join(closed[:5])}", "Correct owner and mode.")
    if newer:
        report.add("problem", str(folder), f"written by a newer version: {', '.join(newer[:5])}", "Upgrade refbackup.")
    if kept:
        message = f"safety backups of damaged stores: {', '.join(kept[:5])}"
        report.add("note", str(folder), message, "Release and delete them when they are no longer needed.")
    if not scanned:
        report.add("warning", str(folder), "it holds no backup", "Make the first one with refbackup create.")
    elif not proven:
        usable = len(unsound) + len(unreadable) < len(scanned)
        todo = "Run refbackup verify latest --depth restore." if usable else "Make a new full backup."
        report.add("warning", str(folder), "no backup is verified", todo)


def _check_evidence(repository: Repository, report: Diagnosis) -> None:
    evidence = repository.evidence
    sets = [name for name in repository.sets() if evidence is not None and evidence.kept(name)]
    if not sets:
        report.add("note", str(repository.folder), "no key vouches for its backups", Advice.SIGN)
    elif evidence is not None:
        report.add("ok", str(repository.folder), evidence.keys.words)
    for problem in (one for name in sets for one in suspicions(repository, name)):
        report.add("problem", str(repository.folder), problem.message.removesuffix("."), Advice.LOOK)


def _check_debris(repository: Repository, report: Diagnosis) -> None:
    left = repository.debris()
    for place, what in ((STAGING, "an interrupted backup"), (SCRATCH, "an interrupted verification")):
        if count := sum(name.startswith(f"{place}/") for name in left):
            report.add(
                "note",
                str(repository.folder / place),
                f"{counted(count, 'folder')} of {what}, or of a running one",
                "The next backup removes them.",
            )


def _check_trash(repository: Repository, report: Diagnosis) -> None:
    trash = repository.in_trash(datetime.now(UTC), timedelta(0))
    if trash:
        message = f"{len(trash)} deleted backups"
        report.add("note", str(repository.trash), message, "Delete them now with refbackup prune --empty-trash.")


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


def _check_space(folder: Path, report: Diagnosis, why: str) -> None:
    usage = shutil.disk_usage(folder)
    level: Level = "problem" if usage.free < _LEAST_SPACE else "warning" if usage.free < _LOW_SPACE else "ok"
    report.add(level, f"disk of {folder}", f"{human_bytes(usage.free)} free; {why}", "Free space." if level != "ok" else "")
