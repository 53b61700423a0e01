"""``refbackup restore``"""

import argparse
import functools
import os
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import DamageFound, RestoreRefused, UsageError
from ..progress import counted, duration, human_bytes
from ..repository.folder import open_repository
from ..repository.suspicion import is_unchecked
from ..restore.commands import Commands
from ..restore.dry_run import plan_in_place
from ..restore.ending import finish_exchange
from ..restore.in_place import restore_in_place
from ..restore.salvage import find_for_salvage
from ..restore.to_folder import Restored, restore_to, select
from ..shrinkage import unconfirmed_loss
from ..types import Backup
from ..unfinished import mixture, unfinished_exchange
from .arguments import add_id, add_sources, command, seconds
from .call import Call, Outcome
from .text import damage_lines, missing_json, missing_lines, table

_ONLY_TO = ("check", "salvage")
_ONLY_IN_PLACE = ("ignore_open", "stop_command", "start_command", "check_command", "ready_fd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backup, where to restore it, and the commands around a restore in place."""
    add_id(parser, "")
    add_sources(parser)
    parser.add_argument("--to", metavar="DIR", help="restore into a new or empty folder")
    parser.add_argument("--in-place", action="store_true", help="replace the live stores, after a safety backup")
    parser.add_argument("--finish", action="store_true", help="complete a restore in place that was interrupted")
    parser.add_argument("--undo", action="store_true", help="bring back the data from before an interrupted restore in place")
    parser.add_argument("--only", metavar="KIND[:NAME]", help="restore one kind of store, or one store")
    parser.add_argument("--check", action="store_true", help="open and compare the stores before publishing them (--to)")
    parser.add_argument("--salvage", action="store_true", help="replace unreadable blocks by zeros and list them (--to)")
    parser.add_argument("--dry-run", action="store_true", help="print what would happen and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation (--in-place)")
    parser.add_argument(
        "--ignore-open", action="store_true", help="go on although another process may have a store open (--in-place)"
    )
    parser.add_argument("--wait", type=seconds, default=30.0, metavar="SECONDS", help="wait for writers to pause (--in-place)")
    parser.add_argument(
        "--stop-command", type=command, metavar="CMD", default="", help="run before the exchange (BACKUP_STOP_COMMAND)"
    )
    parser.add_argument(
        "--ready-fd",
        type=int,
        metavar="FD",
        help="when the data is staged and checked, write a line to this descriptor, and wait for one on standard input",
    )
    parser.add_argument("--start-command", type=command, metavar="CMD", default="", help="run after it (BACKUP_START_COMMAND)")
    parser.add_argument(
        "--check-command",
        type=command,
        metavar="CMD",
        default="",
        help="a failure undoes the restore (BACKUP_CHECK_COMMAND)",
    )


def run(call: Call) -> Outcome:
    """Restore; exit code 5 if a salvage lost blocks, or if a restored store was damaged when it was backed up."""
    arguments = call.arguments
    chosen = [name for name in ("to", "in_place", "finish", "undo") if getattr(arguments, name)]
    if len(chosen) != 1:
        raise UsageError("Give either --to FOLDER, --in-place, --finish or --undo.")
    if arguments.finish or arguments.undo:
        return _finish(call)
    _refuse_idle(arguments, _ONLY_IN_PLACE if arguments.to else _ONLY_TO, "--to" if arguments.to else "--in-place")
    if not arguments.id:
        raise UsageError("Give the ID of the backup, such as latest.")
    repository = call.repository()
    if arguments.salvage and arguments.to:
        backup, lost = find_for_salvage(repository, arguments.id, call.set_name())
        call.report_skipped(backup)
        if lost:
            call.ctx.log(f"{lost} Names and sizes are taken from its archive; the stores cannot be compared with the cut.")
    else:
        backup = call.backup(repository)
    for problem in backup.problems:
        call.warn(f"{backup.id} is damaged: {problem.message}")
    if loss := unconfirmed_loss(repository.holds(backup.manifest.set), backup.id):
        call.warn(f"{loss}.")
    if mixed := mixture(backup.manifest):
        call.ctx.log(f"MIXED {mixed}")
    if is_unchecked(repository, backup):
        call.ctx.log(f"Nothing vouches for {backup.id}: it is signed, and the key that could check it is not here.")
    if arguments.to:
        restored = restore_to(
            repository,
            backup,
            Path(arguments.to),
            call.ctx,
            only=arguments.only,
            dry_run=arguments.dry_run,
            check=arguments.check,
            salvage=arguments.salvage,
        )
        damaged = restored.lost or restored.damaged or (restored.dry_run and backup.damaged)
        return _outcome(asdict(restored), _text(restored), backup, arguments.only, DamageFound.exit_code if damaged else 0)
    sources = call.sources()
    if arguments.dry_run:
        planned = plan_in_place(repository, backup, sources, only=arguments.only)
        code = DamageFound.exit_code if backup.damaged else 0
        return _outcome(planned, _planned_text(planned), backup, arguments.only, code)
    _confirm(call, backup.id)
    restored = restore_in_place(
        repository, backup, sources, call.ctx, only=arguments.only, commands=_commands(call), wait=arguments.wait
    )
    return _outcome(asdict(restored), _text(restored), backup, arguments.only, DamageFound.exit_code if restored.damaged else 0)


def _refuse_idle(arguments: argparse.Namespace, names: tuple[str, ...], target: str) -> None:
    """Raise `UsageError` for an option that has no effect with *target*."""
    idle = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False, "")]
    if idle:
        raise UsageError(f"{' and '.join(idle)} cannot be used with {target}.", hint="Nothing was restored.")


