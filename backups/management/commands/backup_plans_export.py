"""`manage.py backup_plans_export`: write the plans as YAML."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.models import Plan
from backups.plans import yaml_files


class Command(BaseCommand):
    """Writes to standard output; `backup_plans_import` reads it."""

    help = "Write the plans as YAML to standard output."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", nargs="*", help="names of plans (default: all)")

    def handle(self, *args: Any, **options: Any) -> None:
        plans = Plan.objects.all()
        if options["name"]:
            plans = plans.filter(name__in=options["name"])
            missing = sorted(set(options["name"]) - {plan.name for plan in plans})
            if missing:
                raise CommandError(f"There is no plan {', '.join(missing)}.", returncode=2)
        self.stdout.write(yaml_files.write(plans), ending="")
