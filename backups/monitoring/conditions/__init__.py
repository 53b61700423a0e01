"""The one table of conditions. Verdict, readiness, health, alerts and metrics are views of it and do not judge again.

::

    gathering ──► Facts ──► CONDITIONS ──► observations ──► verdict, readiness, health, alerts, metrics
    (reads)               (pure)

Each threshold is a constant of the module of its subject; an alert rule may use a threshold of its own. A new condition is a
function with `condition` in the module of its subject, and an entry below.
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
    backups.failing,
    backups.no_proven_backup,
    backups.dated_ahead,
    backups.content_lost,
    backups.newest_damaged,
    backups.newest_unproven,
    plans.too_rare,
    plans.no_plan,
    workers.worker_silent,
    workers.worker_never_started,
    repositories.repository_missing,
    repositories.backups_missing,
    repositories.read_only,
    repositories.UNREADABLE,
    repositories.SOURCE_BROKEN,
    repositories.nearly_full,
    repositories.full_soon,
    restores.slow_restore,
    restores.drill_failed,
    restores.drill_overdue,
    backups.damage,
    plans.plan_failed,
    plans.never_due,
    plans.refused,
    workers.job_silent,
    workers.jobs_waiting,
    workers.job_slow,
    workers.clock_jumped,
    control.audit_broken,
    control.channel_failing,
    control.detector_broken,
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
    if facts.sets and all(one.newest is None and not one.missing for one in facts.sets):
        return [observation for observation in seen if BUILT_IN[observation.kind].before_first_backup]
    return seen
