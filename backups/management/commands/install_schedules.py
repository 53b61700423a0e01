"""`manage.py install_schedules`: make the plans that a new installation starts with."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from backups.plans.defaults import install


class Command(BaseCommand):
    """Makes what is missing; a plan that is there stays as it is."""

    help = "Make the default plans that are missing, and the minute's tick of this host."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Choose whether deleted ones come back."""
        parser.add_argument("--again", action="store_true", help="make those anew, too, that somebody deleted")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make them, and name them."""
        made = install(again=options["again"])
        for name in made:
            self.stdout.write(f"made {name}")
        if not made:
            self.stdout.write("All plans are there.")
