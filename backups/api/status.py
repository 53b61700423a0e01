"""Status, readiness, and ``GET /readyz``: the probe of load balancers, without login."""

from datetime import datetime
from typing import Literal

from django.contrib.auth import get_user_model
from django.db import DatabaseError, connections, router
from django.http import HttpResponseBase
from rest_framework.request import Request

from backups import moments
from backups.conf import configuration
from backups.jobs import queue
from backups.monitoring import readiness, verdict
from backups.monitoring.conditions.workers import is_silent
from backups.monitoring.gathering import worker_beat

from .operation import Operation, reply
from .schemas import ResponseModel

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
    missing: int
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
    state: Literal["met", "partly", "missed", "untested", "unknown"]
    points: int
    earned: float
    text: str
    todo: str
    page: str


class Readiness(ResponseModel):
    """Readiness for a recovery. `score` is out of 100; `level` is for programs, `sentence` for people."""

    at: datetime
    score: int
    level: Literal["ready", "gaps", "not_ready", "unknown"]
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


@Operation("backups.view_backup", responses={200: Status})
def show_status(request: Request) -> Status:
    """Show whether the data is protected, and why."""
    return Status.model_validate(verdict.now().as_json())


@Operation("backups.view_backup", responses={200: Readiness})
def show_readiness(request: Request) -> Readiness:
    """Show the readiness score, and how to fix each gap."""
    return Readiness.model_validate(readiness.now().as_json())


@Operation(public=True, responses={200: Ready, 503: Ready})
def readyz(request: Request) -> HttpResponseBase:
    """Check the databases, the queue, and this host's worker."""
    checks = {"database": _check_databases(), "queue": _check_queue(), "worker": _check_worker()}
    ready = all(check.ok for check in checks.values())
    return reply(Ready(status="ready" if ready else "not_ready", checks=checks), 200 if ready else 503)


def _check_databases() -> Check:
    for alias in dict.fromkeys((configuration().database, router.db_for_read(get_user_model()) or "default")):
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")
                cursor.fetchone()
        except DatabaseError:
            connections[alias].close_if_unusable_or_obsolete()
            return Check(ok=False, says=f"the database {alias} is not available")
    return Check(ok=True, says="available")


def _check_queue() -> Check:
    try:
        queue.broker(configuration().host).ping()
    except Exception:  # noqa: BLE001  # the exception depends on the broker
        return Check(ok=False, says="not available")
    return Check(ok=True, says="available")


def _check_worker() -> Check:
    try:
        beat = worker_beat(configuration().host)
    except DatabaseError:
        return Check(ok=False, says="unknown")
    if beat is None:
        return Check(ok=False, says="not started yet")
    now = moments.now()
    if is_silent(beat, now):
        return Check(ok=False, says=f"no heartbeat for {int((now - beat).total_seconds())} s")
    return Check(ok=True, says="running")
