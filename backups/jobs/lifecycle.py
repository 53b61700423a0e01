"""The life of a job: asked for, claimed by one worker, told of while it runs, ended in a true state.

Every step is one conditional ``UPDATE`` whose count of rows decides, so that two workers, two deliveries of one task, or a
worker that was given up for dead can never both go on.
"""

from __future__ import annotations

import secrets
import zlib
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from backups.conf import configuration
from backups.identity import audit
from backups.identity.audit import Actor
from backups.models import Job, JobLog, Plan, Worker

from .queue import nudge
from .signals import job_ended, job_started
from .types import BACKUP, JobType, job_type

RETRIED_CODES = frozenset({"failed", "source_busy", "repository_locked", "no_answer"})
"""Errors that a second try may mend. Damage, a full disk and a wrong setting stay."""

_PAUSES = (30, 120, 600)
"""Seconds before the second, third and every later try."""

SILENT_AFTER = timedelta(minutes=10)
"""A host whose workers gave no sign of life for so long is taken for gone, when a person says so by cancelling."""

_CLAIM_LOCK = 0x7265_6A6F  # "rejo": first half of PostgreSQL's advisory lock for claiming, the second half is the host


def enqueue(
    kind: JobType[Any],
    values: dict[str, Any],
    actor: Actor,
    *,
    note: str = "",
    plan: Plan | None = None,
    slot: datetime | None = None,
    host: str = "",
    attempts: int | None = None,
    limit: int | None = None,
) -> Job:
    """Make a job and nudge a worker once it is committed. Raises `UsageError` for wrong arguments."""
    found = configuration()
    arguments = kind.parse(values)
    kind.command(arguments, "")  # what cannot be run is refused now, with the same error
    repository, set_name = arguments.target(found)
    with transaction.atomic(using=found.database):
        job = Job.objects.create(
            kind=kind.name,
            arguments=arguments.model_dump(mode="json"),
            note=note[:500],
            via=actor.via,
            by=actor.name,
            by_id=actor.id,
            plan=plan,
            slot=slot,
            host=host or found.host,
            repository=repository,
            set=set_name,
            writes=kind.writes,
            attempts=attempts or kind.attempts,
            limit=limit or kind.limit,
            backup_id=str(values.get("backup_id") or ""),
        )
        audit.record(actor, f"{kind.name}.requested", f"job:{job.id}", after=job.arguments)
        nudge(job.host)
    return job


def claim(host: str, worker: str) -> Job | None:
    """Take the oldest job of *host* whose turn it is, or None: at most ``JOBS_AT_ONCE``, one writer a repository."""
    found = configuration()
    running = Job.objects.filter(state=Job.State.RUNNING, host=host)
    if running.count() >= found.jobs_at_once:
        return None
    for job in runnable(host, timezone.now())[:50]:
        token = secrets.token_hex(16)
        now = timezone.now()
        try:
            with transaction.atomic(using=found.database):
                _one_at_a_time(host)
                taken = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED).update(
                    state=Job.State.RUNNING, claim=token, worker=worker, started=now, heartbeat=now
                )
                # Counted again, now that no other worker of the host can be doing the same
                if taken and running.count() > found.jobs_at_once:
                    transaction.set_rollback(True, using=found.database)
                    return None
                if taken:
                    job.refresh_from_db()
                    job_started.send(Job, job=job)
        except IntegrityError:
            continue  # another job writes to that repository
        if taken:
            return job
    return None


def _one_at_a_time(host: str) -> None:
    """In a transaction: let the workers of a host claim one after the other. On SQLite the transaction has seen to that."""
    connection = connections[configuration().database]
    if connection.vendor == "postgresql":
        key = zlib.crc32(host.encode()) - (1 << 31)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_CLAIM_LOCK, key])


def runnable(host: str, now: datetime) -> QuerySet[Job]:
    """The jobs of *host* that could run now, in the order in which they were asked for; writers wait for the one that runs."""
    busy = Job.objects.filter(state=Job.State.RUNNING, writes=True).values("repository")
    return (
        Job.objects.filter(state=Job.State.QUEUED, host=host, not_before__lte=now)
        .exclude(Q(writes=True) & Q(repository__in=busy))
        .order_by("created", "id")
    )


