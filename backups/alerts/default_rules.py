"""The rules of a new installation, few enough to be read. A person may add more, one for any condition.

A condition that is only worth knowing, or that leads to another rule's alert (`REPORTED_BY`), has no rule. `audit-broken` has
one, because no other critical alert follows from it: the job that verifies the audit fails once a week, which is a warning.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.text import slugify

from backups.models import AlertRule, Severity
from backups.monitoring.conditions import BUILT_IN, conditions
from backups.monitoring.conditions.backups import LONG_OVERDUE_TIMES_RPO
from backups.monitoring.conditions.plans import FAILURES_AT_RISK

HARDLY_ANY_SPACE_PERCENT = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """A rule of a new installation. Without a title or a threshold it takes the condition's.

    The severity says how urgently people are notified; the condition's own says what it means for the data.
    """

    name: str
    kind: str
    title: str = ""
    threshold: float | None = None
    lasting: int = 0
    """Minutes."""
    settle: int = 2
    """Minutes."""
    severity: Severity = Severity.WARNING


DEFAULTS: tuple[Default, ...] = (
    Default(name="plan-failed", kind="plan_failed"),
    Default(
        name="plan-failed-thrice",
        kind="plan_failed",
        title="A scheduled job failed three times in a row",
        threshold=FAILURES_AT_RISK,
        severity=Severity.CRITICAL,
    ),
    Default(name="no-proven-backup", kind="no_proven_backup", lasting=15),
    Default(
        name="no-proven-backup-for-long",
        kind="no_proven_backup",
        title="No proven backup for three times the target",
        threshold=LONG_OVERDUE_TIMES_RPO,
        lasting=15,
        severity=Severity.CRITICAL,
    ),
    Default(name="last-backup-unproven", kind="unproven"),
    Default(name="damage-found", kind="damage", severity=Severity.CRITICAL),
    Default(name="worker-silent", kind="worker_silent", severity=Severity.CRITICAL),
    Default(name="job-slow", kind="job_slow"),
    Default(name="repository-away", kind="repository_away", lasting=2, severity=Severity.CRITICAL),
    Default(name="space-low", kind="space", lasting=10, settle=30),
    Default(
        name="space-nearly-gone",
        kind="space",
        title="A repository has hardly any space",
        threshold=HARDLY_ANY_SPACE_PERCENT,
        settle=30,
        severity=Severity.CRITICAL,
    ),
    Default(name="full-soon", kind="full_soon", lasting=60, settle=360),
    Default(name="drill-overdue", kind="drill_overdue", lasting=60),
    Default(name="drill-failed", kind="drill_failed", severity=Severity.CRITICAL),
    Default(name="audit-broken", kind="audit_broken", severity=Severity.CRITICAL),
    Default(name="clock-jumped", kind="clock_jumped"),
    Default(name="channel-unheard", kind="channel_unheard"),
    Default(name="detector-broken", kind="detector_broken", lasting=5),
)

REPORTED_BY = {
    "failing": "plan-failed",
    "dated_ahead": "clock-jumped",
    "newest_damaged": "damage-found",
    "plans": "no-proven-backup",
    "no_plan": "no-proven-backup",
    "worker_never_started": None,
    "read_only": "plan-failed-thrice",
    "repository_unreadable": "plan-failed-thrice",
    "source_broken": "plan-failed-thrice",
    "slow_restore": None,
    "plan_never_due": "no-proven-backup",
    "plan_refused": "no-proven-backup",
    "stale_job": "worker-silent",
    "waiting_jobs": "no-proven-backup",
}
"""The conditions without a rule, and the rule that reports what follows.

None: without a worker no rule is evaluated, and a slow restore is for the overview. `plan-failed-thrice` fires after three
hourly health checks or backups that failed.
"""


def install() -> list[str]:
    """Create the missing rules, and one for each condition of the project. Existing rules are kept as they are.

    Returns the names of the new ones, each as ``alert NAME``; a second call creates nothing.
    """
    made = []
    known = conditions()
    further = [
        Default(name=slugify(one.name.replace("_", "-")), kind=one.name, severity=Severity(one.severity))
        for one in known.values()
        if one.name not in BUILT_IN
    ]
    for default in (*DEFAULTS, *further):
        condition = known[default.kind]
        values = {
            "title": default.title or condition.title,
            "kind": default.kind,
            "threshold": condition.default if default.threshold is None else default.threshold,
            "lasting_minutes": default.lasting,
            "settle_minutes": default.settle,
            "severity": default.severity,
            "builtin": True,
        }
        if AlertRule.objects.get_or_create(name=default.name, defaults=values)[1]:
            made.append(f"alert {default.name}")
    return made
