"""`manage.py backup_reindex`: rebuild the index of backups from the repositories."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.catalog import index
from backups.conf import configuration
from backups.engine.errors import EngineError


class Command(BaseCommand):
    """Reads every manifest. Nothing in a repository is changed."""

    help = "Rebuild the index of backups from the repositories."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--repository", default="", help="name in BACKUPS (default: all)")
        parser.add_argument("--changed", action="store_true", help="read only what changed since the last run")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        names = [options["repository"]] if options["repository"] else list(configuration().repositories)
        try:
            done = {name: index.refresh(name, everything=not options["changed"]) for name in names}
        except EngineError as problem:
            raise CommandError(f"{problem.message}\n  -> {problem.hint}", returncode=problem.exit_code) from problem
        if options["json"]:
            self.stdout.write(json.dumps({"repositories": {name: asdict(change) for name, change in done.items()}}))
            return
        for name, change in done.items():
            self.stdout.write(f"{name}: {change.found} backups, {change.read} read, {change.forgotten} removed from the index")
