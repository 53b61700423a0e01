"""The command ``refbackup``: one function a subcommand, errors as messages, exit codes and JSON (``docs/reference/cli.md``).

Each subcommand imports its use case when it is called: what runs every ten seconds starts in a tenth of a second less.
"""

from __future__ import annotations

import argparse
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__
from . import describe, progress
from .config import Settings, check_note, check_set_name, environment, parse_source, read_settings
from .errors import DamageFound, EngineError, RestoreRefused, UsageError, from_os_error
from .repository.folder import Repository, Unreadable, initialise, open_repository
from .runtime.context import Context
from .types import Backup, BackupKind, Depth, Hold, Source, SourceKind

_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a subcommand answers: the JSON, the text for people, and the exit code."""

    json: dict[str, Any]
    text: str
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A subcommand's arguments with the settings and the context that it works in."""

    arguments: argparse.Namespace
    settings: Settings
    ctx: Context

    def repository_path(self) -> Path:
        """``--repo`` or ``BACKUP_REPOSITORY``."""
        path = self.arguments.repo or self.settings.repository
        if path is None:
            raise UsageError("No repository is named.", hint="Give --repo PATH or set BACKUP_REPOSITORY.")
        return Path(path)

    def repository(self) -> Repository:
        """The open repository."""
        return open_repository(self.repository_path())

    def backup(self, repository: Repository) -> Backup:
        """The backup that the ID argument names."""
        return repository.find(self.arguments.id, self.set_name())

    def set_name(self) -> str | None:
        """``--set``, if it was given."""
        return check_set_name(self.arguments.set) if self.arguments.set else None

    def set_or_all(self) -> str | None:
        """The set that is meant, ``default`` where none is named; None for ``--all-sets``."""
        return None if self.arguments.all_sets else check_set_name(self.arguments.set or "default")

    def sources(self) -> tuple[Source, ...]:
        """The sources on the command line, or those of the environment when there are none."""
        given = tuple(parse_source(kind, value) for kind in SourceKind for value in getattr(self.arguments, str(kind)) or ())
        return given or self.settings.sources


def init(call: Call) -> Outcome:
    repository = initialise(call.repository_path(), call.ctx.now())
    return Outcome({"repository": str(repository.folder)}, f"Made a repository in {repository.folder}.")


def create(call: Call) -> Outcome:
    from .create import Request, create_backup

    arguments = call.arguments
    kind = BackupKind(arguments.kind)
    depth = call.settings.verify_incremental if kind is BackupKind.INCREMENTAL else call.settings.verify_full
    if arguments.verify is not None:
        depth = None if arguments.verify == "none" else Depth(arguments.verify)
    request = Request(
        sources=call.sources(),
        set=check_set_name(arguments.set or "default"),
        kind=kind,
        note=check_note(arguments.note),
        verify=depth,
        wait=arguments.wait,
        within=arguments.within,
        job=check_note(arguments.job),
        examine=arguments.examine or call.settings.examine_command,
    )
    created = create_backup(call.repository(), request, call.ctx)
    broken = created.backup.damaged
    return Outcome(describe.created_json(created), describe.created_text(created), 6 if broken else 0)


def list_(call: Call) -> Outcome:
    found = call.repository().scan(call.set_or_all())
    return Outcome({"backups": [describe.listed_json(item) for item in found]}, describe.listed_text(found))


def show(call: Call) -> Outcome:
    backup = call.backup(call.repository())
    return Outcome(describe.shown_json(backup), describe.shown_text(backup))


def files(call: Call) -> Outcome:
    repository = call.repository()
    listed = describe.files_of(repository, call.backup(repository))
    return Outcome(listed, describe.files_text(listed))


def verify(call: Call) -> Outcome:
    from .verify import verify_many

    repository = call.repository()
    arguments = call.arguments
    depth = Depth(arguments.depth)
    if arguments.all and arguments.id:
        raise UsageError("Give ids or --all, not both.")
    unreadable: list[dict[str, Any]] = []
    if arguments.all:
        scanned = repository.scan(call.set_or_all())
        backups = [item for item in scanned if isinstance(item, Backup)]
        unreadable = [describe.unreadable_json(item, depth) for item in scanned if not isinstance(item, Backup)]
    else:
        backups = [repository.find(wanted, call.set_name()) for wanted in arguments.id or ["latest"]]
    examine = arguments.examine or call.settings.examine_command
    proofs = list(verify_many(repository, backups, depth, call.ctx, examine=examine))
    ok = all(proof.ok for proof in proofs) and not unreadable
    results = [describe.proof_json(proof) for proof in proofs] + unreadable
    text = "\n".join(
        [describe.proof_text(proof) for proof in proofs]
        + [f"{item['id']}: DAMAGED\n  manifest: {item['problems'][0]['message']}" for item in unreadable]
    )
    return Outcome({"ok": ok, "results": results}, text or "There is no backup to verify.", 0 if ok else 5)


