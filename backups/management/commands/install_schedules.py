"""`manage.py install_schedules`: make the default plans and alert rules."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand
from django.db import transaction

from backups.alerts import default_rules
from backups.conf import configuration
from backups.plans import defaults


class Command(BaseCommand):
    """Adds what is missing; existing plans and rules stay as they are."""

    help = "Add the default plans and alert rules that are missing, and this host's tick."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add ``--again``."""
        parser.add_argument("--again", action="store_true", help="also add plans that were removed")

    def handle(self, *args: Any, **options: Any) -> None:
        """Add them, and print their names."""
        with transaction.atomic(using=configuration().database):
            made = [*defaults.install(again=options["again"]), *default_rules.install()]
        for name in made:
            self.stdout.write(f"made {name}")
        if not made:
            self.stdout.write("Nothing to add.")
