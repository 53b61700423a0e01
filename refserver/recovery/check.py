"""A check for monitoring systems: is there a fresh, sound backup? Prints one line and exits as their plug-ins do.

``scripts/check_backups.sh`` runs it. It only reads; the repository may be read-only.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import NoReturn

from backups.engine.config import check_set_name
from backups.engine.errors import EngineError, RepositoryMissing, RepositoryTooNew, UsageError, from_os_error
from backups.engine.progress import duration, human_bytes
from backups.engine.repository.base import Unreadable
from backups.engine.repository.folder import Repository, open_repository
from backups.engine.runtime.context import Context
from backups.engine.types import Backup, BackupKind, Depth, Proof
from backups.engine.verify import verify_backup

from .locations import DEFAULT, read_locations

DEFAULT_MAX_AGE = 26.0
"""Hours: a daily backup may be two hours late."""

_CLOCKS_DIFFER = timedelta(minutes=5)


class Level(IntEnum):
    """Exit codes of monitoring plug-ins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer: level, text, and figures that a monitoring system draws."""

    level: Level
    text: str
    figures: str = ""

    def line(self) -> str:
        """The line; a bar in the text is replaced, because it separates the figures."""
        text = f"BACKUPS {self.level.name}: {self.text.replace('|', '/')}"
        return " ".join(text.split()) + (f" | {self.figures}" if self.figures else "")


def judge(
    scanned: Sequence[Backup | Unreadable], now: datetime, *, max_age: float, free: int, deep: Proof | None = None
) -> Answer:
    """Judge the backups of a set, newest first. *max_age* in hours, *free* bytes on the repository's disk.

    *deep* is the proof of the newest usable backup, if it was just verified.
    """
    readable = [item for item in scanned if isinstance(item, Backup)]
    backups = [item for item in readable if not item.manifest.safety]
    usable = [item for item in backups if not item.damaged and item.manifest.kind is not BackupKind.SNAPSHOT]
    damaged = [item.id for item in scanned if isinstance(item, Unreadable) or (item.damaged and not item.manifest.safety)]
    figures = [f"backups={len(backups)};;;0", f"damaged={len(damaged)};0;;0", f"free={free}B;;;0"]
    if not usable:
        reason = f"{len(damaged)} damaged" if damaged else "there are no backups"
        return Answer(level=Level.CRITICAL, text=f"no usable backup: {reason}", figures=" ".join(figures))
    newest = usable[0]
    age = (now - newest.manifest.time).total_seconds()
    proven = max((item.verified_at for item in usable if item.verified_at), default=None)
    limit = round(max_age * 3600)
    figures.insert(0, f"age={age:.0f}s;;{limit};0")
    if proven:
        figures.insert(1, f"proof_age={max(0.0, (now - proven).total_seconds()):.0f}s;;;0")
    critical = []
    warnings = []
    if age > limit:
        critical.append(f"the newest backup is {duration(age)} old, more than {max_age:g} h")
    if deep is not None and not deep.ok:
        critical.append(f"{deep.id} is damaged: {deep.problems[0].message}")
    if -age > _CLOCKS_DIFFER.total_seconds():
        warnings.append(f"{newest.id} is from the future: a clock was wrong")
    if newest.verified_at is None and deep is None:
        warnings.append(f"{newest.id} was never verified")
    if damaged:
        warnings.append(f"{len(damaged)} damaged: {', '.join(damaged[:3])}")
    full = next((item.manifest.bytes_stored for item in usable if item.manifest.kind is BackupKind.FULL), 0)
    if free < 2 * full:
        warnings.append(f"{human_bytes(free)} free, less than two full backups need")
    level = Level.CRITICAL if critical else Level.WARNING if warnings else Level.OK
    how = f"verified by {newest.verification}" if newest.verified_at or deep else "not verified"
    if deep is not None and deep.ok:
        how = f"every byte read in {duration(deep.seconds)}"
    summary = f"{newest.id} is {duration(max(0.0, age))} old, {how}, {len(backups)} backups"
    return Answer(level=level, text="; ".join([*critical, *warnings, summary]), figures=" ".join(figures))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _hours(text: str) -> float:
    hours = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else math.nan
    if not 0 < hours <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours")
    return hours


def answer(argv: Sequence[str] | None = None) -> Answer:
    """Read the arguments and the repository, and judge."""
    parser = _Parser(prog="scripts/check_backups.sh", allow_abbrev=False)
    parser.add_argument("--max-age", type=_hours, default=DEFAULT_MAX_AGE, metavar="HOURS")
    parser.add_argument("--deep", action="store_true")
    parser.add_argument("--repo", default="")
    parser.add_argument("--set", default=DEFAULT)
    try:
        given = parser.parse_args(argv)
        name = check_set_name(given.set)
        repository = open_repository(read_locations(repository=given.repo).repository)
        scanned = repository.scan(name)
        now = datetime.now(UTC)
        deep = _deep(repository, name) if given.deep else None
        free = shutil.disk_usage(repository.folder).free
        return judge(scanned, now, max_age=given.max_age, free=free, deep=deep)
    except RepositoryTooNew as problem:
        return Answer(level=Level.UNKNOWN, text=problem.message)
    except RepositoryMissing as problem:
        return Answer(level=Level.CRITICAL, text=problem.message)
    except EngineError as problem:
        return Answer(level=Level.UNKNOWN, text=f"{problem.message} {problem.hint}")
    except OSError as problem:
        return Answer(level=Level.UNKNOWN, text=from_os_error(problem, "Reading the repository").message)


def _deep(repository: Repository, name: str) -> Proof | None:
    """Read every byte that the newest usable backup needs; None if there is none."""
    try:
        newest = repository.find("latest", name)
    except EngineError:
        return None
    return verify_backup(repository, newest, Depth.HASHES, Context())


def main() -> int:
    """Print the line and return the exit code."""
    given = answer()
    sys.stdout.write(f"{given.line()}\n")
    return int(given.level)


if __name__ == "__main__":
    sys.exit(main())
