"""The one table of conditions. Verdict, readiness, health, alerts and metrics are views of it and do not judge again.

::

    gathering ──► Facts ──► CONDITIONS ──► observations ──► verdict, readiness, health, alerts, metrics
    (reads)               (pure)

Each threshold is a constant of the module of its subject; an alert rule may use a threshold of its own. A new condition is a
function with `condition` in the module of its subject, and an entry below.
"""

import functools
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.utils.module_loading import import_string

from backups.conf import configuration
from backups.models import Severity
from backups.monitoring.facts import Facts

from . import backups, control, evidence, plans, repositories, restores, workers
from .condition import Condition, Level, Observation

__all__ = [
    "BUILT_IN",
    "CONDITIONS",
    "Condition",
    "Level",
    "Observation",
    "conditions",
    "gather_more",
    "guarded",
    "observe",
    "present",
]

CONDITIONS: tuple[Condition, ...] = (
    backups.failing,
    backups.no_proven_backup,
    backups.dated_ahead,
    backups.content_lost,
    backups.newest_damaged,
    backups.newest_incomplete,
    backups.newest_unproven,
    plans.too_rare,
    plans.no_plan,
    workers.worker_silent,
    workers.worker_never_started,
    repositories.repository_missing,
    repositories.backups_missing,
    evidence.journal_changed,
    evidence.holds_changed,
    evidence.proofs_lost,
    evidence.key_lost,
    evidence.unsigned,
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
    plans.missed,
    plans.never_due,
    plans.refused,
    workers.job_silent,
    workers.jobs_waiting,
    workers.job_slow,
    workers.clock_jumped,
    control.audit_broken,
    control.emergency,
    control.approval_waits,
    control.approval_given,
    control.channel_failing,
    control.detector_broken,
)
"""In the order in which conditions of the same severity are shown."""

BUILT_IN = {one.name: one for one in CONDITIONS}
_ORDER = tuple(Severity.values)
_log = logging.getLogger(__name__)


@functools.cache
def _all(paths: tuple[str, ...]) -> dict[str, Condition]:
    return BUILT_IN | {one.name: one for one in map(import_string, paths)}


def conditions() -> dict[str, Condition]:
    """Every condition by name, those of ``BACKUPS["ALERT_DETECTORS"]`` included."""
    return _all(configuration().alert_detectors)


def gather_more(now: datetime) -> tuple[dict[str, Any], dict[str, str]]:
    """What the project's conditions gathered, by name; and which of them raised, and what."""
    more: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for one in conditions().values():
        if one.gather is not None:
            found = guarded(one.name, broken, functools.partial(one.gather, now))
            if one.name not in broken:
                more[one.name] = found
    return more, broken


def unjudged(now: datetime) -> set[str]:
    """The project's conditions of which it is not known whether they hold: nothing was checked yet, or the detector raised."""
    more, broken = gather_more(now)
    known = conditions()
    return {*broken, *(name for name, found in more.items() if (test := known[name].unknown) is not None and test(found))}


def guarded(name: str, broken: dict[str, str], call: Callable[[], Any]) -> Any:
    """What *call* returns; None if it raised, which is logged and noted in *broken*."""
    try:
        return call()
    except Exception as problem:  # noqa: BLE001  # a condition of the project must not silence the others
        _log.exception("The detector %s raised", name)
        broken[name] = f"{type(problem).__name__}: {problem}"[:300]
        return None


def observe(facts: Facts) -> list[Observation]:
    """All that holds by the conditions' own thresholds, the project's included, worst first, each code once for a subject."""
    seen: list[Observation] = []
    broken: dict[str, str] = {}
    for one in conditions().values():
        if one.name in BUILT_IN:
            observed = one.observe(facts)
        elif one.gather is None or one.name in facts.more:
            observed = guarded(one.name, broken, functools.partial(one.observe, facts)) or ()
        else:
            continue
        if observed and one.summarize is not None:
            summary = one.summarize(facts)
            observed = (one.complete(summary),) if summary is not None else ()
        seen += observed
    seen.sort(key=lambda observation: -_ORDER.index(observation.severity))
    first: dict[tuple[str, str], Observation] = {}
    for observation in seen:
        first.setdefault((observation.code, observation.subject), observation)
    return list(first.values())


def present(facts: Facts) -> list[Observation]:
    """What verdict, health and metrics show: `observe`, but before the first backup only what matters to making it."""
    seen = observe(facts)
    if facts.sets and all(one.newest is None and not one.missing for one in facts.sets):
        return [observation for observation in seen if conditions()[observation.kind].before_first_backup]
    return seen
