"""`manage.py backup_audit_verify`: verify the hash chain of the audit."""

import json
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand

from backups.identity import audit


class Command(BaseCommand):
    """Reports the first entry that was changed, with exit code 5."""

    help = "Verify the hash chain of the audit and report the first broken entry."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = "head printed by an earlier run: detects a truncated or rebuilt chain"
        parser.add_argument("--known", type=_head, metavar="NUMBER:HASH", help=what)
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        found = audit.verify_and_record(audit.at_the_shell(), options["known"])
        broken = found["broken"]
        head = "{number}:{hash}".format(**found["head"])
        if options["json"]:
            problems = (
                [{"code": "chain", "message": f"Entry {broken['number']} of the audit: {broken['why']}."}] if broken else []
            )
            self.stdout.write(json.dumps({"ok": broken is None, **found, "problems": problems}))
        elif broken:
            self.stderr.write(f"Entry {broken['number']}: {broken['why']}. Intact entries before it: {found['entries']:,}.")
            self.stderr.write("  -> An earlier backup of the control database has the original entry.")
        else:
            self.stdout.write(f"{found['entries']:,} entries, all intact.")
            self.stdout.write(f"Keep this elsewhere for the next run: --known {head}")
        if broken:
            sys.exit(5)


def _head(text: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text)
    if found is None:
        raise ArgumentTypeError("must be NUMBER:HASH with 64 hexadecimal digits")
    return int(found[1]), found[2]
