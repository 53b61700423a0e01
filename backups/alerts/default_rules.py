"""The rules that are on from the start. `default_plans.install` makes those that are missing; what a person changed stays."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.text import slugify

from backups.models import AlertRule, Severity

from .detectors import detectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """A rule as it is made; without a threshold it takes the detector's own."""

    name: str
    kind: str
    title: str = ""
    threshold: float | None = None
    lasting: int = 0
    settle: int = 2
    severity: Severity = Severity.WARNING


DEFAULTS: tuple[Default, ...] = (
    Default(name="plan-failed", kind="plan_failed"),
    Default(
        name="plan-failed-thrice",
        kind="plan_failed",
        title="A plan failed three times in a row",
        threshold=3,
        severity=Severity.CRITICAL,
    ),
    Default(name="no-proven-backup", kind="no_proven_backup", lasting=15),
    Default(
        name="no-proven-backup-for-long",
        kind="no_proven_backup",
        title="No proven backup for three times as long as promised",
        threshold=3,
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
        threshold=3,
        settle=30,
        severity=Severity.CRITICAL,
    ),
    Default(name="full-soon", kind="full_soon", lasting=60, settle=360),
    Default(name="drill-overdue", kind="drill_overdue", lasting=60),
    Default(name="drill-failed", kind="drill_failed", severity=Severity.CRITICAL),
    Default(name="clock-jumped", kind="clock_jumped"),
    Default(name="channel-unheard", kind="channel_unheard"),
    Default(name="detector-broken", kind="detector_broken", lasting=5),
)


def install() -> list[str]:
    """Make the rules that are missing, one for each detector of the project too.

    Returns their names, each as ``alert NAME``; a second call makes nothing.
    """
    made = []
    known = detectors()
    own = {default.kind for default in DEFAULTS}
    further = [
        Default(name=slugify(one.name.replace("_", "-")), kind=one.name, severity=Severity(one.severity))
        for one in known.values()
        if one.name not in own
    ]
    for default in (*DEFAULTS, *further):
        detector = known[default.kind]
        values = {
            "title": default.title or detector.title,
            "kind": default.kind,
            "threshold": detector.default if default.threshold is None else default.threshold,
            "lasting_minutes": default.lasting,
            "settle_minutes": default.settle,
            "severity": default.severity,
            "builtin": True,
        }
        if AlertRule.objects.get_or_create(name=default.name, defaults=values)[1]:
            made.append(f"alert {default.name}")
    return made
