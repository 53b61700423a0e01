"""What a diagnosis says: findings, and advice for each cause."""

import shutil
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from .progress import human_bytes
from .runtime.space import LEAST_SPACE

Level = Literal["ok", "note", "warning", "problem"]
_LOW_SPACE = 1 << 30


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
    CONFIRM_LOSS = "Check disk and application. If it was intended, release the held backup; else restore it."
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


def check_space(folder: Path, report: Diagnosis, why: str) -> None:
    """Add how much space is free on the disk of *folder*, which must exist. Raises ``OSError``."""
    usage = shutil.disk_usage(folder)
    level: Level = "problem" if usage.free < LEAST_SPACE else "warning" if usage.free < _LOW_SPACE else "ok"
    report.add(level, f"disk of {folder}", f"{human_bytes(usage.free)} free; {why}", "Free space." if level != "ok" else "")
