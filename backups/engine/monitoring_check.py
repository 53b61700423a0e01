"""``check_refbackup``, a plug-in for monitoring systems: is there a fresh, sound backup? One line, and their exit codes.

It only reads; the repository may be read-only.
"""

import argparse
import math
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import NoReturn

from .config import check_path, check_set_name, environment, read_settings
from .errors import EngineError, RepositoryMissing, RepositoryTooNew, UsageError, from_os_error
from .evidence.keys import keys_for
from .progress import counted, duration, human_bytes
from .repository.base import Unreadable
from .repository.folder import Repository, open_repository
from .repository.soundness import keeps_damage
from .runtime.context import Context
from .shrinkage import unconfirmed_loss
from .types import Backup, BackupKind, Depth, Proof
from .verify import verify_backup

DEFAULT_MAX_AGE = 26.0
"""Hours: a daily backup may be two hours late."""

DEFAULT = "default"
"""The set that is checked even if it has no backups."""

_SECONDS = 60.0
_DEEP_SECONDS = 21_600.0
_MOST_DEEP = 5
"""Backups that a deep check reads to find a sound one."""

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
    """Judge the backups of a set, newest first. *max_age* in hours (infinite: any), *free* bytes on its disk.

    *deep* is the proof of the newest usable backup, if it was just verified. A backup counts as damaged too when it needs one
    that is damaged or missing, and what an earlier deep check found holds until a later one succeeds.
    """
    readable = [item for item in scanned if isinstance(item, Backup)]
    backups = [item for item in readable if not item.manifest.safety]
    usable = [item for item in backups if not item.damaged and item.manifest.kind is not BackupKind.SNAPSHOT]
    damaged = [item.id for item in scanned if isinstance(item, Unreadable) or (item.damaged and not keeps_damage(item))]
    figures = [f"backups={len(backups)};;;0", f"damaged={len(damaged)};0;;0", f"free={free}B;;;0"]
    if not usable:
        reason = f"{len(damaged)} damaged, the newest {damaged[0]}" if damaged else "there are no backups"
        return Answer(level=Level.CRITICAL, text=f"no usable backup: {reason}", figures=" ".join(figures))
    newest = usable[0]
    age = (now - newest.manifest.time).total_seconds()
    proven = max((item.verified_at for item in usable if item.verified_at), default=None)
    limit = max_age * 3600
    figures.insert(0, f"age={age:.0f}s;;{f'{limit:.0f}' if math.isfinite(limit) else ''};0")
    if proven:
        figures.insert(1, f"proof_age={max(0.0, (now - proven).total_seconds()):.0f}s;;;0")
    critical = []
    warnings = []
    if age > limit:
        critical.append(f"the newest backup is {duration(age)} old, more than {max_age:g} h")
    whole = [item for item in scanned if isinstance(item, Unreadable) or _is_whole(item)]
    if whole and whole[0].id in damaged:
        critical.append(f"the newest backup, {whole[0].id}, is damaged: {_first_problem(whole[0])}")
    elif deep is not None and not deep.ok:
        critical.append(f"{deep.id} is damaged: {deep.problems[0].message}")
    read = deep is not None and deep.ok and deep.id == newest.id
    if loss := unconfirmed_loss(((item.id, item.hold) for item in backups), newest.id):
        warnings.append(loss)
    if newest.manifest.incomplete:
        warnings.append(f"{newest.id} is incomplete: files or folders are missing from it")
    if -age > _CLOCKS_DIFFER.total_seconds():
        warnings.append(f"{newest.id} is from the future: a clock was wrong")
    if newest.verified_at is None and not read:
        warnings.append(f"{newest.id} was never verified")
    if damaged:
        warnings.append(f"{len(damaged)} damaged: {', '.join(damaged[:3])}")
    full = next((item.manifest.bytes_stored for item in usable if item.manifest.kind is BackupKind.FULL), 0)
    if free < 2 * full:
        warnings.append(f"{human_bytes(free)} free, less than two full backups need")
    level = Level.CRITICAL if critical else Level.WARNING if warnings else Level.OK
    how = f"verified by {newest.verification}, not read again (--deep reads it)" if newest.verified_at else "not verified"
    if deep is not None and read:
        how = f"every byte read in {duration(deep.seconds)}"
    if newest.manifest.locked:
        how += ", encrypted, and no key here opens it"
    summary = f"{newest.id} is {duration(max(0.0, age))} old, {how}, {counted(len(backups), 'backup')}"
    return Answer(level=level, text="; ".join([*critical, *warnings, summary]), figures=" ".join(figures))


