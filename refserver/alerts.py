"""What this project adds to the alerts: what consistency checks found (``BACKUPS["ALERT_DETECTORS"]``).

The two apps know nothing of each other, so it is the project that tells one of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from backups.alerts.detectors import Detector
from backups.alerts.facts import Facts
from backups.alerts.transitions import Detection
from consistency.engine.findings import Severity
from consistency.models import Check


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCheck:
    """The last check of the live stores that ended, and how many findings of each kind it has."""

    failed: str = ""
    findings: int = 0
    kinds: tuple[tuple[str, int], ...] = ()


def last_check(now: datetime) -> LastCheck | None:
    """Read it; None when there was none."""
    ended = Check.objects.filter(source=Check.LIVE, state__in=(Check.State.DONE, Check.State.FAILED))
    check = ended.order_by("-started").first()
    if check is None:
        return None
    if check.state == Check.State.FAILED:
        return LastCheck(failed=str((check.error or {}).get("message") or "It gave no answer."))
    serious = sum(count for severity, count in check.severities.items() if severity != Severity.INFO)
    return LastCheck(findings=serious, kinds=tuple(sorted(check.kinds.items(), key=lambda item: -item[1])))


def _find(facts: Facts, threshold: float) -> Iterator[Detection]:
    last: LastCheck | None = facts.more["consistency"]
    if last is None:
        return
    todo = "Look at what was found, and at the plan of a repair."
    if last.failed:
        yield Detection(subject="check", text=f"The last consistency check failed: {last.failed}", todo="Run it again.")
    elif last.findings > threshold:
        kinds = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in last.kinds[:5])
        many = "1 finding" if last.findings == 1 else f"{last.findings:,} findings"
        text = f"SQLite and Chroma do not agree: {many} ({kinds})."
        yield Detection(subject="stores", text=text, todo=todo, link="consistency:overview")


CONSISTENCY = Detector(
    name="consistency",
    title="SQLite and Chroma do not agree",
    unit="findings",
    phrase="more than {:g} findings",
    default=0,
    find=_find,
    gather=last_check,
)
