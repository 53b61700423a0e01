"""`manage.py consistency_check`: compare rows with vectors; repair, resume and undo."""

import json
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from backups.engine.runtime.context import Progress, cancel_on_signals
from backups.engine.runtime.wording import counted
from consistency.checking import new_findings, run_check
from consistency.engine.context import Context
from consistency.engine.errors import ConsistencyError, Mistake
from consistency.engine.findings import FindingKind, State
from consistency.engine.findings import Repair as Action
from consistency.models import Check, Repair
from consistency.repairs.plan import plan_repair, unfinished
from consistency.repairs.repair import repair, resume
from consistency.repairs.undo import undo

FINDINGS = 5
"""The exit code if there are findings."""
_LISTED = 20
_COPIED = ("kinds", "severities", "in_flight", "records", "mappings", "seconds")


class Command(BaseCommand):
    """Checks; with an option, also repairs, or resumes or undoes a repair."""

    requires_system_checks = ()  # their warnings would mix with the lines of --progress json
    help = "Compare every row with its vector in Chroma. Exit code 0: consistent, 5: findings, 1: failed, 9: cancelled."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument(
            "--repair",
            choices=["safe", "all", "rows"],
            help="then apply the safe repairs or all repairs, or restore lost rows from backups, and check again",
        )
        what.add_argument("--resume", action="store_true", help="resume an interrupted repair, and check again")
        what.add_argument("--undo", type=int, metavar="REPAIR", help="restore what a repair replaced, and check again")
        parser.add_argument(
            "--of", type=int, metavar="CHECK", help="with --repair: the findings of that check, instead of a new one"
        )
        parser.add_argument(
            "--kind",
            choices=[kind.value for kind in FindingKind],
            action="append",
            help="with --repair: only findings of this kind",
        )
        parser.add_argument("--finding", type=int, action="append", metavar="N", help="with --repair: only this finding")
        parser.add_argument("--exit-zero", action="store_true", help="exit with 0 even if there are findings")
        parser.add_argument("--dry-run", action="store_true", help="with --repair: show what it would do")
        parser.add_argument("--unattended", action="store_true", help="with --repair: only if there are no critical findings")
        parser.add_argument("--actor", default="", help="who requested it, for the record")
        parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
        parser.add_argument("--progress", choices=["auto", "json", "none"], default="auto", help="progress, on standard error")

    def handle(self, *args: Any, **options: Any) -> None:
        with cancel_on_signals() as cancelled:
            on_progress, on_log = _reporters(options["progress"])
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
            raise Mistake(f"--{alone[0].replace('_', '-')} needs --repair.", hint="Use both.")
        if options["undo"] is not None:
            made = Repair.objects.filter(pk=options["undo"]).first()
            if made is None:
                raise Mistake(f"There is no repair {options['undo']}.", hint="`consistency_check --repair` prints its number.")
            return 0, *self._checked_again(undo(made, actor=options["actor"], ctx=ctx), options, ctx)[1:]
        if options["resume"]:
            made = unfinished().first()
            if made is None:
                return 0, {"repair": None}, "No repair is unfinished."
            return 0, *self._checked_again(resume(made, ctx=ctx), options, ctx)[1:]
        check = self._check(options, ctx)
        answer, text = self._check_answer(check), self._check_text(check)
        if options["repair"]:
            plan = plan_repair(
                check,
                only_safe=options["repair"] == "safe",
                restore_rows=options["repair"] == "rows",
                kinds=options["kind"] or (),
                findings=options["finding"] or (),
            )
            answer["plan"] = plan.as_json()
            if options["unattended"] and plan.critical:
                answer["left_alone"] = f"{counted(plan.critical, 'critical finding')}, so nothing was repaired automatically."
                text += f"\n{answer['left_alone']}"
            elif options["dry_run"] or (not plan.findings and options["of"] is None):
                asks = counted(plan.asks, "needs", "need")
                text += f"\n{counted(len(plan.findings), 'repair')} planned; {asks} confirmation, {plan.left} manual work."
                if Action.REBUILD_INDEX in plan.actions:
                    loses = counted(plan.without_row, "record")
                    text += f"\nRebuilding an index cannot be undone, and loses {loses} without a row."
            else:
                made = repair(plan, actor=options["actor"], attended=not options["unattended"], ctx=ctx)
                check, repaired, said = self._checked_again(made, options, ctx)
                answer |= repaired
                text += f"\n{said}"
        return (0 if check.verdict == State.CONSISTENT else FINDINGS), answer, text

    def _check(self, options: dict[str, Any], ctx: Context) -> Check:
        if options["of"] is None:
            return run_check(actor=options["actor"], ctx=ctx)
        check = Check.objects.filter(pk=options["of"]).first()
        if check is None:
            raise Mistake(f"There is no check {options['of']}.", hint="`consistency_check --json` prints its number.")
        return check

    def _checked_again(self, made: Repair, options: dict[str, Any], ctx: Context) -> tuple[Check, dict[str, Any], str]:
        """A new check, which opens and closes findings, and the answer about it and the repair *made*, as JSON and as text."""
        counts = made.counts()
        steps = ", ".join(f"{number} {state}" for state, number in counts.items())
        repaired = {"id": made.pk, "state": made.state, "steps": counts, "snapshot": made.snapshot}
        again = run_check(actor=options["actor"], ctx=ctx)
        text = f"Repair {made.pk} is {made.state}: {steps or 'no steps'}.\nChecked again:\n{self._check_text(again)}"
        return again, {"repair": repaired, "again": self._check_answer(again)}, text

    def _check_answer(self, check: Check) -> dict[str, Any]:
        return {
            "id": check.pk,
            "state": check.verdict,
            "findings": check.findings_count,
            **{name: getattr(check, name) for name in _COPIED},
            "new": new_findings(check).count(),
        }

    def _check_text(self, check: Check) -> str:
        lines = [f"{check.verdict}: {check.records:,} rows and records compared in {check.seconds:.1f} s."]
        lines += [f"  {number} {kind}" for kind, number in sorted(check.kinds.items())]
        lines += [f"  {check.in_flight} in flight"] if check.in_flight else []
        lines += [
            f"    {item.kind} {item.mapping} {item.record}: {item.message}" for item in check.findings.order_by("pk")[:_LISTED]
        ]
        more = check.findings_count + check.in_flight - _LISTED
        lines += [f"    and {more:,} more"] if more > 0 else []
        return "\n".join(lines)


def _reporters(style: str) -> tuple[Callable[[Progress], None], Callable[[str], None]]:
    """Functions that write progress and log lines to standard error."""
    if style == "none":
        return (lambda event: None), (lambda line: None)
    if style == "json":

        def write(message: dict[str, Any]) -> None:
            sys.stderr.write(json.dumps(message) + "\n")
            sys.stderr.flush()

        return (lambda event: write(event.as_json())), (lambda line: write({"event": "log", "line": line}))
    shown_at = 0.0

    def show(event: Progress) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if event.elapsed < 1.0 or (not event.finished and now - shown_at < 5.0):
            return
        shown_at = now
        of = f" of {event.total:,}" if event.total else ""
        sys.stderr.write(f"{event.operation}: {event.phase}: {event.done:,}{of} records, {event.rate:,.0f}/s\n")

    return show, lambda line: print(line, file=sys.stderr)  # noqa: T201
