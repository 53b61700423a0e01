"""`manage.py backup_plans_install`: make the default plans and alert rules."""

import json
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
        parser.add_argument("--again", action="store_true", help="also add plans that were removed")
        parser.add_argument("--json", action="store_true", help="print one JSON object: the names of what was added")

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic(using=configuration().database):
            made = [*defaults.install(again=options["again"]), *default_rules.install()]
        if options["json"]:
            self.stdout.write(json.dumps({"made": made}))
        else:
            self.stdout.write("\n".join(f"made {name}" for name in made) or "Nothing to add.")
