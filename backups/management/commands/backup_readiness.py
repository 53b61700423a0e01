"""`manage.py backup_readiness`: would a recovery work today?"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from backups.monitoring import readiness


class Command(BaseCommand):
    """Exit code 0 for ready, 1 with gaps, 2 when it is not known that a recovery would work."""

    help = "Score how ready this site is for a recovery, and say what to do about each gap."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Choose a form."""
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Score, and list the reasons, what costs most first."""
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
