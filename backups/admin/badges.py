"""Badges on the navigation: which pages have something that needs attention, from the conditions behind the verdict."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from django.db import connections

from backups import moments
from backups.conf import configuration
from backups.models import Alert
from backups.monitoring.conditions import Level, Observation, present
from backups.monitoring.gathering import gather


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """How many conditions hold that a page is about; ``tone`` is that of the worst, ``title`` lists them."""

    count: int
    tone: str
    title: str


_FRESH = 15.0
_seen: dict[str, tuple[float, Sequence[Observation]]] = {}
"""Of each control database: when the conditions were last read, on the monotonic clock, and which held."""


def _conditions(now: Sequence[Observation] | None) -> Sequence[Observation]:
    """The conditions that hold *now*, or held up to `_FRESH` seconds ago: to find out reads dozens of rows, for each page."""
    database = str(connections[configuration().database].settings_dict["NAME"])
    at, held = _seen.get(database, (0.0, ()))
    if now is None and time.monotonic() - at < _FRESH:
        return held
    held = present(gather(moments.now())) if now is None else now
    _seen[database] = (time.monotonic(), held)
    return held


def badges(addresses: Sequence[str], alerts: str, now: Sequence[Observation] | None = None) -> dict[str, Badge]:
    """Badges by the *addresses* of pages; the first gets what no other page is about, and *alerts* what fires.

    *now* are the conditions that hold, if the page has just found out.
    """
    found: dict[str, list[Observation]] = {}
    for one in _conditions(now):
        if one.level is not Level.PROTECTED:
            fitting = (address for address in addresses if one.address.startswith(address))
            found.setdefault(max(fitting, key=len, default=addresses[0]), []).append(one)
    made = {
        address: Badge(
            count=len(seen),
            tone="bad" if any(one.level is Level.UNPROTECTED for one in seen) else "warn",
            title=" ".join(one.text for one in seen),
        )
        for address, seen in found.items()
    }
    firing = Alert.objects.filter(fired__isnull=False, resolved=None, acknowledged=None)
    severities = list(firing.values_list("severity", flat=True)[:100])
    if severities and alerts in addresses:
        tone = "bad" if "critical" in severities else "warn"
        made[alerts] = Badge(count=len(severities), tone=tone, title=f"{len(severities)} firing and not acknowledged")
    return made
