"""`manage.py backups_worker`: the workers of this host; with ``--web`` also a web server."""

import shlex
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError

from backups import checks
from backups.jobs.heartbeat import heartbeat_file
from backups.jobs.types import environment, management
from backups.worker.pool import WorkerPool
from backups.worker.supervisor import Program, supervise

_STOP_WITHIN = 30.0
_DRAIN_WITHIN = 600.0
"""Seconds for running jobs to finish, before they are interrupted."""


class Command(BaseCommand):
    """Runs `backups.worker.pool`, which survives the death of its processes; Django-Q's own guard does not."""

    requires_system_checks = (Tags.compatibility, checks.TAG)  # a problem of the pages must not stop backups
    help = "Run the workers of this host until Ctrl-C or SIGTERM. Running jobs are finished; a second signal interrupts them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--workers", type=int, help="number of workers (default: two more than BACKUPS['JOBS_AT_ONCE'])")
        what = "also run this command, such as a web server, and restart it or the workers when they end or hang"
        parser.add_argument("--web", metavar="COMMAND", default="", help=what)

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["web"]:
            WorkerPool(options["workers"]).run()
            return
        workers = ["--workers", str(options["workers"])] if options["workers"] else []
        if not supervise(_programs(options["web"], workers), self._say):
            sys.exit(1)

    def _say(self, message: str) -> None:
        self.stderr.write(f"backups_worker: {message}", str)
        self.stderr.flush()


def _programs(web: str, workers: list[str]) -> list[Program]:
    try:
        command = shlex.split(web)
    except ValueError as problem:
        raise CommandError(f"--web {web}: {problem}. Nothing was started.") from None
    return [
        Program(name="web", command=command, environment={}, stop_within=_STOP_WITHIN),
        Program(
            name="worker",
            command=management("backups_worker", *workers),
            environment={**environment(), "PYTHONUNBUFFERED": "1"},
            stop_within=_STOP_WITHIN,
            drain_within=_DRAIN_WITHIN,
            heartbeat=heartbeat_file(),
        ),
    ]
