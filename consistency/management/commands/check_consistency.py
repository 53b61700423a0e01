"""`manage.py check_consistency`: rows against vectors, and repairs that can be undone."""

from __future__ import annotations

import json
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from consistency import services
from consistency.engine.context import Context, Progress
from consistency.engine.errors import ConsistencyError, Mistake
from consistency.engine.findings import FindingKind, State
from consistency.models import Check, Repair

FINDINGS = 5
"""The exit code of findings."""
_LISTED = 20


class Command(BaseCommand):
    """Checks, and with an option repairs, goes on with a repair, or undoes one."""

    requires_system_checks = ()  # their warnings would stand between the lines of --progress json
    help = "Compare every row with its vector in Chroma. Exit code 0: consistent, 5: findings, 1: failed, 9: cancelled."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take what to do, and how to tell of it."""
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--repair", choices=["safe", "all"], help="then repair what needs no question, or all that can be, and check again"
        )
        what.add_argument("--resume", action="store_true", help="go on with a repair that was cut short")
        what.add_argument("--undo", type=int, metavar="REPAIR", help="put back what a repair replaced")
        parser.add_argument(
            "--of", type=int, metavar="CHECK", help="with --repair: what that check found, instead of a new one"
        )
        parser.add_argument("--kind", choices=[*FindingKind], action="append", help="with --repair: only findings of that kind")
        parser.add_argument("--finding", type=int, action="append", metavar="N", help="with --repair: only that finding")
        parser.add_argument("--exit-zero", action="store_true", help="end with status 0 also when there are findings")
        parser.add_argument("--dry-run", action="store_true", help="with --repair: say what it would do")
        parser.add_argument("--unattended", action="store_true", help="with --repair: not when anything critical is found")
        parser.add_argument("--actor", default="", help="who asks for it, for the record")
        parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
        parser.add_argument("--progress", choices=["auto", "json", "none"], default="auto", help="progress, on standard error")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it; the exit code tells the outcome."""
        with _cancellable() as cancelled:
            on_progress, on_log = _shown(options["progress"])
            ctx = Context(on_progress=on_progress, on_log=on_log, should_cancel=cancelled)
            try:
                code, answer, text = self._do(options, ctx)
            except ConsistencyError as problem:
                if options["json"]:
                    self.stdout.write(json.dumps({"error": problem.as_json()}))
                    sys.exit(problem.exit_code)
                raise CommandError(f"{problem.message} {problem.hint}", returncode=problem.exit_code) from problem
        self.stdout.write(json.dumps(answer) if options["json"] else text)
        if code and not (options["exit_zero"] and code == FINDINGS):
            sys.exit(code)

    def _do(self, options: dict[str, Any], ctx: Context) -> tuple[int, dict[str, Any], str]:
        """The exit code, the answer as JSON, and as text."""
        alone = [name for name in ("dry_run", "unattended", "of", "kind", "finding") if options[name]]
        if alone and not options["repair"]:
            raise Mistake(f"--{alone[0].replace('_', '-')} says more of --repair.", hint="Give both.")
        if options["undo"] is not None:
            made = Repair.objects.filter(pk=options["undo"]).first()
            if made is None:
                raise Mistake(f"There is no repair {options['undo']}.", hint="`check_consistency --repair` prints its number.")
            return self._told(services.undo(made, actor=options["actor"], ctx=ctx))
        if options["resume"]:
            made = services.unfinished().first()
            if made is None:
                return 0, {"repair": None}, "No repair is unfinished."
            return self._told(services.resume(made, ctx=ctx))
        check = self._check(options, ctx)
        answer, text = self._check_answer(check), self._check_text(check)
        if options["repair"]:
            plan = services.plan_repair(
                check,
                only_safe=options["repair"] == "safe",
                kinds=options["kind"] or (),
                findings=options["finding"] or (),
            )
            answer["plan"] = plan.as_json()
            if options["unattended"] and plan.critical:
                answer["left_alone"] = f"{plan.critical} critical findings: nothing is repaired by itself then."
                text += f"\n{answer['left_alone']}"
            elif options["dry_run"] or (not plan.findings and options["of"] is None):
                text += f"\n{len(plan.findings)} repairs need no question, {plan.asks} ask, {plan.left} are left to you."
            else:
                made = services.repair(plan, actor=options["actor"], attended=not options["unattended"], ctx=ctx)
                _, repaired, said = self._told(made)
                again = services.run_check(actor=options["actor"], ctx=ctx)
                answer |= repaired | {"again": self._check_answer(again)}
                text += f"\n{said}\nAgain:\n{self._check_text(again)}"
                check = again
        return (0 if check.verdict == State.CONSISTENT else FINDINGS), answer, text

    def _check(self, options: dict[str, Any], ctx: Context) -> Check:
        """A new check, or the one that was named."""
        if options["of"] is None:
            return services.run_check(actor=options["actor"], ctx=ctx)
        check = Check.objects.filter(pk=options["of"]).first()
        if check is None:
            raise Mistake(f"There is no check {options['of']}.", hint="`check_consistency --json` prints its number.")
        return check

    def _told(self, made: Repair) -> tuple[int, dict[str, Any], str]:
        counts = made.counts()
        said = ", ".join(f"{number} {state}" for state, number in counts.items())
        answer = {"repair": {"id": made.pk, "state": made.state, "steps": counts, "snapshot": made.snapshot}}
        return 0, answer, f"Repair {made.pk} is {made.state}: {said or 'no steps'}."

    def _check_answer(self, check: Check) -> dict[str, Any]:
        return {
            "id": check.pk,
            "state": check.verdict,
            "findings": check.findings_count,
            "kinds": check.kinds,
            "severities": check.severities,
            "in_flight": check.in_flight,
            "records": check.records,
            "mappings": check.mappings,
            "seconds": check.seconds,
            "new": services.new_findings(check).count(),
        }

    def _check_text(self, check: Check) -> str:
        lines = [f"{check.verdict}: {check.records} rows and records compared in {check.seconds:.1f} s."]
        lines += [f"  {number} {kind}" for kind, number in sorted(check.kinds.items())]
        lines += [f"  {check.in_flight} in flight"] if check.in_flight else []
        lines += [
            f"    {item.kind} {item.mapping} {item.record}: {item.message}" for item in check.findings.order_by("pk")[:_LISTED]
        ]
        more = check.findings_count + check.in_flight - _LISTED
        lines += [f"    and {more} more"] if more > 0 else []
        return "\n".join(lines)


@contextmanager
def _cancellable() -> Iterator[Callable[[], bool]]:
    """Let SIGINT and SIGTERM end the work at its next question instead of at once."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(style: str) -> tuple[Callable[[Progress], None], Callable[[str], None]]:
    """How to show progress and log lines, on standard error."""
    if style == "none":
        return (lambda event: None), (lambda line: None)
    if style == "json":

        def tell(message: dict[str, Any]) -> None:
            sys.stderr.write(json.dumps(message) + "\n")
            sys.stderr.flush()

        return (lambda event: tell({"event": "progress", **asdict(event)})), (lambda line: tell({"event": "log", "line": line}))
    told = 0.0

    def show(event: Progress) -> None:
        nonlocal told
        now = time.monotonic()
        if event.elapsed < 1.0 or (not event.finished and now - told < 5.0):
            return
        told = now
        of = f" of {event.total:,}" if event.total else ""
        sys.stderr.write(f"{event.operation}: {event.phase}: {event.done:,}{of} records, {event.rate:,.0f} a second\n")

    return show, lambda line: print(line, file=sys.stderr)  # noqa: T201
