"""Due times of plans at which nothing ran: not served by a worker yet, or gaps in a plan's history."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice, pairwise, takewhile

from backups.models import Plan

from .cron import slots

LATE = timedelta(minutes=3)
"""A due time this long ago that no worker has served is missed: workers look every minute."""

MOST = 50
"""Times listed of each plan."""


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
