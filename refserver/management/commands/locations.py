"""`manage.py locations`: the paths and addresses in use, for people and for scripts."""

import json
import shlex
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

_NAMES = (
    *("REFSERVER_DATABASE", "CHROMA_PATH", "REFSERVER_FILES", "REFSERVER_CONTROL_DATABASE", "BACKUP_REPOSITORY"),
    *("BACKUP_SIGNING_KEY", "BACKUP_ENCRYPTION_KEY"),
    *("REFSERVER_RUN_DIR", "REFSERVER_BIND", "REFSERVER_PORT"),
)


class Command(BaseCommand):
    """Prints the effective settings, with defaults and absolute paths."""

    help = "Print where the databases, the vectors, the documents and the backups are."

    def add_arguments(self, parser: ArgumentParser) -> None:
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="one JSON object")
        form.add_argument("--shell", action="store_true", help="NAME=value lines that a shell can evaluate")

    def handle(self, *args: Any, **options: Any) -> None:
        values = {name: str(getattr(settings, name)) for name in _NAMES}
        if options["json"]:
            self.stdout.write(json.dumps(values))
        elif options["shell"]:
            self.stdout.write("\n".join(f"{name}={shlex.quote(value)}" for name, value in values.items()))
        else:
            self.stdout.write("\n".join(f"{name:28}{value}" for name, value in values.items()))
