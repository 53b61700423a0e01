"""A check in a sentence, by kind of finding, and what a repair of it would do."""

from dataclasses import dataclass
from typing import Any

from django.db.models import Count

from backups.engine.runtime.wording import counted
from consistency.checking import changed_since, latest_live_check, new_findings, previous_check
from consistency.declaration import declared, option
from consistency.engine.errors import Mistake
from consistency.engine.findings import FindingKind, Severity, State
from consistency.models import Check, Finding
from consistency.repairs.plan import plan_repair
from consistency.web.labels import TONES

SEVERITIES = (Severity.CRITICAL, Severity.ERROR, Severity.WARNING)
"""The worst first; findings in flight (``info``) are not wrong."""

_MOST_NEW = 1000
_SENTENCES = {
    State.DEGRADED: "Rows and vectors agree, with warnings:",
    State.INCONSISTENT: "Rows and vectors do not agree:",
    State.CRITICAL: "SQLite holds invalid data:",
}
_NOUNS = {
    Severity.CRITICAL: ("critical", "critical"),
    Severity.ERROR: ("error", "errors"),
    Severity.WARNING: ("warning", "warnings"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The sentence that answers the page's question, with its colour."""

    tone: str
    word: str
    sentence: str


def present_verdict() -> Verdict:
    """Whether the live stores agree now: the result of the last check, unless a repair changed them after it."""
    last = latest_live_check()
    if last is not None and changed_since(last):
        sentence = "A repair was made or undone after the last check. Check again to know."
        return Verdict(tone="warn", word="Not known.", sentence=sentence)
    return verdict_of(last)


def verdict_of(check: Check | None) -> Verdict:
    """The result of a check, in a sentence."""
    if check is None:
        return Verdict(tone="", word="Not checked yet.", sentence="Rows and vectors were never compared.")
    compared = f"{check.records:,} rows and records"
    if check.verdict == State.CONSISTENT:
        in_flight = f" {counted(check.in_flight, 'vector is', 'vectors are')} in flight." if check.in_flight else ""
        return Verdict(tone="good", word="Rows and vectors agree.", sentence=f"All {compared} were compared.{in_flight}")
    findings = counted(check.findings_count, "finding", "findings")
    parts = [counted(check.severities[level], *_NOUNS[level]) for level in SEVERITIES if check.severities.get(level)]
    state = State(check.verdict)
    return Verdict(tone=TONES[state], word=_SENTENCES[state], sentence=f"{findings} in {compared} ({', '.join(parts)}).")


def summary_of(check: Check | None) -> dict[str, Any]:
    """A check's findings by kind, its repair plan, and how many findings are new."""
    if check is None:
        return {"rows": [], "plan": None}
    by_state: dict[str, dict[str, int]] = {}
    for kind, state, number in check.findings.order_by().values_list("kind", "state").annotate(Count("pk")):
        by_state.setdefault(kind, {})[state] = number
    severities: dict[str, set[str]] = {}
    repairs: dict[str, set[str]] = {}
    of_kinds = check.findings.order_by().values_list("kind", "severity", "repair").distinct()
    for kind, severity, repair in of_kinds:
        severities.setdefault(kind, set()).add(severity)
        if severity != Severity.INFO:
            repairs.setdefault(kind, set()).add(repair)
    kept = option("LISTED")
    rows = [
        {
            "kind": kind,
            "count": check.kinds[kind],
            "open": by_state.get(kind, {}).get(Finding.State.OPEN, 0),
            "severity": next((level for level in SEVERITIES if level in severities.get(kind, ())), Severity.INFO),
            "repairs": sorted(repairs.get(kind, ())),
            "kept": kept if check.kinds[kind] > kept else None,
        }
        for kind in FindingKind
        if check.kinds.get(kind)
    ]
    return {"rows": rows, "plan": plan_summary(check), "new": _count_new(check)}


def plan_summary(check: Check) -> dict[str, Any] | None:
    """What repairing the safe findings, or all of them, would do; None for a check of a backup or an unfinished one."""
    if check.source != Check.LIVE or check.state != Check.State.DONE:
        return None
    try:
        safe = plan_repair(check, only_safe=True)
        everything = plan_repair(check, only_safe=False)
    except Mistake:
        return None
    return {
        "safe": len(safe.findings),
        "all": len(everything.findings),
        "asks": len(everything.findings) - len(safe.findings),
        "rebuilds": everything.rebuilds,
        "without_row": everything.without_row,
        "deletions": len(everything.findings) - len(safe.findings) - everything.rebuilds,
        "left": everything.left,
        "lost": everything.lost,
        "critical": everything.critical,
        "snapshot": everything.snapshot,
        "actions": everything.actions,
        "of_kinds": everything.kinds,
        "writer": declared().writer is not None,
    }


def _count_new(check: Check) -> int | None:
    """How many findings the previous check did not have, at most `_MOST_NEW`; None if there was no previous check."""
    if previous_check(check) is None:
        return None
    return len(new_findings(check).order_by().values_list("pk", flat=True)[:_MOST_NEW])
