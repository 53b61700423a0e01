"""A condition (``BACKUPS["ALERT_DETECTORS"]``): findings of the last consistency check."""

from collections.abc import Iterator
from datetime import datetime

from backups.engine.progress import counted
from backups.monitoring.conditions import Condition, Observation
from backups.monitoring.facts import Facts
from consistency.checking import changed_since
from consistency.engine.findings import Severity
from consistency.models import Check
from consistency.web.labels import KINDS


def last_check(now: datetime) -> tuple[Check, bool] | None:
    """The last check of the live stores that ended, and whether a repair changed them since; None if none has ended."""
    ended = Check.objects.filter(source=Check.LIVE, state__in=(Check.State.DONE, Check.State.FAILED))
    last = ended.order_by("-started").first()
    return None if last is None else (last, changed_since(last))


def _find(facts: Facts, threshold: float) -> Iterator[Observation]:
    found: tuple[Check, bool] | None = facts.more["consistency"]
    if found is None:
        return
    last, changed = found
    if changed:
        text = "A repair was made or undone after the last consistency check, so whether the stores agree is not known."
        yield Observation(subject="stores", text=text, todo="Check again.", link="consistency:overview")
        return
    if last.state == Check.State.FAILED:
        why = (last.error or {}).get("message") or "no message."
        yield Observation(subject="check", text=f"The last consistency check failed: {why}", todo="Run it again.")
        return
    serious = sum(count for severity, count in last.severities.items() if severity != Severity.INFO)
    if serious > threshold:
        worst = sorted(last.kinds.items(), key=lambda item: -item[1])[:5]
        kinds = ", ".join(f"{count:,} “{KINDS[kind][0]}”" for kind, count in worst)
        many = counted(serious, "finding")
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
    unknown=lambda found: found is None,
)
