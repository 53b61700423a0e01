"""`manage.py backups_init`: make what the settings name and what is missing: tables, signing key, repositories, plans."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections, router, transaction
from django.db.migrations.executor import MigrationExecutor

from backups import checks, moments
from backups.alerts import default_rules
from backups.catalog import index
from backups.conf import REPOSITORY_AWAY, WORKER, called, configuration
from backups.engine.errors import EngineError, RepositoryMissing
from backups.engine.evidence.keys import lost_key, make_key
from backups.engine.repository.folder import initialise, open_repository
from backups.models import IndexedBackup
from backups.plans import defaults

Step = tuple[str, bool]
"""What there is now, and whether this run made it."""


class Command(BaseCommand):
    """Runs as often as you like: existing tables, keys, repositories and plans stay as they are."""

    requires_system_checks = (checks.TAG,)
    help = (
        "Make the control database, the signing key, the repositories, the default plans and the alert rules, as far as they "
        "are missing. Each line says whether it was made or was there before."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object: lists of both")

    def handle(self, *args: Any, **options: Any) -> None:
        """Stop at the first problem: what was made until then stays, and the next run goes on from there."""
        steps: list[Step] = []
        try:
            for what, is_new in chain(_databases(), _repositories(), _plans()):
                steps.append((what, is_new))
                if not options["json"]:
                    self.stdout.write(f"{'made ' if is_new else 'there'}  {what}")
        except EngineError as problem:
            raise CommandError(f"{problem.message}\n  -> {problem.hint}", returncode=problem.exit_code) from problem
        if options["json"]:
            made, there = ([what for what, is_new in steps if is_new is wanted] for wanted in (True, False))
            self.stdout.write(json.dumps({"made": made, "there": there}))
        else:
            self.stdout.write(f"Next: {called(WORKER)}")


def _databases() -> Iterator[Step]:
    config = configuration()
    accounts = router.db_for_write(get_user_model()) or "default"
    if "auth_permission" not in connections[accounts].introspection.table_names():
        raise CommandError(f"The database {accounts!r} has no tables yet. Nothing was made.\n  -> Run manage.py migrate first.")
    labels = [app.label for app in apps.get_app_configs() if router.allow_migrate(config.database, app.label)]
    for alias in dict.fromkeys((config.database, accounts)):
        connection = connections[alias]
        executor = MigrationExecutor(connection)
        mine = [label for label in labels if label in executor.loader.migrated_apps]
        if alias != config.database:  # only the groups and permissions of these apps are there
            mine = [label for label in mine if label in ("backups", "consistency")]
        targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] in mine]
        pending = bool(executor.migration_plan(targets))
        for label in mine if pending else ():
            call_command("migrate", label, database=alias, verbosity=0)
        what = "tables in" if alias == config.database else "groups and permissions in"
        yield f"{what} the database {alias!r}", pending


def _repositories() -> Iterator[Step]:
    config = configuration()
    for name, folder in config.repositories.items():
        if lost := lost_key(folder, config.signing_key):
            hint = "Bring the key back from where you keep a copy of it. Nothing was made."
            raise RepositoryMissing(f"The repository {name}: {lost}.", hint=hint)
    if config.signing_key is not None:
        yield f"the signing key {config.signing_key}", make_key(config.signing_key)
    for name, folder in config.repositories.items():
        yield f"the repository {name} in {folder}", _make(name, folder)
        index.refresh(name)


def _make(name: str, folder: Path) -> bool:
    config = configuration()
    try:
        open_repository(folder, config.keys(folder))
    except RepositoryMissing as problem:
        if problem.hint != RepositoryMissing.default_hint:
            raise  # it is there, and cannot be read
        if IndexedBackup.objects.filter(repository=name).exists():
            message = f"The repository {name} in {folder} is away: it had backups. Nothing was made there."
            raise RepositoryMissing(message, hint=REPOSITORY_AWAY) from problem
        initialise(folder, moments.now(), config.keys(folder))
        return True
    return False


def _plans() -> Iterator[Step]:
    with transaction.atomic(using=configuration().database):
        made = [*defaults.install(), *default_rules.install()]
    yield f"default plans and alert rules{f': {len(made)}' if made else ''}", bool(made)
