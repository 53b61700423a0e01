"""Health for monitoring systems: the conditions that hold, as findings with a severity and an exit code.

Beyond the facts that every view reads, `run_checks` probes repositories and stores, which takes longer than a page may. The
other views use what it found until the next health check.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from django.db import DatabaseError

from backups.catalog import index
from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.engine.types import SourceKind

from .conditions import CONDITIONS, Observation, conditions, present
from .facts import CHECK_FAILED, Probed
from .gathering import gather
from .stored import unavailable

ROOT = Path(__file__).resolve().parents[2]
DOCTOR_SECONDS = 600.0
"""Limit for checking the stores: `refbackup doctor` reads every page of a database."""


class Severity(StrEnum):
    """The scale of monitoring plug-ins."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def exit_code(self) -> int:
        """0, 1 or 2."""
        return [Severity.OK, Severity.WARNING, Severity.CRITICAL].index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A condition that needs attention, and what to do about it."""

    check: str
    code: str
    severity: Severity
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """All findings, worst first."""

    time: datetime
    findings: tuple[Finding, ...]
    checks: tuple[str, ...]

    @property
    def severity(self) -> Severity:
        """That of the worst finding."""
        return self.findings[0].severity if self.findings else Severity.OK

    def as_json(self) -> dict[str, Any]:
        """For programs; a job fails if ``problems`` is not empty."""
        found = [asdict(finding) for finding in self.findings]
        return {"status": self.severity.value, "time": self.time.isoformat(), "looked_at": list(self.checks), "problems": found}


def run_checks(now: datetime) -> Health:
    """Probe repositories and stores, read the facts, and report every condition of severity warning or critical.

    A probe that raises is a finding of its own. The index of backups is brought up to date first.
    """
    findings: list[Finding] = []
    probed: list[Probed] = []
    for name, probe in PROBES.items():
        try:
            probed += probe()
        except (EngineError, DatabaseError, OSError) as problem:
            findings.append(_failed(name, problem))
    try:
        findings += [_finding(one) for one in present(gather(now, tuple(probed))) if one.severity != "info"]
    except (EngineError, DatabaseError, OSError) as problem:
        findings.append(_failed("safety", problem))
    findings.sort(key=lambda finding: -finding.severity.exit_code)
    return Health(time=now, findings=tuple(findings), checks=CHECKS)


def _finding(seen: Observation) -> Finding:
    check, severity = conditions()[seen.kind].check, Severity(seen.severity)
    return Finding(check=check, code=seen.code, severity=severity, message=seen.text, hint=seen.todo)


def _failed(check: str, problem: Exception) -> Finding:
    message = str(getattr(problem, "message", None) or problem).rstrip(".")
    return Finding(
        check=check,
        code=CHECK_FAILED,
        severity=Severity.CRITICAL,
        message=f"The check {check} failed: {message}.",
        hint=getattr(problem, "hint", "") or "Check the database and the disk that it names.",
    )


def _repositories() -> Iterator[Probed]:
    """Rescans every repository that is available."""
    away = unavailable(configuration())  # a condition of its own
    for name in configuration().repositories:
        try:
            if name not in away:
                index.refresh(name)
        except EngineError as problem:
            message = f"The repository {name} cannot be read: {problem.message}"
            yield Probed(check="repositories", code=problem.code, subject=name, message=message, hint=problem.hint)


def _sources() -> Iterator[Probed]:
    """Checks every store with `refbackup doctor`, in a process of its own that holds no lock here."""
    config = configuration()
    stores = [source for name in config.sets for source in config.sources(name) if source.kind is not SourceKind.FILES]
    command = [sys.executable, "-m", "backups.engine", "doctor", "--json", "--progress", "none"]
    command += [f"--{source.kind}={source.name}={source.path}" for source in stores]
    paths = tuple(str(source.path) for source in stores)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DOCTOR_SECONDS, check=False)
        findings = json.loads(done.stdout)["findings"]
    except (subprocess.TimeoutExpired, ValueError, KeyError) as problem:
        raise EngineError(f"`refbackup doctor` failed: {problem}") from problem
    for one in findings:
        if one["level"] == "problem" and one["subject"].startswith(paths):  # repositories are probed above
            message = f"{one['subject']}: {one['message']}"
            yield Probed(check="sources", code="source_broken", subject=one["subject"], message=message, hint=one["advice"])


PROBES: dict[str, Callable[[], Iterator[Probed]]] = {"repositories": _repositories, "sources": _sources}
CHECKS = tuple(dict.fromkeys((*PROBES, *(one.check for one in CONDITIONS))))
