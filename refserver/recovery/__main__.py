"""The command line of ``scripts/disaster_recovery.sh``; exit codes are those of ``refbackup``."""

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from backups.engine.cli.list import listed_text
from backups.engine.cli.parser import unknown_option
from backups.engine.config import check_set_name
from backups.engine.errors import Cancelled, EngineError, UsageError, from_os_error
from backups.engine.repository.base import Unreadable, stamp
from backups.engine.types import Backup

from .locations import DEFAULT, Locations, read_locations
from .look import look
from .preview import End
from .recovery import Recovery, Request
from .report import Report, runnable

NAME = "disaster_recovery.sh"
_DATE = re.compile(r"\d{4}(-\d{2}){0,2}")


class _Parser(argparse.ArgumentParser):
    _given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            f"{unknown_option(self, self._given) or message}.", hint=f"See scripts/{NAME} --help. Nothing was changed."
        )


def parser() -> argparse.ArgumentParser:
    """The parser of the script's arguments; a wrong one raises `UsageError`."""
    arguments = _Parser(
        prog=f"scripts/{NAME}",
        description="Restore the data from a backup: preview, confirm, stop RefServer, make a safety backup, restore, check, "
        "and start RefServer again.",
        epilog="Exit codes are those of refbackup: 0 done, 1 failed or refused, 2 usage, 3 no repository, 4 no such backup, "
        "5 damage, 6 a store is busy, 7 locked, 8 no space, 9 stopped.",
        allow_abbrev=False,
    )
    action = arguments.add_mutually_exclusive_group(required=True)
    action.add_argument("--look", action="store_true", help="check stores, repository and services; changes nothing")
    action.add_argument("--list", action="store_true", help="show the backups; changes nothing")
    action.add_argument("--latest", action="store_true", help="restore the newest backup that is not damaged")
    action.add_argument("--backup-id", metavar="ID", help="restore this backup: an id, its beginning, or @2026-11-20T10:00Z")
    action.add_argument("--finish", action="store_true", help="complete a restore that was interrupted in the exchange")
    action.add_argument("--undo", action="store_true", help="bring back the data from before that restore")
    arguments.add_argument(
        "--date", metavar="DAY", help="with --list: only backups of a day (2026-11-20), a month or a year, in UTC"
    )
    arguments.add_argument("--only", metavar="KIND[:NAME]", help="sqlite, chroma or files")
    arguments.add_argument("--to", metavar="DIR", type=Path, help="restore into this new folder; nothing live is changed")
    arguments.add_argument("--dry-run", action="store_true", help="change nothing; print every step")
    arguments.add_argument("--yes", action="store_true", help="do not ask for confirmation; needed without a terminal")
    arguments.add_argument(
        "--repo", metavar="REPO", default="", help="the repository (default: BACKUP_REPOSITORY, or var/backups)"
    )
    arguments.add_argument("--set", metavar="NAME", help="default, or control for the control database")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and return the exit code."""
    report = Report()
    repository: Path | None = None
    try:
        given = parser().parse_args(argv)
        set_name = check_set_name(given.set) if given.set else None
        if given.date and not given.list:
            raise UsageError(
                "--date needs --list.", hint="To restore the newest backup before a moment, use --backup-id @2026-11-20T10:00Z."
            )
        if (given.list or given.look) and (given.to or given.only or given.yes or given.dry_run):
            raise UsageError("--list and --look take only --repo and --set, and --list also --date.")
        if given.backup_id == "":
            raise UsageError("--backup-id needs an id.", hint="--list shows the ids.")
        if (given.finish or given.undo) and (given.to or given.only or given.set):
            raise UsageError("--finish and --undo take no --to, --only and --set: the restore's record names them.")
        locations = read_locations(repository=given.repo)
        repository = locations.repository
        if given.look:
            text, ok = look(locations)
            sys.stdout.write(f"{text}\n")
            return 0 if ok else 1
        if given.list:
            sys.stdout.write(listing(locations, set_name or DEFAULT, given.date or "") + "\n")
            return 0
        request = Request(
            backup="latest" if given.latest else given.backup_id or "",
            end=End.FINISH if given.finish else End.UNDO if given.undo else None,
            set=set_name,
            only=given.only,
            to=given.to.absolute() if given.to else None,
            dry_run=given.dry_run,
            yes=given.yes,
        )
        return Recovery(request, locations, report).run()
    except KeyboardInterrupt:
        # Before or after the restore; during it, Ctrl-C is obeyed where it is safe (`interruption`)
        return _fail(
            Cancelled("Stopped. See above for what was done.", hint="Run it again when you are ready."), report, repository
        )
    except OSError as problem:
        return _fail(from_os_error(problem, "The recovery"), report, repository)
    except EngineError as problem:
        return _fail(problem, report, repository)
    finally:
        report.close()


def _fail(problem: EngineError, report: Report, repository: Path | None) -> int:
    hint = runnable(problem.hint, repository)
    if report.path is not None:  # the kept report must say how it ended
        report.write(f"\nFAILED         {problem.message}\n               -> {hint}\nExit code      {problem.exit_code}")
    else:
        sys.stderr.write(f"{NAME}: {problem.message}\n  -> {hint}\n")
    return problem.exit_code


def listing(locations: Locations, set_name: str, date: str) -> str:
    """The backups of a set as a table, only those of *date* if given. Raises `UsageError` for an invalid date."""
    scanned = locations.open_repository().scan(set_name)
    if not date:
        return (
            listed_text(scanned)
            + "\n\nRestore one: scripts/disaster_recovery.sh --backup-id ID   (--dry-run previews, --to DIR uses a folder)"
        )
    try:
        if not _DATE.fullmatch(date):
            raise ValueError
        datetime.fromisoformat(f"{date}-01-01"[:10]).replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(
            f"{date!r} is not a date.", hint="Write a day as 2026-11-20, a month as 2026-11, a year as 2026."
        ) from None
    begins = date.replace("-", "")
    chosen = [item for item in scanned if _when(item).startswith(begins)]
    if chosen:
        return listed_text(chosen)
    earlier = next((item.id for item in scanned if _when(item)[: len(begins)] < begins), "none")
    return f"No backup of {date} (UTC). The newest before it: {earlier}."


def _when(item: Backup | Unreadable) -> str:
    return item.id if isinstance(item, Unreadable) else stamp(item.manifest.time)


if __name__ == "__main__":
    sys.exit(main())
