"""The rules of a new installation, few enough to be read. A person may add more, one for any condition.

A condition that is only worth knowing, or that leads to another rule's alert (`REPORTED_BY`), has no rule. `audit-broken` has
one, because no other critical alert follows from it: the job that verifies the audit fails once a week, which is a warning.
"""

from dataclasses import dataclass

from django.utils.text import slugify

from backups.models import AlertRule, Severity
from backups.monitoring.conditions import BUILT_IN, conditions
from backups.monitoring.conditions.backups import LONG_OVERDUE_TIMES_RPO
from backups.monitoring.conditions.plans import FAILURES_AT_RISK
from backups.monitoring.conditions.repositories import HARDLY_ANY_PERCENT
from backups.monitoring.conditions.workers import AWAY_MINUTES


@dataclass(frozen=True, slots=True)
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


_CRITICAL = Severity.CRITICAL
_FAILED = "A scheduled job failed three times in a row"
_LATE = "No proven backup for three times the target"
_FULL = "A repository has hardly any space"
DEFAULTS = (
    Default("plan-failed", "plan_failed"),
    Default("plan-failed-thrice", "plan_failed", _FAILED, FAILURES_AT_RISK, severity=_CRITICAL),
    Default("no-proven-backup", "no_proven_backup", lasting=15),
    Default("no-proven-backup-for-long", "no_proven_backup", _LATE, LONG_OVERDUE_TIMES_RPO, lasting=15, severity=_CRITICAL),
    Default("last-backup-unproven", "unproven"),
    Default("last-backup-incomplete", "incomplete"),
    Default("content-lost", "content_lost", severity=_CRITICAL),
    Default("damage-found", "damage", severity=_CRITICAL),
    Default("worker-silent", "worker_silent", threshold=AWAY_MINUTES, severity=_CRITICAL),
    Default("job-slow", "job_slow"),
    Default("backups-missing", "backups_missing", severity=_CRITICAL),
    Default("journal-changed", "journal_changed", severity=_CRITICAL),
    Default("holds-changed", "holds_changed"),
    Default("proofs-lost", "proofs_lost"),
    Default("signing-key-lost", "key_lost", severity=_CRITICAL),
    Default("repository-away", "repository_away", lasting=2, severity=_CRITICAL),
    Default("repository-read-only", "read_only", lasting=2, severity=_CRITICAL),
    Default("repository-unreadable", "repository_unreadable", severity=_CRITICAL),
    Default("store-broken", "source_broken", severity=_CRITICAL),
    Default("space-low", "space", lasting=10, settle=30),
    Default("space-nearly-gone", "space", _FULL, HARDLY_ANY_PERCENT, settle=30, severity=_CRITICAL),
    Default("full-soon", "full_soon", lasting=60, settle=360),
    Default("drill-overdue", "drill_overdue", lasting=60),
    Default("drill-failed", "drill_failed", severity=_CRITICAL),
    Default("audit-broken", "audit_broken", severity=_CRITICAL),
    Default("emergency", "emergency", settle=0, severity=_CRITICAL),
    Default("approval-waits", "approval_waits", settle=0),
    Default("approval-given", "approval_given", settle=0),
    Default("clock-jumped", "clock_jumped"),
    Default("channel-unheard", "channel_unheard"),
    Default("detector-broken", "detector_broken", lasting=5),
)

REPORTED_BY = {
    "failing": "plan-failed",
    "dated_ahead": "clock-jumped",
    "newest_damaged": "damage-found",
    "plans": "no-proven-backup",
    "no_plan": "no-proven-backup",
    "worker_never_started": None,
    "slow_restore": None,
    "unsigned": None,
    "plan_missed": "worker-silent",
    "plan_never_due": "no-proven-backup",
    "plan_refused": "no-proven-backup",
    "stale_job": "worker-silent",
    "waiting_jobs": "no-proven-backup",
}
"""The conditions without a rule, and the rule that reports what follows.

None: without a worker no rule is evaluated, and a slow restore and an unsigned repository are for the overview. In the other
direction, `plan-failed` does not fire for a failure whose cause has a rule of its own (`conditions.plans`).
"""


def install() -> list[str]:
    """Create the missing rules, and one for each condition of the project. Existing rules are kept as they are.

    Returns the names of the new ones, each as ``alert NAME``; a second call creates nothing.
    """
    made = []
    known = conditions()
    further = [
        Default(slugify(one.name.replace("_", "-")), one.name, severity=Severity(one.severity))
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
