"""Due times of plans at which nothing ran: not served by a worker yet, or gaps in a plan's history."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, pairwise, takewhile

from backups.models import AuditEntry, Job, Plan

from .cron import slots

LATE = timedelta(minutes=2)
"""A due time this long ago that no worker has served is missed: workers look every 60 to 90 seconds."""

MOST = 50
"""Times listed of each plan."""

_LATELY = timedelta(days=1)
_MOST_ENTRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """The runs of a plan in the last day for which no worker was there; ``open`` while no later run has succeeded."""

    count: int = 0
    open: bool = False


def missed_lately(plans: Iterable[Plan], now: datetime) -> dict[str, Missed]:
    """The plans with missed runs, by name: runs that no worker has served yet, and runs that `scheduling` noted."""
    entries = AuditEntry.objects.filter(action="plan.missed").order_by("-number").values_list("target", "time", "after")
    noted: dict[str, tuple[int, datetime]] = {}
    for target, moment, after in entries[:_MOST_ENTRIES]:
        if now - moment < _LATELY:
            count, newest = noted.get(target, (0, moment))
            noted[target] = count + int((after or {}).get("count", 0)), newest
    found = {}
    for plan in plans:
        waiting = len(missed_slots(plan, now))
        count, newest = noted.get(f"plan:{plan.name}", (0, now))
        if count + waiting:
            open_ = bool(waiting) or not plan.jobs.filter(state=Job.State.SUCCEEDED, finished__gt=newest).exists()
            found[plan.name] = Missed(count=count + waiting, open=open_)
    return found


def missed_slots(plan: Plan, now: datetime) -> list[datetime]:
    """Due times of an enabled plan that no worker has served, at most `MOST`, oldest first."""
    if not plan.enabled:
        return []
    try:
        return _before(now - LATE, plan, plan.served)
    except ValueError:
        return []


def unserved_slots(plan: Plan, served: Iterable[datetime]) -> list[datetime]:
    """Due times between the *served* ones that have no job, newest first, at most `MOST`.

    The worker was down, the plan was paused, or the job before was still running.
    """
    found: list[datetime] = []
    try:
        for later, earlier in pairwise(sorted(served, reverse=True)):
            found += reversed(_before(later, plan, earlier))
    except ValueError:
        return []
    return found[:MOST]


def _before(end: datetime, plan: Plan, after: datetime) -> list[datetime]:
    return list(islice(takewhile(lambda slot: slot < end, slots(plan.cron, plan.time_zone, after)), MOST))