def drill(call: Call) -> Outcome:
    from .drill import drill_backup, passed

    repository = call.repository()
    proof = drill_backup(
        repository,
        call.backup(repository),
        call.ctx,
        probe=call.arguments.probe or call.settings.drill_command,
        examine=call.arguments.examine or call.settings.examine_command,
    )
    answer = {"ok": passed(proof), "results": [describe.proof_json(proof)]}
    return Outcome(answer, describe.proof_text(proof), 0 if passed(proof) else 1 if proof.ok else 5)


def restore(call: Call) -> Outcome:
    from .restore.in_place import Commands, plan_in_place, restore_in_place
    from .restore.to_folder import restore_to

    arguments = call.arguments
    if bool(arguments.to) == bool(arguments.in_place):
        raise UsageError("Say where to restore: either --to FOLDER or --in-place.")
    repository = call.repository()
    backup = call.backup(repository)
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
        return Outcome(describe.restored_json(restored), describe.restored_text(restored), 5 if restored.lost else 0)
    sources = call.sources()
    if arguments.dry_run:
        planned = plan_in_place(repository, backup, sources, only=arguments.only)
        return Outcome(planned, describe.planned_text(planned))
    _confirm(call, backup)
    commands = Commands(
        stop=arguments.stop_command or call.settings.stop_command,
        start=arguments.start_command or call.settings.start_command,
        check=arguments.check_command or call.settings.check_command,
    )
    restored = restore_in_place(
        repository, backup, sources, call.ctx, only=arguments.only, commands=commands, wait=arguments.wait
    )
    return Outcome(describe.restored_json(restored), describe.restored_text(restored))


