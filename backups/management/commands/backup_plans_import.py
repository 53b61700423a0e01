"""`manage.py backup_plans_import FILE`: create, change and remove plans to match a YAML file."""

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.engine.errors import UsageError
from backups.identity import audit
from backups.plans import yaml_files


class Command(BaseCommand):
    """Applies a file completely or not at all. Exit code 2 if anything in it is wrong."""

    help = "Create and change plans to match a YAML file. Other plans stay."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="file written by backup_plans_export; - for standard input")
        parser.add_argument("--dry-run", action="store_true", help="print what would change")
        parser.add_argument("--replace", action="store_true", help="remove plans that are not in the file")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            entries = yaml_files.read(_text(options["file"]))
            if options["dry_run"]:
                compared = yaml_files.compare(entries, replace=options["replace"])
                changes = [change for change in compared if change.what != "same"]
            else:
                actor = audit.at_the_shell()
                changes = yaml_files.import_entries(actor, entries, replace=options["replace"])
        except UsageError as problem:
            if options["json"]:
                self.stdout.write(json.dumps({"error": problem.as_json()}))
            lines = "".join(f"\n  {line}" for line in problem.details.get("problems", []))
            message = "The file has errors. No plan was changed:" if lines else problem.message
            raise CommandError(f"{message}{lines}", returncode=2) from None
        if options["json"]:
            listed = [change.as_json() for change in changes]
            self.stdout.write(json.dumps({"changes": listed, "dry_run": options["dry_run"]}))
            return
        for change in changes:
            self.stdout.write(f"{change.name}: {'would be ' if options['dry_run'] else ''}{change.what}")
            for line in change.lines:
                self.stdout.write(f"  {line}")
        if not changes:
            self.stdout.write("All plans match the file.")


def _text(name: str) -> str:
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return content.decode("utf-8-sig")
    except OSError as problem:
        raise UsageError(f"{name} cannot be read: {problem.strerror}.", hint="No plan was changed.") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8 text.", hint="No plan was changed.") from None
