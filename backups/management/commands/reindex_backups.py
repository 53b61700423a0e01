"""`manage.py reindex_backups`: make the index of backups anew from the repository."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.catalog import index
from backups.conf import configuration
from backups.engine.errors import EngineError


class Command(BaseCommand):
    """Reads every manifest; the repository is the truth, and nothing in it is changed."""

    help = "Make the index of backups anew from the repository."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Choose a repository and a form."""
        parser.add_argument("--repository", default="", help="its name in BACKUPS (default: all)")
        parser.add_argument("--changed", action="store_true", help="read only what changed since")
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Read, and say how many there are."""
        names = [options["repository"]] if options["repository"] else list(configuration().repositories)
        try:
            done = {name: index.refresh(name, everything=not options["changed"]) for name in names}
        except EngineError as problem:
            raise CommandError(f"{problem.message}\n  -> {problem.hint}", returncode=problem.exit_code) from problem
        if options["json"]:
            self.stdout.write(json.dumps({"repositories": {name: asdict(change) for name, change in done.items()}}))
            return
        for name, change in done.items():
            self.stdout.write(f"{name}: {change.found} backups, {change.read} read, {change.forgotten} forgotten")
