"""`manage.py backup_readiness`: how ready this site is for a recovery."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from backups.monitoring import readiness


class Command(BaseCommand):
    """Exit code 0: ready; 1: gaps; 2: unknown whether a recovery would work."""

    help = "Score how ready this site is for a recovery, and suggest a fix for each gap."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        found = readiness.now()
        if options["json"]:
            self.stdout.write(json.dumps(found.as_json()))
        else:
            self.stdout.write(f"{found.score} of 100. {found.sentence}")
            for item in found.items:
                self.stdout.write(f"  {item.earned:4g} of {item.points:2}  {item.title}: {item.text}")
                if item.todo and item.state is not readiness.State.MET:
                    self.stdout.write(f"{'':14}-> {item.todo}")
        code = {"ready": 0, "gaps": 1}.get(found.level, 2)
        if code:
            raise SystemExit(code)