def _is_whole(backup: Backup) -> bool:
    return not backup.manifest.safety and backup.manifest.kind is not BackupKind.SNAPSHOT


def _first_problem(item: Backup | Unreadable) -> str:
    return item.problem.message if isinstance(item, Unreadable) else item.problems[0].message


def judge_all(answers: dict[str, Answer]) -> Answer:
    """One answer from those of several sets, by name: the worst level. The figures are those of the first."""
    if len(answers) == 1:
        return next(iter(answers.values()))
    told = sorted(answers.items(), key=lambda item: -item[1].level)
    text = "; ".join(f"{name}: {answer.text}" for name, answer in told)
    return Answer(level=told[0][1].level, text=text, figures=next(iter(answers.values())).figures)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _hours(text: str) -> float:
    hours = float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else math.nan
    if not 0 < hours <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of hours")
    return hours


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        allow_abbrev=False,
        description="Is there a fresh, sound backup? One line with figures; exit code 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.",
    )
    parser.add_argument(
        "--max-age", type=_hours, default=DEFAULT_MAX_AGE, metavar="HOURS", help=f"default: {DEFAULT_MAX_AGE:g}"
    )
    parser.add_argument("--deep", action="store_true", help="read every byte that the newest backup needs")
    parser.add_argument("--repo", default="", help="folder of the repository (BACKUP_REPOSITORY)")
    parser.add_argument("--set", default="", help="check this set alone; default: every set of the repository")
    return parser


def answer_of(
    argv: Sequence[str] | None, prog: str, open_given: Callable[[str], Repository], *, fresh: Sequence[str]
) -> Answer:
    """Read the arguments, open the repository that they name ("": none is named), and judge.

    Of other sets than *fresh* the age does not count, unless one was named: a set of some stores only, or of another
    application, need not be backed up every day.
    """
    try:
        given = _parser(prog).parse_args(argv)
        wanted = check_set_name(given.set) if given.set else ""
        repository = open_given(given.repo)
        others = [name for name in repository.sets() if name != DEFAULT and repository.ids(name)]
        free = shutil.disk_usage(repository.folder).free
        answers = {}
        for name in [wanted] if wanted else [DEFAULT, *others]:
            proof = _deep(repository, name) if given.deep else None
            limit = given.max_age if wanted or name in fresh else math.inf
            answers[name] = judge(repository.scan(name), datetime.now(UTC), max_age=limit, free=free, deep=proof)
        return judge_all(answers)
    except RepositoryTooNew as problem:
        return Answer(level=Level.UNKNOWN, text=problem.message)
    except RepositoryMissing as problem:
        return Answer(level=Level.CRITICAL, text=problem.message)
    except EngineError as problem:
        return Answer(level=Level.UNKNOWN, text=f"{problem.message} {problem.hint}")
    except OSError as problem:
        return Answer(level=Level.UNKNOWN, text=from_os_error(problem, "Reading the repository").message)


def _deep(repository: Repository, name: str) -> Proof | None:
    """Read every byte that the newest usable backup needs; if it turns out to be damaged, the next. None without any."""
    proof: Proof | None = None
    for _ in range(_MOST_DEEP):
        try:
            newest = repository.find("latest", name)
        except EngineError:
            break
        if proof is not None and newest.id == proof.id:
            break  # the damage could not be recorded
        proof = verify_backup(repository, newest, Depth.HASHES, Context())
        if proof.ok:
            break
    return proof


def _open(given: str) -> Repository:
    settings = read_settings(environment())
    path = check_path(given) if given else settings.repository
    if path is None:
        raise UsageError("No repository given.", hint="Give --repo PATH or set BACKUP_REPOSITORY.")
    return open_repository(path, keys_for(path, settings.signing_key, settings.trusted_keys))


def _give_up(seconds: float) -> None:
    line = Answer(level=Level.UNKNOWN, text=f"no answer within {seconds:g} s: is the repository's disk there?").line()
    os.write(sys.stdout.fileno(), f"{line}\n".encode())
    os._exit(Level.UNKNOWN)  # the thread that reads may wait for the disk


def main(argv: Sequence[str] | None = None) -> int:
    """Print the line and return the exit code. Without an answer in time the process exits with 3."""
    argv = sys.argv[1:] if argv is None else argv
    seconds = _DEEP_SECONDS if "--deep" in argv else _SECONDS
    limit = threading.Timer(seconds, _give_up, (seconds,))
    limit.daemon = True
    limit.start()
    given = answer_of(argv, "check_refbackup", _open, fresh=(DEFAULT,))
    limit.cancel()
    sys.stdout.write(f"{given.line()}\n")
    return int(given.level)


if __name__ == "__main__":
    sys.exit(main())