def _outcome(answer: dict[str, Any], text: str, backup: Backup, only: str | None, code: int = 0) -> Outcome:
    """What was or would be restored, and which files the backup does not have."""
    records = select(backup, only)
    missing = missing_json(records)
    if answer.get("dry_run"):
        answer = {**answer, "problems": [problem.model_dump(mode="json") for problem in backup.problems]}
        text = "\n".join([text, *damage_lines(backup)])
    return Outcome({**answer, "missing": missing}, "\n".join([text, *missing_lines(backup.id, missing)]), code)


def _finish(call: Call) -> Outcome:
    """Finish or undo the interrupted restore in place of the given sources."""
    arguments = call.arguments
    if arguments.id or arguments.only or arguments.check or arguments.salvage:
        raise UsageError("--finish and --undo take no ID, no --only, no --check and no --salvage: the record names them.")
    if arguments.set:
        raise UsageError("--finish and --undo take no --set: the record names it.")
    sources = call.sources()
    unfinished = unfinished_exchange(sources)
    if unfinished is None:
        where = ", ".join(str(source.path) for source in sources) or "no source is given"
        raise RestoreRefused(
            f"No interrupted restore is recorded beside the sources ({where}).",
            hint="If one was, name its stores with --sqlite, --chroma and --files as that restore did. Nothing was changed.",
        )
    journal = unfinished.journal
    if journal is None or arguments.repo:
        repository = call.repository()
    else:
        repository = open_repository(journal.repository, call.keys(journal.repository), call.keyring(journal.repository))
    only = None if arguments.undo or journal is None else journal.only
    if journal is not None:
        backup_id = journal.safety_backup if arguments.undo else journal.backup
        aside = [str(source.path) for source in unfinished.created] if arguments.undo else []
        would = [f"{backup_id} would be restored"] if backup_id else []
        would += [f"{path}, which did not exist before, would be moved aside" for path in aside]
        if arguments.dry_run:
            text = f"{unfinished.message}\nDry run: {'; '.join(would)}. Nothing was changed."
            answer = {"dry_run": True, "id": backup_id, "message": unfinished.message, "moved_aside": aside}
            return Outcome(answer, text)
        what = f"To undo the restore of {journal.backup}: {'; '.join(would).replace(' would be', ' is')}." if aside else ""
        _confirm(call, backup_id or journal.backup, what)
    restored = finish_exchange(
        unfinished, repository, call.ctx, undo=arguments.undo, commands=_commands(call), wait=arguments.wait
    )
    if not restored.id:
        return Outcome({**asdict(restored), "missing": []}, _text(restored))
    code = DamageFound.exit_code if restored.damaged else 0
    return _outcome(asdict(restored), _text(restored), repository.find(restored.id, None), only, code)


