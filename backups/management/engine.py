"""Management commands that do what ``refbackup`` does: the same arguments, JSON and exit codes, on the project's repository and
stores, told to the audit and to the index."""

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

_NOT_TOLD = frozenset(
    {"run", "json", "progress", "verbosity", "settings", "pythonpath", "traceback", "no_color", "force_color", "skip_checks"}
)


class EngineCommand(BaseCommand):
    """One subcommand of ``refbackup``. ``verb`` is its name there, ``kind`` that of the same job here."""

    verb: ClassVar[str]
    kind: ClassVar[str]
    requires_system_checks = ()  # a recovery must not fail for a setting of something else

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """The engine's arguments beside Django's own."""
        parent = cli.parser_of(self.verb)
        self.help = str(parent.description)
        parser = super().create_parser(prog_name, subcommand, parents=[parent], conflict_handler="resolve", **kwargs)
        parser.error = _refuse  # type: ignore[method-assign]  # complaints are JSON, too, when JSON was asked for
        for action in parser._actions:
            if action.dest == "repo":
                action.help = "a repository's name in BACKUPS, or its folder (default: the first one)"
            elif action.dest in ("sqlite", "chroma", "files"):
                action.help = "a source (default: those of the set in BACKUPS)"
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        """As every command, with wrong usage told as the engine tells it."""
        try:
            super().run_from_argv(argv)
        except UsageError as problem:
            sys.exit(cli.fail(problem, "--json" in argv, self._name()))

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it.

        1. Say in the audit what is going to be done. When that cannot be written, nothing is done.
        2. Close the databases: who reads a file raw must hold no connection to it. Do what was asked for.
        3. Say in the audit what came of it, and bring the index up to date.
        """
        arguments = argparse.Namespace(**options)
        actor, kind = audit.at_the_shell(), self.kind
        before = None
        try:
            settings = self._settings(arguments)
            in_place = bool(getattr(arguments, "in_place", False)) and not arguments.dry_run
            kind = f"{self.kind}_in_place" if in_place else self.kind
            _announce(actor, f"{kind}.requested", f"repository:{arguments.repo}", _told(options))
            before = account_changes.now() if in_place else None
            connections.close_all()
            outcome = cli.perform(arguments, settings)
        except _NotAnnounced as problem:
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
        """The engine's settings with the project's repository and stores filled in; *arguments* name them from then on."""
        found = configuration()
        arguments.repo = str(found.repositories.get(arguments.repo or found.default_repository, arguments.repo))
        wanted = getattr(arguments, "id", None)
        by_id = (isinstance(wanted, str) and BACKUP_ID.fullmatch(wanted)) or (isinstance(wanted, list) and bool(wanted))
        if not arguments.set and not by_id and not getattr(arguments, "all_sets", False):
            arguments.set = found.default_set
        set_name = arguments.set or found.default_set
        if getattr(arguments, "in_place", False):
            backup = open_repository(Path(arguments.repo)).find(arguments.id, arguments.set)
            set_name = backup.manifest.set
            self._refuse_kept_apart(found, set_name)
        sources = (
            found.live_sources(set_name)
            if self.verb in ("create", "restore") and found.whole_set(set_name) in found.sets
            else ()
        )
        settings = read_settings(environment())
        examine = settings.examine_command or " ".join(types.examination(found.whole_set(set_name))[1:])
        return replace(settings, repository=Path(arguments.repo), sources=sources, examine_command=examine)

    def _refuse_kept_apart(self, found: Configuration, set_name: str) -> None:
        if found.whole_set(set_name) in found.kept_apart:
            raise RestoreRefused(
                f"The set {set_name} holds what controls the backups, and this command itself uses it. Nothing was changed.",
                hint="Stop everything, and use `refbackup restore` (DISASTER_RECOVERY.md).",
            )

    def _note_accounts(self, actor: audit.Actor, backup_id: str, before: account_changes.Accounts | None) -> None:
        """After a restore in place: the groups that the restored state lacks, and what accounts came back."""
        permissions.make_groups()
        told = account_changes.compare(before, account_changes.now())
        if any(told["counts"].values()):
            what = {"backup": backup_id, "counts": told["counts"]}
            audit.record(actor, "restore_in_place.accounts", f"backup:{backup_id}", after=what)

    def _refresh(self, folder: str) -> None:
        for name, path in configuration().repositories.items():
            if str(path) == folder:
                try:
                    index.refresh(name)
                except EngineError as problem:
                    self.stderr.write(f"The index is behind: {problem.message} Run manage.py reindex_backups.")

    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]


class _NotAnnounced(EngineError):
    """The audit could not be written."""


def _announce(actor: audit.Actor, action: str, target: str, after: dict[str, Any]) -> None:
    try:
        audit.record(actor, action, target, after=after)
    except DatabaseError as problem:
        raise _NotAnnounced(
            f"The audit cannot be written ({problem}), so nothing was done.",
            hint="Run manage.py migrate, or use `refbackup`, which needs no database.",
        ) from problem


def _refuse(message: str) -> NoReturn:
    raise UsageError(f"{message}.", hint="See --help.")


def _told(options: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, for the audit."""
    given = {name: value for name, value in options.items() if name not in _NOT_TOLD and value not in (None, False, "")}
    return {name: value if isinstance(value, int | float | list) else str(value) for name, value in given.items()}