def beat(job: Job, **values: Any) -> bool:
    """Note what is known of a running job. False when it is no longer this worker's: stop then."""
    mine = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, claim=job.claim)
    return bool(mine.update(heartbeat=timezone.now(), **values))


def say(job: Job, line: str, level: JobLog.Level = JobLog.Level.INFO) -> None:
    """Add a line to a job's log."""
    JobLog.objects.create(job=job, time=timezone.now(), level=level, line=line)


def end(
    job: Job,
    state: Job.State,
    *,
    exit_code: int | None = None,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    backup_id: str = "",
    by_claim: bool = True,
) -> bool:
    """Bring a running job to its final state, and make its next try where there is to be one. False: somebody else did."""
    with transaction.atomic(using=configuration().database):
        mine = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING)
        if by_claim:
            mine = mine.filter(claim=job.claim)
        values: dict[str, Any] = {"backup_id": backup_id} if backup_id else {}
        ended = mine.update(
            state=state, finished=timezone.now(), exit_code=exit_code, result=result, error=error, left=None, rate=0, **values
        )
        if not ended:
            return False
        job.refresh_from_db()
        actor = Actor(name=job.by, id=job.by_id, via=Job.Via(job.via))
        what = {"state": job.state, "backup": job.backup_id, "error": (error or {}).get("message")}
        audit.record(actor, f"{job.kind}.{state}", f"job:{job.id}", after=what)
        tried_again = wants_another_try(job)
        if tried_again:
            _try_again(job)
        job_ended.send(Job, job=job, retried=tried_again)
        nudge(job.host)
    return True


def wants_another_try(job: Job) -> bool:
    """Whether an ended job is to be tried again by itself. A backup that was published is not made twice."""
    if job.attempt >= job.attempts or job.cancel_asked is not None:
        return False
    if job.kind == BACKUP.name and job.backup_id:
        return False
    if job.state == Job.State.INTERRUPTED:
        return True
    return job.state == Job.State.FAILED and (job.error or {}).get("code") in RETRIED_CODES


def _try_again(job: Job) -> Job:
    pause = _PAUSES[min(job.attempt, len(_PAUSES)) - 1]
    again = Job.objects.create(
        kind=job.kind,
        arguments=job.arguments,
        note=job.note,
        via=job.via,
        by=job.by,
        by_id=job.by_id,
        plan=job.plan,
        slot=job.slot,
        host=job.host,
        repository=job.repository,
        set=job.set,
        writes=job.writes,
        attempt=job.attempt + 1,
        attempts=job.attempts,
        again_after=job,
        limit=job.limit,
        not_before=timezone.now() + timedelta(seconds=pause),
    )
    say(job, f"It is tried again in {pause} s, for the {again.attempt}. time of at most {again.attempts}.")
    return again


def cancel(job: Job, actor: Actor) -> Job:
    """End a waiting job now; ask a running one to end, which takes at most two seconds. An ended one stays as it is.

    A job on a host that has been silent for long (`SILENT_AFTER`) is given up: should it still run there, it is stopped when
    that host is back.
    """
    with transaction.atomic(using=configuration().database):
        now = timezone.now()
        asked: dict[str, Any] = {"cancel_asked": now, "cancel_by": actor.name}
        if Job.objects.filter(pk=job.pk, state=Job.State.QUEUED).update(state=Job.State.CANCELLED, finished=now, **asked):
            audit.record(actor, "job.cancelled", f"job:{job.id}")
            nudge(job.host)
        elif Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, cancel_asked=None).update(**asked):
            audit.record(actor, "job.cancel_asked", f"job:{job.id}")
        if Worker.objects.filter(host=job.host, beat__lt=now - SILENT_AFTER).exists():
            message = f"Given up by {actor.name}: its host {job.host} gave no sign of life. How far it came is not known."
            hint = "Look at the repository: what the job published is there."
            error = {"code": "interrupted", "message": message, "hint": hint}
            end(job, Job.State.INTERRUPTED, error=error, by_claim=False)
    job.refresh_from_db()
    return job


def again(job: Job, actor: Actor) -> Job:
    """A new job with the same kind and arguments. Raises `UsageError` when they no longer fit."""
    return enqueue(job_type(job.kind), job.arguments, actor, note=job.note, host=job.host)
