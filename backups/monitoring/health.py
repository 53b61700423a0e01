"""Is all well? What `backup_health` looks at, each check a function that yields what it finds.

A check is a function of the present moment in `CHECKS`. It yields a `Finding` for what is not as it should be, and nothing when
all is well; one that breaks is itself a finding. So a further check is one function and one entry.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from django.db import DatabaseError

from backups.catalog import index
from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.engine.types import SourceKind
from backups.identity import audit
from backups.models import AuditEntry, Job, Plan
from backups.plans import cron

from . import verdict

STALE = timedelta(minutes=5)
"""A running job tells of itself twice a second. One that has been silent for longer has lost its worker."""

ROOT = Path(__file__).resolve().parents[2]
LONGEST_LOOK = 600.0
"""Seconds that the look at the stores may take: it reads every page of a database."""

WAITING = timedelta(hours=6)
"""A job that has waited for longer than any other runs is told of."""


class Severity(StrEnum):
    """How bad it is, as monitoring plug-ins count it."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        return [Severity.OK, Severity.WARNING, Severity.CRITICAL].index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be, and what to do about it."""

    check: str
    code: str
    severity: Severity
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All findings, the worst first."""

    time: datetime
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]

    @property
    def severity(self) -> Severity:
        """That of the worst finding."""
        return self.findings[0].severity if self.findings else Severity.OK

    def as_json(self) -> dict[str, Any]:
        """For programs; ``problems`` is what a job tells of."""
        found = [asdict(finding) for finding in self.findings]
        return {"status": self.severity.value, "time": self.time.isoformat(), "looked_at": list(self.checks), "problems": found}


Check = Callable[[datetime], Iterator[Finding]]


def run_checks(now: datetime) -> Health:
    """Run every check. Brings the index of backups up to date first, so that the others see what is there."""
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check(now)
        except (EngineError, DatabaseError, OSError) as problem:
            findings.append(
                Finding(
                    check=name,
                    code="check_failed",
                    severity=Severity.CRITICAL,
                    message=f"The check {name} could not be made: {getattr(problem, 'message', None) or problem}.".replace(
                        "..", "."
                    ),
                    hint=getattr(problem, "hint", "") or "Look at the database and the disk that it names.",
                )
            )
    findings.sort(key=lambda finding: -finding.severity.exit_code)
    return Health(time=now, findings=tuple(findings), checks=tuple(CHECKS))


def _repositories(now: datetime) -> Iterator[Finding]:
    """Each is there, can be written to, and its index is brought up to date."""
    for name, path in configuration().repositories.items():
        try:
            index.refresh(name)
        except EngineError as problem:
            yield Finding(
                check="repositories",
                code=problem.code,
                severity=Severity.CRITICAL,
                message=f"The repository {name} cannot be read: {problem.message}",
                hint=problem.hint,
            )
            continue
        if not os.access(path, os.W_OK | os.X_OK) or os.statvfs(path).f_flag & os.ST_RDONLY:
            yield Finding(
                check="repositories",
                code="read_only",
                severity=Severity.CRITICAL,
                message=f"The repository {name} cannot be written to ({path}).",
                hint="Mount it for writing, and let the worker's account write there.",
            )


def _sources(now: datetime) -> Iterator[Finding]:
    """Each store that is backed up is there and sound: `refbackup doctor` looks, in a process that holds no lock here."""
    found = configuration()
    stores = [source for name in found.sets for source in found.sources(name) if source.kind is not SourceKind.FILES]
    command = [sys.executable, "-m", "backups.engine", "doctor", "--json", "--progress", "none"]
    command += [f"--{source.kind}={source.name}={source.path}" for source in stores]
    paths = tuple(str(source.path) for source in stores)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_LOOK, check=False)
        told = json.loads(done.stdout)["findings"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as problem:
        raise EngineError(f"The stores could not be looked at: {problem}") from problem
    for one in told:
        if one["level"] == "problem" and one["subject"].startswith(paths):  # repositories are looked at above
            yield Finding(
                check="sources",
                code="source_broken",
                severity=Severity.CRITICAL,
                message=f"{one['subject']}: {one['message']}",
                hint=one["advice"],
            )


def _safety(now: datetime) -> Iterator[Finding]:
    """The verdict of the overview: recovery point and time, proofs, workers, space, plans that do not run."""
    severities = {verdict.Level.UNPROTECTED: Severity.CRITICAL, verdict.Level.AT_RISK: Severity.WARNING}
    for reason in verdict.verdict(verdict.gather(now), now).reasons:
        if reason.level in severities:
            yield Finding(
                check="safety", code=reason.code, severity=severities[reason.level], message=reason.text, hint=reason.todo
            )


def _jobs(now: datetime) -> Iterator[Finding]:
    """None hangs."""
    for job in Job.objects.filter(state=Job.State.RUNNING, heartbeat__lt=now - STALE):
        yield Finding(
            check="jobs",
            code="stale_job",
            severity=Severity.WARNING,
            message=f"The job {job} has given no sign of life since {job.heartbeat:%Y-%m-%d %H:%M} UTC.",
            hint="Its host's worker is gone or hangs; once it runs again it brings the job to an end.",
        )
    waiting = Job.objects.filter(state=Job.State.QUEUED, not_before__lt=now - WAITING)
    if waiting.exists():
        yield Finding(
            check="jobs",
            code="waiting_jobs",
            severity=Severity.WARNING,
            message=f"{waiting.count()} jobs have waited for more than {WAITING.total_seconds() / 3600:.0f} h.",
            hint="Look at what runs, and whether the worker of their host does.",
        )


def _plans(now: datetime) -> Iterator[Finding]:
    """Each can run: its times are times, and its last slot was not refused."""
    for plan in Plan.objects.filter(enabled=True):
        problem = cron.check(plan.cron, plan.time_zone)
        if problem:
            yield Finding(
                check="plans",
                code="plan_never_due",
                severity=Severity.WARNING,
                message=f"The plan {plan.name} is never due: {problem}.",
                hint="Correct its times.",
            )
        refused = AuditEntry.objects.filter(target=f"plan:{plan.name}", action="plan.refused").order_by("-number").first()
        if refused is not None and refused.time > plan.changed and not plan.jobs.filter(created__gt=refused.time).exists():
            yield Finding(
                check="plans",
                code="plan_refused",
                severity=Severity.WARNING,
                message=f"The plan {plan.name} could not run: {(refused.after or {}).get('error')}",
                hint="Correct what it is to do.",
            )


def _audit(now: datetime) -> Iterator[Finding]:
    """The last time that the chain was read as a whole, it was whole."""
    verified = audit.verified()
    broken = (verified.after or {}).get("broken") if verified is not None else None
    if broken:
        yield Finding(
            check="audit",
            code="audit_broken",
            severity=Severity.CRITICAL,
            message=f"The audit is not what was written, from entry {broken['number']} on: {broken['why']}.",
            hint="Somebody or something changed the control database. Compare it with its backups.",
        )


CHECKS: dict[str, Check] = {
    "repositories": _repositories,
    "sources": _sources,
    "safety": _safety,
    "jobs": _jobs,
    "plans": _plans,
    "audit": _audit,
}
