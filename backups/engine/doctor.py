"""Diagnoses sources and repository and gives advice, without changing anything."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from .capture.owners import owners
from .chroma_files.errors import BrokenIndex
from .chroma_files.hnsw import check_structure
from .chroma_files.tables import DATABASE, check_supported, list_collections
from .errors import EngineError, RepositoryTooNew
from .gate import Gate
from .progress import human_bytes
from .repository.base import Unreadable
from .repository.folder import Repository, open_repository
from .runtime.context import Context
from .runtime.sqlite import connect
from .runtime.sqlite_check import check_pages
from .types import Source, SourceKind
from .unfinished import leftovers, unfinished_exchange

Level = Literal["ok", "note", "warning", "problem"]
_LOW_SPACE = 1 << 30


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
        return {
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
        }

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


def diagnose(repository: Path | None, sources: tuple[Source, ...], ctx: Context) -> Diagnosis:
    """Check the version of SQLite, each of *sources*, and the *repository* (None: not given)."""
    report = Diagnosis()
    _check_versions(report)
    for source in sources:
        ctx.check()
        if not source.path.exists():
            advice = "Correct the path, or restore the newest good backup: refbackup restore latest --in-place."
            report.add("problem", str(source.path), "does not exist", advice)
        elif source.kind is SourceKind.SQLITE:
            _check_sqlite(source.path, report)
        elif source.kind is SourceKind.CHROMA:
            _check_chroma(source.path, report)
        else:
            report.add("ok", str(source.path), "a folder of files")
    if not sources:
        report.add("note", "sources", "none given", "Give --sqlite, --chroma and --files, or set them in .env.")
    _check_restores(sources, report)
    if repository is None:
        report.add("note", "repository", "none given", "Give --repo or set BACKUP_REPOSITORY.")
    else:
        _check_repository(repository, report)
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
    try:
        database = connect(path, timeout=5)
        try:
            mode = str(database.execute("PRAGMA journal_mode").fetchone()[0])
            damage = check_pages(database, thorough=False).damage
        finally:
            database.close()
    except sqlite3.DatabaseError as problem:
        if not os.access(path, os.R_OK | os.W_OK):
            report.add("problem", str(path), "this user cannot read and write it", "Run as the application's user.")
            return
        report.add("problem", str(path), f"SQLite cannot read it: {problem}", "Restore it from the newest good backup.")
        return
    if damage:
        report.add("problem", str(path), f"damaged: {damage[0]}", "Restore it from the newest good backup.")
        return
    size = path.stat().st_size
    log = path.with_name(path.name + "-wal")
    log_size = log.stat().st_size if log.exists() else 0
    report.add("ok", str(path), f"{human_bytes(size)}, journal mode {mode}, log {human_bytes(log_size)}")
    if mode != "wal":
        report.add(
            "warning",
            str(path),
            "in rollback-journal mode: a backup copies it, and writers may have to wait meanwhile",
            "Switch it to WAL: sqlite3 FILE 'PRAGMA journal_mode=WAL'.",
        )
    if log_size > max(size, 256 << 20):
        holders = owners(path)
        report.add(
            "warning",
            str(path),
            f"its log is larger than the database: a reader blocks checkpoints ({holders or 'no process has it open'})",
            "End long-running read transactions.",
        )
    _check_space(path.parent, report, "databases grow while a backup reads them")


def _check_chroma(directory: Path, report: Diagnosis) -> None:
    database_file = directory / DATABASE
    if not database_file.is_file():
        report.add("problem", str(directory), f"contains no {DATABASE}", "Give the directory that Chroma uses.")
        return
    try:
        database = connect(database_file, mode="ro", timeout=5)
        try:
            version = check_supported(directory, database)
            listed = list_collections(database)
            mode = str(database.execute("PRAGMA journal_mode").fetchone()[0])
        finally:
            database.close()
    except (EngineError, sqlite3.DatabaseError) as problem:
        report.add("problem", str(directory), f"{problem}", getattr(problem, "hint", "Restore the newest good backup."))
        return
    for collection in listed:
        try:
            count = check_structure(directory / collection.vector_segment)
            report.add("ok", f"{directory} {collection.name}", f"{count} vectors indexed, {collection.space}")
        except BrokenIndex as problem:
            report.add(
                "warning",
                f"{directory} {collection.name}",
                f"{problem.file}: {problem}",
                "Normal during a write. If it persists, a writer was killed: restore the newest good backup.",
            )
    report.add("ok", str(directory), f"tables {version}, journal mode {mode}, {len(listed)} collections")
    if not Gate(directory).exists():
        holders = owners(database_file)
        report.add(
            "note",
            str(directory),
            "no application uses the gate, so it must be closed for a restore in place"
            + (f"; open in {holders}" if holders else ""),
            "Use backups.engine.gate around calls of Chroma, or give the restore stop and start commands.",
        )


def _check_repository(folder: Path, report: Diagnosis) -> None:
    try:
        repository = open_repository(folder)
    except EngineError as problem:
        report.add("problem", str(folder), problem.message, problem.hint)
        return
    scanned = repository.scan()
    broken = [item.id for item in scanned if isinstance(item, Unreadable) and item.problem.code != RepositoryTooNew.code]
    newer = [item.id for item in scanned if isinstance(item, Unreadable) and item.problem.code == RepositoryTooNew.code]
    unsound = [item for item in scanned if not isinstance(item, Unreadable) and item.damaged]
    damaged = [item.id for item in unsound if not item.manifest.safety]
    kept = [item.id for item in unsound if item.manifest.safety]
    proven = [item for item in scanned if not isinstance(item, Unreadable) and item.verified_at and not item.damaged]
    stored = sum(item.manifest.bytes_stored for item in scanned if not isinstance(item, Unreadable))
    report.add("ok", str(folder), f"{len(scanned)} backups, {human_bytes(stored)}, {len(proven)} verified")
    if broken or damaged:
        named = ", ".join((broken + damaged)[:5])
        report.add("problem", str(folder), f"damaged: {named}", "Make a new full backup, then delete the damaged ones.")
    if newer:
        report.add("problem", str(folder), f"written by a newer version: {', '.join(newer[:5])}", "Upgrade refbackup.")
    if kept:
        report.add(
            "note",
            str(folder),
            f"safety backups of damaged stores: {', '.join(kept[:5])}",
            "Release and delete them when they are no longer needed.",
        )
    if not proven:
        report.add("warning", str(folder), "no backup is verified", "Run refbackup verify latest --depth restore.")
    if not os.access(folder, os.W_OK):
        report.add("problem", str(folder), "this user cannot write to it", "Correct owner and mode.")
    _check_leftovers(repository, report)
    _check_space(folder, report, "backups need room")


def _check_leftovers(repository: Repository, report: Diagnosis) -> None:
    for place, what in (
        (repository.staging, "an interrupted backup"),
        (repository.scratch, "an interrupted verification"),
    ):
        left = [item.name for item in place.iterdir()] if place.is_dir() else []
        if left:
            report.add(
                "note",
                str(place),
                f"{len(left)} folders of {what}, or of a running one",
                "The next backup removes them.",
            )
    trash = repository.in_trash(datetime.now(UTC), timedelta(0))
    if trash:
        report.add(
            "note",
            str(repository.trash),
            f"{len(trash)} deleted backups",
            "Delete them now with refbackup prune --empty-trash.",
        )


def _check_restores(sources: tuple[Source, ...], report: Diagnosis) -> None:
    unfinished = unfinished_exchange(sources)
    if unfinished is not None:
        error = unfinished.as_error("")
        safety = unfinished.journal.safety_backup if unfinished.journal is not None else ""
        kept = f" The safety backup is {safety}." if safety else ""
        report.add("problem", ", ".join(map(str, unfinished.folders)), f"{unfinished.message}{kept}", error.hint)
    for left in leftovers([source.path for source in sources]):
        if not left.exchanging:
            report.add("note", str(left.folder), "left by a restore that changed nothing, or that is complete", "Remove it.")


def _check_space(folder: Path, report: Diagnosis, why: str) -> None:
    usage = shutil.disk_usage(folder)
    level: Level = "warning" if usage.free < _LOW_SPACE else "ok"
    report.add(level, f"disk of {folder}", f"{human_bytes(usage.free)} free; {why}", "Free space." if level != "ok" else "")
