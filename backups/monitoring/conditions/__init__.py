"""The one table of conditions. Verdict, readiness, health, alerts and metrics are views of it and do not judge again.

::

    gathering ──► Facts ──► CONDITIONS ──► observations ──► verdict, readiness, health, alerts, metrics
    (reads)               (pure)

Each threshold is a constant of the module of its subject; an alert rule may use a threshold of its own. A new condition is a
`Condition` in the module of its subject and an entry below.
"""

from __future__ import annotations

import functools

from django.utils.module_loading import import_string

from backups.conf import configuration
from backups.models import Severity
from backups.monitoring.facts import Facts

from . import backups, control, plans, repositories, restores, workers
from .condition import Condition, Level, Observation

__all__ = ["BUILT_IN", "CONDITIONS", "Condition", "Level", "Observation", "conditions", "observe", "present"]

CONDITIONS: tuple[Condition, ...] = (
    backups.FAILING,
    backups.NO_PROVEN_BACKUP,
    backups.DATED_AHEAD,
    backups.NEWEST_DAMAGED,
    backups.NEWEST_UNPROVEN,
    plans.TOO_RARE,
    plans.NO_PLAN,
    workers.WORKER_SILENT,
    workers.WORKER_NEVER_STARTED,
    repositories.REPOSITORY_MISSING,
    repositories.READ_ONLY,
    repositories.UNREADABLE,
    repositories.SOURCE_BROKEN,
    repositories.NEARLY_FULL,
    repositories.FULL_SOON,
    restores.SLOW_RESTORE,
    restores.DRILL_FAILED,
    restores.DRILL_OVERDUE,
    backups.DAMAGE,
    plans.PLAN_FAILED,
    plans.NEVER_DUE,
    plans.REFUSED,
    workers.JOB_SILENT,
    workers.JOBS_WAITING,
    workers.JOB_SLOW,
    workers.CLOCK_JUMPED,
    control.AUDIT_BROKEN,
    control.CHANNEL_FAILING,
    control.DETECTOR_BROKEN,
)
"""In the order in which conditions of the same severity are shown."""

BUILT_IN = {one.name: one for one in CONDITIONS}
_ORDER = tuple(Severity.values)


@functools.cache
def _all(paths: tuple[str, ...]) -> dict[str, Condition]:
    return BUILT_IN | {one.name: one for one in map(import_string, paths)}


def conditions() -> dict[str, Condition]:
    """Every condition by name, those of ``BACKUPS["ALERT_DETECTORS"]`` included."""
    return _all(configuration().alert_detectors)


def observe(facts: Facts) -> list[Observation]:
    """All that holds by the conditions' own thresholds, worst first, each code once for a subject."""
    seen: list[Observation] = []
    for one in CONDITIONS:
        observed = one.observe(facts)
        seen += (one.complete(one.summarize(facts)),) if observed and one.summarize is not None else observed
    seen.sort(key=lambda observation: -_ORDER.index(observation.severity))
    first: dict[tuple[str, str], Observation] = {}
    for observation in seen:
        first.setdefault((observation.code, observation.subject), observation)
    return list(first.values())


def present(facts: Facts) -> list[Observation]:
    """What verdict, health and metrics show: `observe`, but before the first backup only what matters to making it."""
    seen = observe(facts)
    if facts.sets and all(one.newest is None for one in facts.sets):
        return [observation for observation in seen if BUILT_IN[observation.kind].before_first_backup]
    return seen
