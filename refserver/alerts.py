"""The project's own condition (``BACKUPS["ALERT_DETECTORS"]``): findings of the last consistency check.

It is here because the apps `backups` and `consistency` do not import each other.
"""

from collections.abc import Iterator
from datetime import datetime

from backups.monitoring.conditions import Condition, Observation
from backups.monitoring.facts import Facts
from consistency.engine.findings import Severity
from consistency.models import Check


def last_check(now: datetime) -> Check | None:
    """The last check of the live stores that ended; None if none has."""
    ended = Check.objects.filter(source=Check.LIVE, state__in=(Check.State.DONE, Check.State.FAILED))
    return ended.order_by("-started").first()


def _find(facts: Facts, threshold: float) -> Iterator[Observation]:
    last: Check | None = facts.more["consistency"]
    if last is None:
        return
    if last.state == Check.State.FAILED:
        why = (last.error or {}).get("message") or "no message."
        yield Observation(subject="check", text=f"The last consistency check failed: {why}", todo="Run it again.")
        return
    serious = sum(count for severity, count in last.severities.items() if severity != Severity.INFO)
    if serious > threshold:
        worst = sorted(last.kinds.items(), key=lambda item: -item[1])[:5]
        kinds = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in worst)
        many = "1 finding" if serious == 1 else f"{serious:,} findings"
        text = f"SQLite and Chroma disagree: {many} ({kinds})."
        todo = "Review the findings, and plan a repair."
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
