"""Status, readiness, and the probe of load balancers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from .base import ResponseModel

Protection = Literal["protected", "at_risk", "unprotected"]


class Reason(ResponseModel):
    """A condition that lowers the level of protection, or that operators should know; `todo` says how to fix it."""

    code: str
    level: Protection
    text: str
    todo: str
    page: str


class Measure(ResponseModel):
    """An actual value and its target, in seconds; null while it is unknown."""

    seconds: float | None
    promised: float
    kept: bool


class Space(ResponseModel):
    """Bytes used by backups, and the space left on the disk that fills up first."""

    used: int
    free: int
    size: int
    full_in_days: float | None


class SuccessDay(ResponseModel):
    """Backups of one day."""

    day: str
    done: int
    failed: int


class Success(ResponseModel):
    """Outcome of the backups of the last 30 days."""

    done: int
    failed: int
    rate: float | None
    days: list[SuccessDay]


class Counts(ResponseModel):
    """Numbers of backups and jobs."""

    backups: int
    proven: int
    damaged: int
    running: int
    waiting: int


class NextRun(ResponseModel):
    """The next time of a plan."""

    time: datetime
    title: str
    plan: str
    kind: str


class Status(ResponseModel):
    """The level of protection, its reasons, and the figures behind it."""

    at: datetime
    level: Protection
    sentence: str
    reasons: list[Reason]
    recovery_point: Measure
    recovery_time: Measure
    space: Space
    success: Success
    counts: Counts
    newest_proven: str | None
    next: list[NextRun]


class ReadinessItem(ResponseModel):
    """One item of the readiness score. An untested item earns nothing."""

    code: str
    title: str
    state: Literal["met", "partly", "missed", "untested"]
    points: int
    earned: float
    text: str
    todo: str
    page: str


class Readiness(ResponseModel):
    """Readiness for a recovery. `score` is out of 100; `level` is for programs, `sentence` for people."""

    at: datetime
    score: int
    level: Literal["ready", "gaps", "not_ready"]
    sentence: str
    items: list[ReadinessItem]


class Check(ResponseModel):
    """One check of the probe."""

    ok: bool
    says: str


class Ready(ResponseModel):
    """Whether this process can respond, and whether a worker takes the jobs that it queues."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, Check]
