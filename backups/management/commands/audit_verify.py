"""`manage.py audit_verify`: read the whole chain of the audit."""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.core.management.base import BaseCommand

from backups.identity import audit


class Command(BaseCommand):
    """Names the first entry that is not what was written. Exit code 5 when there is one."""

    help = "Verify the audit's hash chain; name the first broken link."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take a hash that was noted earlier."""
        what = "an earlier head, as this command prints it: finds entries that were cut off at the end, or a chain made anew"
        parser.add_argument("--known", type=_head, metavar="NUMBER:HASH", help=what)
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Verify, and say what to keep elsewhere."""
        found = audit.verify_and_record(audit.at_the_shell(), options["known"])
        broken = found["broken"]
        head = "{number}:{hash}".format(**found["head"])
        if options["json"]:
            problems = (
                [{"code": "chain", "message": f"Entry {broken['number']} of the audit: {broken['why']}."}] if broken else []
            )
            self.stdout.write(json.dumps({"ok": broken is None, **found, "problems": problems}))
        elif broken:
            self.stderr.write(f"Entry {broken['number']}: {broken['why']}. {found['entries']:,} entries before it hold.")
            self.stderr.write("  -> Look at the control database's backups: one from before shows what was written.")
        else:
            self.stdout.write(f"{found['entries']:,} entries, each as it was written.")
            self.stdout.write(f"Keep this elsewhere, and give it next time: --known {head}")
        if broken:
            sys.exit(5)


def _head(text: str) -> tuple[int, str]:
    found = re.fullmatch(r"(\d{1,18}):([0-9a-f]{64})", text)
    if found is None:
        raise ArgumentTypeError("give NUMBER:HASH, with 64 hexadecimal digits")
    return int(found[1]), found[2]
