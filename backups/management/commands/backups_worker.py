"""`manage.py backups_worker`: the workers of this host."""

from argparse import ArgumentParser
from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand

from backups import checks
from backups.worker.pool import WorkerPool


class Command(BaseCommand):
    """Runs `backups.worker.pool`, which survives the death of its processes; Django-Q's own guard does not."""

    requires_system_checks = (Tags.compatibility, checks.TAG)  # a problem of the pages must not stop backups
    help = "Run the workers of this host until Ctrl-C or SIGTERM. Running jobs are finished; a second signal interrupts them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--workers", type=int, help="number of workers (default: two more than BACKUPS['JOBS_AT_ONCE'])")

    def handle(self, *args: Any, **options: Any) -> None:
        WorkerPool(options["workers"]).run()
