"""Base of the management commands that run ``refbackup``: same arguments, JSON and exit codes, on the project's repository and
stores, with an audit entry and an update of the index."""

from __future__ import annotations

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
from backups.engine.repository.folder import open_repository
from backups.identity import account_changes, audit, permissions
from backups.jobs import types

_NOT_AUDITED = frozenset(
    {"run", "json", "progress", "verbosity", "settings", "pythonpath", "traceback", "no_color", "force_color", "skip_checks"}
)


class EngineCommand(BaseCommand):
    """A command of ``refbackup``. ``verb`` is its name there, ``kind`` the job type that does the same."""

    verb: ClassVar[str]
    kind: ClassVar[str]
    requires_system_checks = ()  # a recovery must not fail because of an unrelated setting

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """The engine's arguments and Django's own."""
        parent = cli.parser_of(self.verb)
        self.help = str(parent.description)
        parser = super().create_parser(prog_name, subcommand, parents=[parent], conflict_handler="resolve", **kwargs)
        parser.error = _refuse  # type: ignore[method-assign]  # wrong usage is reported as JSON too if --json is given
        for action in parser._actions:
            if action.dest == "repo":
                action.help = "name of a repository in BACKUPS, or its folder (default: the first one)"
            elif action.dest in ("sqlite", "chroma", "files"):
                action.help = "source (default: those of the set in BACKUPS)"
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        """Run as any command, but report wrong usage as the engine does."""
        try:
            super().run_from_argv(argv)
        except UsageError as problem:
            sys.exit(cli.fail(problem, "--json" in argv, self._name()))

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command.

        1. Write an audit entry about the request. If that fails, do nothing.
        2. Close the databases, because a process that reads a file raw must hold no connection to it. Run the engine.
        3. Write an audit entry about the result, and update the index.
        """
        arguments = argparse.Namespace(**options)
        actor, kind = audit.at_the_shell(), self.kind
        before = None
        try:
            settings = self._settings(arguments)
            in_place = bool(getattr(arguments, "in_place", False)) and not arguments.dry_run
            kind = f"{self.kind}_in_place" if in_place else self.kind
            _audit_request(actor, f"{kind}.requested", f"repository:{arguments.repo}", _given(options))
            before = account_changes.now() if in_place else None
            connections.close_all()
            outcome = cli.perform(arguments, settings)
        except _AuditFailed as problem:
            sys.exit(cli.fail(problem, arguments.json, self._name()))
        except EngineError as problem:
            audit.record(actor, f"{kind}.failed", f"repository:{arguments.repo}", after={"error": problem.message})
            sys.exit(cli.fail(problem, arguments.json, self._name()))
        code = cli.answer(outcome, arguments.json)
        made = str(outcome.json.get("id") or "")
        target = f"backup:{made}" if made else f"repository:{arguments.repo}"
        audit.record(actor, f"{kind}.{'failed' if code else 'succeeded'}", target, after={"code": code})
        if in_place:
            self._note_accounts(actor, made, before)
        self._refresh(arguments.repo)
        if code:
            sys.exit(code)

    def _settings(self, arguments: argparse.Namespace) -> Settings:
        """The engine's settings with the project's repository and stores, which are also filled into *arguments*."""
        project = configuration()
        arguments.repo = str(project.repositories.get(arguments.repo or project.default_repository, arguments.repo))
        wanted = getattr(arguments, "id", None)
        by_id = (isinstance(wanted, str) and BACKUP_ID.fullmatch(wanted)) or (isinstance(wanted, list) and bool(wanted))
        if not arguments.set and not by_id and not getattr(arguments, "all_sets", False):
            arguments.set = project.default_set
        set_name = arguments.set or project.default_set
        if getattr(arguments, "in_place", False):
            backup = open_repository(Path(arguments.repo)).find(arguments.id, arguments.set)
            set_name = backup.manifest.set
            self._refuse_kept_apart(project, set_name)
        sources = (
            project.live_sources(set_name)
            if self.verb in ("create", "restore") and project.whole_set(set_name) in project.sets
            else ()
        )
        settings = read_settings(environment())
        examine = settings.examine_command or " ".join(types.examination(project.whole_set(set_name))[1:])
        return replace(settings, repository=Path(arguments.repo), sources=sources, examine_command=examine)

    def _refuse_kept_apart(self, project: Configuration, set_name: str) -> None:
        if project.whole_set(set_name) in project.kept_apart:
            raise RestoreRefused(
                f"The set {set_name} holds the control database, which this command uses itself. Nothing was changed.",
                hint="Stop everything, and use `refbackup restore` (DISASTER_RECOVERY.md).",
            )

    def _note_accounts(self, actor: audit.Actor, backup_id: str, before: account_changes.Accounts | None) -> None:
        """After a restore in place: create missing groups, and write an audit entry about changed accounts."""
        permissions.make_groups()
        changes = account_changes.compare(before, account_changes.now())
        if any(changes["counts"].values()):
            what = {"backup": backup_id, "counts": changes["counts"]}
            audit.record(actor, "restore_in_place.accounts", f"backup:{backup_id}", after=what)

    def _refresh(self, folder: str) -> None:
        for name, path in configuration().repositories.items():
            if str(path) == folder:
                try:
                    index.refresh(name)
                except EngineError as problem:
                    self.stderr.write(f"The index is not up to date: {problem.message} Run manage.py reindex_backups.")

    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


class _AuditFailed(EngineError):
    """The audit entry could not be written."""


def _audit_request(actor: audit.Actor, action: str, target: str, after: dict[str, Any]) -> None:
    try:
        audit.record(actor, action, target, after=after)
    except DatabaseError as problem:
        raise _AuditFailed(
            f"The audit cannot be written ({problem}). Nothing was done.",
            hint="Run manage.py migrate, or use `refbackup`, which needs no database.",
        ) from problem


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}.", hint="See --help.")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The arguments given, for the audit."""
    given = {name: value for name, value in options.items() if name not in _NOT_AUDITED and value not in (None, False, "")}
    return {name: value if isinstance(value, int | float | list) else str(value) for name, value in given.items()}
