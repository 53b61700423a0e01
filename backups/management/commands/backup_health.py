"""`manage.py backup_health`: the health checks, for monitoring."""

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from backups import moments
from backups.engine.progress import counted
from backups.monitoring import health


class Command(BaseCommand):
    """Exit codes are those of monitoring plug-ins: 0 fine, 1 warning, 2 critical."""

    requires_system_checks = ()  # problems are reported as findings, with their exit code
    help = "Check repository, backups, worker, jobs, plans and audit. Exit code 0 fine, 1 warning, 2 critical."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        found = health.run_checks(moments.now())
        if options["json"]:
            self.stdout.write(json.dumps(found.as_json()))
        else:
            findings = counted(len(found.findings), "finding") if found.findings else "no findings"
            self.stdout.write(f"{found.severity.upper()}: {findings} of {counted(len(found.checks), 'check')}.")
            for finding in found.findings:
                self.stdout.write(f"{finding.severity:8} {finding.message}")
                if finding.hint:
                    self.stdout.write(f"{'':8} -> {finding.hint}")
        if found.severity.exit_code:
            sys.exit(found.severity.exit_code)