def _commands(call: Call) -> Commands:
    """The commands of arguments and settings. Raises `UsageError` for one whose program is not found."""
    arguments, settings = call.arguments, call.settings
    commands = Commands(
        stop=arguments.stop_command or settings.stop_command,
        start=arguments.start_command or settings.start_command,
        check=arguments.check_command or settings.check_command,
        ignore_open=arguments.ignore_open,
        before_stop=None if arguments.ready_fd is None else functools.partial(_wait_for_go, arguments.ready_fd),
    )
    for name, given in (("stop", commands.stop), ("start", commands.start), ("check", commands.check)):
        words = shlex.split(given)
        if words and shutil.which(words[0]) is None:
            raise UsageError(
                f"The {name} command cannot be run: there is no program {words[0]}.",
                hint=f"Correct --{name}-command or BACKUP_{name.upper()}_COMMAND. Nothing was changed.",
            )
    return commands


def _wait_for_go(descriptor: int) -> None:
    """Say that the data is staged and checked, and wait until the caller has stopped what uses the stores."""
    os.write(descriptor, b"ready\n")
    if not sys.stdin.readline():
        raise RestoreRefused("The caller did not go on. Nothing was changed.")


def _confirm(call: Call, backup_id: str, what: str = "") -> None:
    """Ask for the backup's id on a terminal; without a terminal, require ``--yes``. Raises `RestoreRefused`."""
    if call.arguments.yes:
        return
    if not sys.stdin.isatty():
        raise RestoreRefused(
            "A restore in place replaces live data and needs confirmation, but there is no terminal.", hint="Give --yes."
        )
    what = what or f"This replaces live data with {backup_id}. A safety backup is made first."
    sys.stderr.write(f"{what}\nType the id {backup_id} to continue: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != backup_id:
        raise RestoreRefused("The id was not typed. Nothing was changed.")


def _text(restored: Restored) -> str:
    damaged = [f"  DAMAGED {problem['source']}: {problem['message']}" for problem in restored.damaged]
    if damaged:
        damaged.insert(0, "As they were when they were backed up, damaged:")
    if restored.dry_run:
        line = (
            f"Dry run: {counted(restored.checks['files'], 'file')}, {human_bytes(restored.bytes)} of {restored.id} would be "
            f"written to {restored.to}. Nothing was written."
        )
        return "\n".join([line, *damaged])
    aside = [
        f"{path}, which did not exist before that restore, is now {place}"
        for path, place in restored.checks.get("moved_aside", {}).items()
    ]
    if not restored.id:
        return "\n".join([f"The restore is undone: nothing was there before it ({restored.to}).", *aside])
    rate = human_bytes(restored.bytes / max(restored.seconds, 1e-3))
    lines = [
        f"{restored.id} restored to {restored.to}: {human_bytes(restored.bytes)} in {duration(restored.seconds)} ({rate}/s)"
    ]
    if restored.checks.get("safety_backup") not in (None, "", restored.id):  # an undo restored it
        lines.append(f"Safety backup of the replaced data: {restored.checks['safety_backup']}")
    if restored.lost:
        lines.append(f"{counted(len(restored.lost), 'block')} could not be read and replaced by zeros:")
    lines += [f"  {b.path}, bytes {b.offset} to {b.offset + b.bytes}: {b.message}" for b in restored.lost]
    return "\n".join(lines + aside + damaged)


def _planned_text(planned: dict[str, Any]) -> str:
    rows: list[tuple[str, ...]] = [("STORE", "TARGET", "NOW", "AFTER", "HOW")]
    rows += [
        (
            item["store"],
            item["target"],
            human_bytes(item["bytes_now"]) if item["bytes_now"] is not None else "absent",
            human_bytes(item["bytes_after"]),
            item["how"],
        )
        for item in planned["targets"]
    ]
    return f"Dry run of restoring {planned['id']} in place. Nothing was changed.\n" + table(rows, right=(2, 3))