def _confirm(call: Call, backup: Backup) -> None:
    """Ask for the backup's id on a terminal; without one, ``--yes`` is needed. Raises `RestoreRefused`."""
    if call.arguments.yes:
        return
    if not sys.stdin.isatty():
        raise RestoreRefused("A restore in place replaces live data, and there is no terminal to ask at.", hint="Give --yes.")
    sys.stderr.write(f"This replaces live data by {backup.id}. A safety backup is made first.\nType the id to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != backup.id:
        raise RestoreRefused("The id was not typed. Nothing was changed.")


def hold(call: Call) -> Outcome:
    return _set_hold(call, Hold(time=call.ctx.now(), note=check_note(call.arguments.note)), "held")


def release(call: Call) -> Outcome:
    return _set_hold(call, None, "released")


def _set_hold(call: Call, wish: Hold | None, what: str) -> Outcome:
    repository = call.repository()
    backup = call.backup(repository)
    with repository.writing(what, call.ctx.now(), wait=10.0):
        repository.set_hold(backup, wish)
    return Outcome({"id": backup.id, "hold": wish.note if wish else None}, f"{backup.id} is {what}.")


def delete_(call: Call) -> Outcome:
    from .prune import delete

    repository = call.repository()
    wanted = {item.id: item for item in (_deletable(call, repository, given) for given in call.arguments.id)}
    deleted: list[str] = []
    for _, backup in sorted(wanted.items(), reverse=True):  # the newest first: dependents before what they depend on
        try:
            delete(repository, backup, call.ctx)
        except EngineError as problem:
            problem.details |= {"deleted": deleted} if deleted else {}
            raise
        deleted.append(backup.id)
    where = f"in the trash for {call.settings.trash_hours:g} h: {repository.trash}"
    if len(deleted) == 1:
        return Outcome({"id": deleted[0], "deleted": True}, f"{deleted[0]} is {where}")
    return Outcome({"ids": deleted, "deleted": True}, f"{len(deleted)} backups are {where}")


def _deletable(call: Call, repository: Repository, given: str) -> Backup | Unreadable:
    """The backup that *given* names; one that cannot be read goes by its whole id."""
    try:
        return repository.find(given, call.set_name())
    except DamageFound:
        for item in repository.scan(call.set_name()):
            if isinstance(item, Unreadable) and item.id == given:
                return item
        raise


def prune_(call: Call) -> Outcome:
    from .prune import prune
    from .repository.retention import Policy, PolicyError, parse_duration

    arguments = call.arguments
    try:
        policy = Policy(
            **{f"keep_{period}": getattr(arguments, f"keep_{period}") or 0 for period in _COUNTS},
            keep_within=parse_duration(arguments.keep_within) if arguments.keep_within else None,
            verified_floor=arguments.verified_floor,
        )
    except PolicyError as problem:
        raise UsageError(f"{problem}.") from None
    repository = call.repository()
    hours = 0.0 if arguments.empty_trash else call.settings.trash_hours
    wanted = call.set_or_all()
    done = [
        prune(repository, name, policy, call.ctx, dry_run=arguments.dry_run, trash=timedelta(hours=hours))
        for name in ([wanted] if wanted else repository.sets())
    ]
    decisions = tuple(item for one in done for item in one.decisions)
    decided = {
        keep: [{"id": item.id, "reasons": list(item.reasons)} for item in decisions if item.keep is keep]
        for keep in (True, False)
    }
    emptied = [name for one in done for name in one.emptied]
    answer = {"kept": decided[True], "removed": decided[False], "dry_run": arguments.dry_run, "emptied": emptied}
    return Outcome(answer, describe.pruned_text(decisions, arguments.dry_run))


def doctor(call: Call) -> Outcome:
    from .doctor import diagnose

    path = call.arguments.repo or call.settings.repository
    found = diagnose(Path(path) if path else None, call.sources(), call.ctx)
    return Outcome(found.as_json(), found.as_text(), 0 if found.ok else 1)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are `UsageError`, so that they too are JSON when JSON was asked for."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}.", hint=f"See `{self.prog} --help`.")


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``refbackup``; every subcommand's function is its default ``run``."""
    return _build()[0]


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The parser of one subcommand, for others that offer the same: give it to a parser as its parent."""
    return _build()[1][verb]


def _build() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    added: dict[str, argparse.ArgumentParser] = {}
    parser = _Parser(
        prog="refbackup",
        description="Back up SQLite and ChromaDB at one instant, prove the backups, and bring them back.",
    )
    parser.add_argument("--version", action="version", version=f"refbackup {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Call], Outcome], text: str) -> argparse.ArgumentParser:
        own = added[name] = commands.add_parser(name, help=text, description=text)
        own.set_defaults(run=run)
        own.add_argument("--repo", metavar="REPO", help="the repository's folder (BACKUP_REPOSITORY)")
        own.add_argument("--set", metavar="NAME", help="one application's line of backups (default: default)")
        own.add_argument("--json", action="store_true", help="one JSON object on standard output")
        own.add_argument(
            "--progress",
            choices=("auto", "lines", "json", "none"),
            default="auto",
            help="how to tell it on standard error",
        )
        return own

    command("init", init, "Make a repository in a new or empty folder.")
    _create_arguments(command("create", create, "Back up at one instant, publish, and prove."))
    listing = command("list", list_, "List backups, newest first.")
    listing.add_argument("--all-sets", action="store_true", help="those of every set")
    for name, run, text in (
        ("show", show, "Show all about a backup."),
        ("files", files, "List the files of a backup."),
        ("release", release, "End a hold."),
    ):
        _id_argument(command(name, run, text))
    deleting = command("delete", delete_, "Move backups that no other needs into the trash.")
    deleting.add_argument(
        "id", nargs="+", metavar="ID", help="an id, a unique prefix, latest, ...; several go the newest first"
    )
    held = command("hold", hold, "Keep a backup whatever retention says.")
    _id_argument(held)
    held.add_argument("--note", default="", metavar="TEXT", help="why")
    proving = command("verify", verify, "Prove backups; exit code 5 when damage is found.")
    proving.add_argument("id", nargs="*", metavar="ID", help="default: latest")
    proving.add_argument("--all", action="store_true", help="every backup of the set")
    proving.add_argument("--all-sets", action="store_true", help="with --all: of every set")
    proving.add_argument("--depth", choices=[*Depth], default=Depth.HASHES.value, help="every byte, or a whole restore")
    _examine_argument(proving)
    drilling = command("drill", drill, "Restore a backup into scratch with checks and timings, and record it.")
    _id_argument(drilling, default="latest")
    drilling.add_argument(
        "--probe", metavar="CMD", default="", help="the application's own look at what was restored (BACKUP_DRILL_COMMAND)"
    )
    _examine_argument(drilling)
    _restore_arguments(command("restore", restore, "Bring a backup back, into a folder or in place."))
    _prune_arguments(command("prune", prune_, "Remove what no rule keeps."))
    _source_arguments(command("doctor", doctor, "Look at sources and repository, and give advice."))
    return parser, added


def _id_argument(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    parser.add_argument(
        "id",
        metavar="ID",
        nargs="?" if default else None,
        default=default,
        help="an id, a unique prefix, latest, latest:full or @2026-11-20T10:00Z",
    )


def _examine_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--examine",
        metavar="CMD",
        default="",
        help="what the application says of its restored stores, kept in the proof (BACKUP_EXAMINE_COMMAND)",
    )


def _source_arguments(parser: argparse.ArgumentParser) -> None:
    for kind, what, setting in (
        ("sqlite", "FILE", "REFSERVER_DATABASE"),
        ("chroma", "DIR", "CHROMA_PATH"),
        ("files", "DIR", "REFSERVER_FILES"),
    ):
        parser.add_argument(f"--{kind}", action="append", metavar=f"[NAME=]{what}", help=f"a source ({setting})")


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    _source_arguments(parser)
    parser.add_argument("--kind", choices=[*BackupKind], default=BackupKind.FULL.value, help="default: full")
    parser.add_argument("--note", default="", metavar="TEXT", help="kept with the backup")
    parser.add_argument("--job", default="", metavar="NAME", help="what the caller calls this run; kept in the manifest")
    parser.add_argument("--verify", choices=("none", "hashes", "restore"), help="how to prove it (BACKUP_VERIFY_FULL, ...)")
    parser.add_argument("--no-verify", dest="verify", action="store_const", const="none", help="prove nothing")
    _examine_argument(parser)
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for the repository's lock")
    parser.add_argument(
        "--within", type=float, default=30.0, metavar="SECONDS", help="to try for an instant at which all is still"
    )


def _restore_arguments(parser: argparse.ArgumentParser) -> None:
    _id_argument(parser)
    _source_arguments(parser)
    parser.add_argument("--to", metavar="DIR", help="a new or empty folder")
    parser.add_argument("--in-place", action="store_true", help="replace live stores; a safety backup is made first")
    parser.add_argument("--only", metavar="KIND[:NAME]", help="one kind of store, or one store")
    parser.add_argument("--check", action="store_true", help="open and compare the stores before they appear (--to)")
    parser.add_argument("--salvage", action="store_true", help="put zeros where a block cannot be read, and name it (--to)")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen")
    parser.add_argument("--yes", action="store_true", help="do not ask (--in-place)")
    parser.add_argument("--wait", type=float, default=30.0, metavar="SECONDS", help="for writers to pause (--in-place)")
    parser.add_argument("--stop-command", metavar="CMD", default="", help="run before the exchange (BACKUP_STOP_COMMAND)")
    parser.add_argument("--start-command", metavar="CMD", default="", help="run after it (BACKUP_START_COMMAND)")
    parser.add_argument(
        "--check-command", metavar="CMD", default="", help="a failure undoes the restore (BACKUP_CHECK_COMMAND)"
    )


def _prune_arguments(parser: argparse.ArgumentParser) -> None:
    for period in _COUNTS:
        parser.add_argument(
            f"--keep-{period}",
            type=int,
            metavar="N",
            help=f"keep {'the last N' if period == 'last' else f'N {period} backups'}",
        )
    parser.add_argument("--keep-within", metavar="14d", help="keep what is that much older than the newest, at most")
    parser.add_argument("--verified-floor", type=int, default=2, metavar="N", help="never remove the newest N proven backups")
    parser.add_argument("--all-sets", action="store_true", help="by the same rules in every set")
    parser.add_argument("--empty-trash", action="store_true", help="free the space of deleted backups now")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and why")


@contextmanager
def cancel_on_signals() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a question that use cases ask."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``refbackup`` and return its exit code; 2 for wrong usage, also argparse's own."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # names of files need not be UTF-8
    try:
        arguments = build_parser().parse_args(argv)
    except UsageError as problem:
        return _fail(problem, "--json" in (sys.argv if argv is None else argv))
    try:
        outcome = perform(arguments, read_settings(environment()))
    except EngineError as problem:
        return _fail(problem, arguments.json)
    except OSError as problem:
        return _fail(from_os_error(problem, arguments.command), arguments.json)
    return answer(outcome, arguments.json)


def perform(arguments: argparse.Namespace, settings: Settings) -> Outcome:
    """Do what parsed *arguments* say, with progress on standard error; signals cancel it. Raises `EngineError`."""
    quiet = getattr(arguments, "command", "") == "list"
    show_event, log, close = progress.chosen("none" if quiet else arguments.progress)
    try:
        with cancel_on_signals() as cancelled:
            ctx = Context(on_progress=show_event, on_log=log, should_cancel=cancelled)
            outcome: Outcome = arguments.run(Call(arguments, settings, ctx))
    except OSError as problem:
        raise from_os_error(problem, getattr(arguments, "command", "") or "Running the command") from problem
    finally:
        close()
    return outcome


def answer(outcome: Outcome, as_json: bool) -> int:
    """Print what came of a command, and return its exit code."""
    sys.stdout.write((json.dumps(outcome.json) if as_json else outcome.text) + "\n")
    return int(outcome.exit_code)


def _fail(problem: EngineError, as_json: bool) -> int:
    return fail(problem, as_json, "refbackup")


def fail(problem: EngineError, as_json: bool, command: str) -> int:
    """Print what went wrong in *command* and what to do, and return its exit code."""
    if as_json:
        sys.stdout.write(json.dumps({"error": problem.as_json()}) + "\n")
    sys.stderr.write(f"{command}: {problem.message}\n  -> {problem.hint}\n")
    return problem.exit_code
