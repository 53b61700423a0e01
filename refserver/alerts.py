"""The project's own condition (``BACKUPS["ALERT_DETECTORS"]``): findings of the last consistency check.

It is here because the apps `backups` and `consistency` do not import each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from backups.monitoring.conditions import Condition, Observation
from backups.monitoring.facts import Facts
from consistency.engine.findings import Severity
from consistency.models import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCheck:
    """The last check of the live stores that ended: its error, or its findings by kind."""

    failed: str = ""
    findings: int = 0
    kinds: tuple[tuple[str, int], ...] = ()


def last_check(now: datetime) -> LastCheck | None:
    """The last check; None if none has ended."""
    ended = Check.objects.filter(source=Check.LIVE, state__in=(Check.State.DONE, Check.State.FAILED))
    check = ended.order_by("-started").first()
    if check is None:
        return None
    if check.state == Check.State.FAILED:
        return LastCheck(failed=str((check.error or {}).get("message") or "no message."))
    serious = sum(count for severity, count in check.severities.items() if severity != Severity.INFO)
    return LastCheck(findings=serious, kinds=tuple(sorted(check.kinds.items(), key=lambda item: -item[1])))


def _find(facts: Facts, threshold: float) -> Iterator[Observation]:
    last: LastCheck | None = facts.more["consistency"]
    if last is None:
        return
    todo = "Review the findings, and plan a repair."
    if last.failed:
        yield Observation(subject="check", text=f"The last consistency check failed: {last.failed}", todo="Run it again.")
    elif last.findings > threshold:
        kinds = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in last.kinds[:5])
        many = "1 finding" if last.findings == 1 else f"{last.findings:,} findings"
        text = f"SQLite and Chroma disagree: {many} ({kinds})."
        yield Observation(subject="stores", text=text, todo=todo, link="consistency:overview")


CONSISTENCY = Condition(
    name="consistency",
    title="SQLite and Chroma disagree",
    unit="findings",
    phrase="more than {:g} findings",
    default=0,
    find=_find,
    gather=last_check,
)
