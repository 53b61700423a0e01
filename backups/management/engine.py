"""Management commands that run a ``refbackup`` subcommand on the project's repository and stores.

Arguments, JSON and exit codes are the same; the audit and the index are kept up to date.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, connections

from backups.catalog import index
from backups.conf import Configuration, configuration
from backups.engine import cli
from backups.engine.config import Settings, environment, read_settings
from backups.engine.errors import EngineError, RestoreRefused, UsageError
from backups.engine.names import BACKUP_ID
from backups.identity import audit
from backups.jobs import types
from backups.jobs.job_type import Work

_NOT_AUDITED = frozenset(
    {
        *("run", "json", "progress", "quiet", "log_file", "heartbeat"),
        *("verbosity", "settings", "pythonpath", "traceback", "no_color", "force_color", "skip_checks"),
    }
)


class EngineCommand(BaseCommand):
    """A subcommand of ``refbackup``: ``verb`` is its name."""

    verb: ClassVar[str]
    _called = ""
    requires_system_checks = ()  # a recovery must not fail for a setting of something else

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Add the engine's arguments to Django's."""
        self._called = subcommand
        parent = cli.parser_of(self.verb)
        self.help = str(parent.description)
        parser = super().create_parser(prog_name, subcommand, parents=[parent], conflict_handler="resolve", **kwargs)
        parser.error = _refuse  # type: ignore[method-assign]  # with --json, usage errors are JSON too
        for action in parser._actions:
            if action.dest == "repo":
                action.help = "a repository's name in BACKUPS, or its folder (default: the first one)"
            elif action.dest in ("sqlite", "chroma", "files"):
                action.help = "a source (default: those of the set in BACKUPS)"
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        """Run, with usage errors in the engine's form."""
        try:
            super().run_from_argv(argv)
        except UsageError as problem:
            sys.exit(cli.fail(problem, "--json" in argv, self._name()))

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command.

        1. Record the request in the audit. If that fails, do nothing.
        2. Close the databases (a process that reads a file raw must hold no connection to it), and run the engine's command.
        3. Record the outcome in the audit, call the job type's ``complete``, and refresh the index.
        """
        arguments = argparse.Namespace(**options)
        actor = audit.at_the_shell()
        kind = "backup" if self.verb == "create" else self.verb  # of the job that does the same
        work = Work(
            key="",
            target=f"repository:{arguments.repo}",
            actor=actor,
            backup_id="",
            only=options.get("only") or "",
            warn=self.stderr.write,
        )
        try:
            settings = self._settings(arguments)
            work.target = f"repository:{arguments.repo}"
            in_place = bool(getattr(arguments, "in_place", False)) and not arguments.dry_run
            kind = f"{kind}_in_place" if in_place else kind
            _announce(actor, f"{kind}.requested", work.target, _request(options))
            prepared = types.job_type(kind)
            prepared.prepare(work)
        except _NotAnnounced as problem:
            sys.exit(cli.fail(problem, arguments.json, self._name()))
        except EngineError as problem:
            sys.exit(self._fail(problem, arguments, kind, work))
        try:
            connections.close_all()
            outcome = cli.perform(arguments, settings)
            code = cli.answer(outcome, arguments.json, arguments.quiet)
            made = str(outcome.json.get("id") or "")
            work.backup_id, work.target = made, f"backup:{made}" if made else work.target
            audit.record(actor, f"{kind}.{'failed' if code else 'succeeded'}", work.target, after={"code": code})
        except EngineError as problem:
            code = self._fail(problem, arguments, kind, work)
        prepared.complete(work)
        self._refresh(arguments.repo)
        if code:
            sys.exit(code)

    def _fail(self, problem: EngineError, arguments: argparse.Namespace, kind: str, work: Work) -> int:
        audit.record(work.actor, f"{kind}.failed", work.target, after={"error": problem.message})
        return cli.fail(problem, arguments.json, self._name())

    def _settings(self, arguments: argparse.Namespace) -> Settings:
        config = configuration()
        arguments.repo = str(config.repositories.get(arguments.repo or config.default_repository, arguments.repo))
        wanted = getattr(arguments, "id", None)
        by_id = (isinstance(wanted, str) and BACKUP_ID.fullmatch(wanted)) or (isinstance(wanted, list) and bool(wanted))
        if not arguments.set and not by_id and not getattr(arguments, "all_sets", False):
            arguments.set = config.default_set
        set_name = arguments.set or config.default_set
        if getattr(arguments, "in_place", False):
            folder = Path(arguments.repo)
            backup = config.opened(folder).find(arguments.id, arguments.set)
            set_name = backup.manifest.set
            self._refuse_kept_apart(config, set_name)
        sources = (
            config.live_sources(set_name)
            if self.verb in ("create", "restore") and config.whole_set(set_name) in config.sets
            else ()
        )
        settings = read_settings(environment())
        examine = settings.examine_command or " ".join(types.examination(config.whole_set(set_name))[1:])
        return replace(
            settings,
            repository=Path(arguments.repo),
            sources=sources,
            examine_command=examine,
            signing_key=config.signing_key,
            trusted_keys=config.trusted_keys,
            encryption_key=config.encryption_key,
        )

    def _refuse_kept_apart(self, config: Configuration, set_name: str) -> None:
        if config.whole_set(set_name) in config.kept_apart:
            raise RestoreRefused(
                f"The set {set_name} holds the control database, which this command uses. Nothing was changed.",
                hint="Stop the application and use `refbackup restore` (DISASTER_RECOVERY.md).",
            )

    def _refresh(self, folder: str) -> None:
        for name, path in configuration().repositories.items():
            if str(path) == folder:
                try:
                    index.refresh(name)
                except EngineError as problem:
                    self.stderr.write(f"The index is behind: {problem.message} Run manage.py backup_reindex.")

    def _name(self) -> str:
        return self._called or self.verb


class _NotAnnounced(EngineError):
    """The audit cannot be written."""


def _announce(actor: audit.Actor, action: str, target: str, after: dict[str, Any]) -> None:
    try:
        audit.record(actor, action, target, after=after)
    except DatabaseError as problem:
        raise _NotAnnounced(
            f"The audit cannot be written ({problem}). Nothing was done.",
            hint="Run manage.py migrate, or use `refbackup`, which needs no database.",
        ) from problem


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}.", hint="See --help.")


def _request(options: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if name not in _NOT_AUDITED and value not in (None, False, "")}
    return {name: value if isinstance(value, int | float | list) else str(value) for name, value in given.items()}
