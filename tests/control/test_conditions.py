"""Conditions: each one is planted in the facts, and every view reports it alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backups.alerts.default_rules import DEFAULTS, REPORTED_BY
from backups.models import Severity
from backups.monitoring import health, metrics
from backups.monitoring.conditions import CONDITIONS, Condition, Level, conditions, present
from backups.monitoring.facts import (
    AuditBreak,
    BackupFact,
    Clock,
    DamagedBackup,
    Drills,
    EndedJob,
    Facts,
    FailingChannel,
    LossFact,
    NoticeFact,
    OpenApproval,
    PlanFact,
    Probed,
    RepositoryFact,
    RestoreFact,
    RunningJob,
    SetFact,
    WorkerFact,
)
from backups.monitoring.facts import Counts as Count
from backups.monitoring.readiness import ReadinessFacts, assess
from backups.monitoring.verdict import verdict

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
MAIN = RepositoryFact(name="main", free=500, size=1000)
PLAN = PlanFact(name="hourly", title="Hourly", kind="backup", set="default", next=NOW + timedelta(minutes=20))


def backup(*, proof: str = "restore", **ago: float) -> BackupFact:
    return BackupFact(id="20261125T110000Z-full-3f9c2a", kind="full", time=NOW - timedelta(**ago), verification=proof)


def of_set(newest: BackupFact | None, proven: BackupFact | None = None, **more: Any) -> dict[str, Any]:
    return {"sets": (SetFact(name="default", newest=newest, proven=proven, **more),)}


def job(minutes: float) -> EndedJob:
    return EndedJob(id="j", set="default", ok=False, finished=NOW - timedelta(minutes=minutes), message="The disk is full.")


def disk(**values: Any) -> dict[str, Any]:
    return {"repositories": (replace(MAIN, **values),)}


def noticed(code: str, **about: str) -> dict[str, Any]:
    return {"noticed": (NoticeFact(repository="main", code=code, text="Something was changed.", **about),)}


def plan(**values: Any) -> dict[str, Any]:
    return {"plans": (PLAN, PlanFact(**{"name": "other", "title": "Other", "kind": "verify", **values}))}


def running(**values: Any) -> dict[str, Any]:
    return {"running": (RunningJob(id="0b5f7d5e", kind="backup", **values),)}


UNPROTECTED = ("no_proven_backup", "repository_away", "repository_unreadable")
LEVELS = {"info": Level.PROTECTED, "warning": Level.AT_RISK, "critical": Level.AT_RISK}
FRESH = backup(minutes=14)
FINE = Facts(
    now=NOW,
    host="here",
    repositories=(MAIN,),
    plans=(PLAN,),
    workers=(WorkerFact(host="here", beat=NOW),),
    restores=(RestoreFact(seconds=8, time=NOW),),
    drills=Drills(last_good=NOW - timedelta(days=3)),
    **of_set(FRESH, FRESH),
)
PLANTED: dict[str, list[dict[str, Any]]] = {
    "failing": [of_set(FRESH, FRESH, jobs=(job(5),)), of_set(FRESH, FRESH, jobs=(job(5), job(9)))],
    "no_proven_backup": [
        of_set(None),
        of_set(None, missing=300),
        of_set(backup(minutes=5, proof="none")),
        of_set(backup(minutes=5, proof="damaged")),
        of_set(backup(hours=2), backup(hours=2)),
        of_set(backup(hours=9), backup(hours=9)),
        of_set(backup(hours=25), backup(hours=25)),
    ],
    "dated_ahead": [of_set(backup(hours=-5), backup(hours=-5))],
    "content_lost": [{"losses": (LossFact(id="b", set="default", losses="app has 0 rows, 200 in the backup before"),)}],
    "newest_damaged": [of_set(backup(minutes=5, proof="damaged"), FRESH)],
    "incomplete": [of_set(replace(FRESH, missing=2, first_missing="a is left out: it cannot be read"), FRESH)],
    "unproven": [of_set(backup(minutes=100, proof="none"), FRESH)],
    "plans": [{"plans": (replace(PLAN, enabled=False, next=None),)}, {"plans": (replace(PLAN, next=NOW + timedelta(days=1)),)}],
    "no_plan": [{"plans": (replace(PLAN, kind="verify"),)}],
    "worker_silent": [
        {"workers": (WorkerFact(host="here", beat=NOW - timedelta(minutes=6)),)},
        {"clocks": (Clock(host="here", silent_from=NOW - timedelta(minutes=50), silent_until=NOW),)},
    ],
    "worker_never_started": [{"workers": ()}],
    "repository_away": [disk(there=False)],
    "backups_missing": [disk(missing=300, missing_held=14, missing_named=("a", "b", "c"))],
    "journal_changed": [noticed("journal", set="default"), noticed("journal", set="a") | disk(name="second")],
    "holds_changed": [noticed("tampered_hold", set="default", backup="a")],
    "proofs_lost": [noticed("lost_proofs", set="default", backup="a")],
    "key_lost": [noticed("key_lost")],
    "unsigned": [noticed("unsigned")],
    "read_only": [disk(writable=False)],
    "repository_unreadable": [
        {"probed": (Probed(check="repositories", code="damaged", subject="main", message="Odd.", hint="Check it."),)}
    ],
    "source_broken": [
        {"probed": (Probed(check="sources", code="source_broken", subject="a", message="Odd.", hint="Check it."),)}
    ],
    "space": [disk(free=90)],
    "full_soon": [disk(grown_a_day=50)],
    "slow_restore": [{"restores": (RestoreFact(seconds=301, time=NOW),)}],
    "drill_failed": [{"drills": Drills(failed=NOW, failed_job="0b5f7d5e", message="A row is missing.")}],
    "drill_overdue": [{"drills": Drills(last_good=NOW - timedelta(days=9))}],
    "damage": [{"damaged": (DamagedBackup(id="b", set="default", problem=""),), "counts": Count(damaged=1)}],
    "plan_failed": [plan(failed_in_a_row=count, last_job="0b5f7d5e", message="It failed.") for count in (1, 3)],
    "plan_missed": [plan(missed=5), plan(missed=5, missed_open=True)],
    "plan_never_due": [plan(cron_problem="bad minute")],
    "plan_refused": [plan(refused="No set is named 'x'.")],
    "stale_job": [running(heartbeat=NOW - timedelta(minutes=6))],
    "waiting_jobs": [{"waiting_since": (NOW - timedelta(hours=7),)}],
    "job_slow": [running(heartbeat=NOW, seconds=4000, usual=900)],
    "clock_jumped": [{"clocks": (Clock(host="here", jumped=NOW, jumped_by=-7200),)}],
    "audit_broken": [{"audit_break": AuditBreak(entry=2, why="it is missing")}],
    "emergency": [{"approvals": (OpenApproval(id="a", title="Restore in place", by="ada", reason="x", emergency=True),)}],
    "approval_waits": [{"approvals": (OpenApproval(id="a", title="Restore in place", by="ada", reason="x"),)}],
    "approval_given": [{"approvals": (OpenApproval(id="a", title="Restore in place", by="ada", reason="x", decided_by="b"),)}],
    "channel_unheard": [{"failing_channels": (FailingChannel(name="ops", id=1, count=1, answer="404"),)}],
    "detector_broken": [{"broken": {"papers": "KeyError: 'x'"}}],
}


def test_every_condition_is_planted_and_has_a_name_of_its_own():
    assert list(PLANTED) == [one.name for one in CONDITIONS] and len(set(PLANTED)) == len(CONDITIONS)


def cases() -> Iterator[Any]:
    for one in CONDITIONS:
        for number, changes in enumerate(PLANTED[one.name]):
            yield pytest.param(one, changes, id=f"{one.name}-{number}")


@pytest.mark.parametrize(("condition", "changes"), list(cases()))
def test_every_view_reports_a_condition_alike(condition: Condition, changes: dict[str, Any], monkeypatch):
    assert present(FINE) == [] and verdict(FINE).level is Level.PROTECTED
    facts = replace(FINE, **changes)
    held = [one for one in present(facts) if one.kind == condition.name]
    (one,) = held
    severity = one.severity
    # Verdict
    answer = verdict(facts)
    (reason,) = [reason for reason in answer.reasons if reason.code == one.code]
    assert reason.level is one.level and reason.text and reason.todo
    unprotected = severity == Severity.CRITICAL and condition.name in UNPROTECTED
    assert one.level is (Level.UNPROTECTED if unprotected else LEVELS[severity])
    assert (answer.level is Level.PROTECTED) == (severity == Severity.INFO)
    # Health
    monkeypatch.setattr(health, "PROBES", {})
    monkeypatch.setattr(health, "gather", lambda now, probed: facts)
    found = health.run_checks(NOW)
    findings = [finding for finding in found.findings if finding.code == one.code]
    assert [finding.severity.value for finding in findings] == ([] if severity == Severity.INFO else [str(severity)])
    assert (found.severity.exit_code > 0) == (severity != Severity.INFO)
    # Metric
    samples = {(sample.labels["code"], sample.labels["severity"]) for sample in metrics._conditions(facts).samples}
    assert (one.code, str(severity)) in samples
    # Alerts: the rules of a new installation that fire are not red beside a green verdict, nor the other way round
    assert list(conditions()[condition.name].find(facts, condition.default))
    rules = [rule for rule in DEFAULTS if rule.kind == condition.name]
    fired = [
        rule for rule in rules if list(condition.find(facts, condition.default if rule.threshold is None else rule.threshold))
    ]
    assert bool(fired) != (condition.name in REPORTED_BY)
    critical = any(rule.severity == Severity.CRITICAL for rule in fired)
    assert not (critical and severity == Severity.INFO)
    other = [rule.severity for rule in DEFAULTS if rule.name == REPORTED_BY.get(condition.name)]
    assert critical or severity != Severity.CRITICAL or other == [Severity.CRITICAL]
    # Readiness never calls a site ready that the verdict calls unprotected for want of a proven backup
    if condition.name == "no_proven_backup":
        assert assess(facts, ReadinessFacts()).level != "ready"


def test_a_missing_repository_without_the_newest_proven_backup_is_a_risk_only():
    proven = replace(FRESH, repository="main")
    second = RepositoryFact(name="second", there=False)
    facts = replace(FINE, repositories=(MAIN, second), **of_set(proven, proven))
    assert verdict(facts).level is Level.AT_RISK
    facts = replace(facts, repositories=(replace(MAIN, there=False), replace(second, there=True)))
    assert verdict(facts).level is Level.UNPROTECTED


def test_conditions_without_a_rule_name_an_existing_one():
    assert {name for name in REPORTED_BY.values() if name} <= {rule.name for rule in DEFAULTS}
    assert {*REPORTED_BY} | {rule.kind for rule in DEFAULTS} == {one.name for one in CONDITIONS}
