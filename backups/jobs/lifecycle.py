"""The transitions of a job: queued, claimed by one worker, updated while it runs, ended, retried.

Each is one conditional ``UPDATE`` whose row count decides, so that two workers, two deliveries of one message, or a worker that
was taken for dead can never both go on. The signals are sent inside the transaction that changes the state, so that receivers
write with it or not at all; an exception of a receiver rolls the change back.
"""

import secrets
import uuid
import zlib
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, connections, transaction
from django.db.models import Q, QuerySet
from django.dispatch import Signal

from backups import moments
from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.engine.progress import duration
from backups.identity import audit
from backups.identity.audit import Actor
from backups.models import Job, JobLog, Plan, Worker

from .job_type import JobType
from .queue import nudge
from .types import BACKUP, job_type

job_started = Signal()
"""Sent with ``job`` when a worker has claimed it."""

job_ended = Signal()
"""Sent with ``job`` in its final state, and ``retried``: whether another attempt has been queued."""

RETRIED_CODES = frozenset({"failed", "source_busy", "repository_locked", "no_answer"})
"""Errors after which another attempt may succeed; damage, a full disk and wrong settings are not among them."""

_PAUSES = (30, 120, 600)
"""Seconds before the second, the third, and each later attempt."""

SILENT_AFTER = timedelta(minutes=10)
"""Cancelling a job gives it up when its host has had no heartbeat for this long."""

_KEPT = ("kind", "arguments", "note", "via", "by", "by_id", "plan", "slot", "host", "repository", "set", "writes")
"""Fields that another attempt has in common with the one before it, besides ``attempts`` and ``limit``."""

_CLAIM_LOCK = 0x7265_6A6F  # "rejo": first half of the PostgreSQL advisory lock for claiming; the second half is the host


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
    once: uuid.UUID | None = None,
) -> Job:
    """Queue a job, and wake a worker once it is committed. Raises `UsageError` for invalid arguments.

    *once* becomes the job's id: of any number of requests with the same one, however they overlap, the first queues the job and
    the others get it.
    """
    config = configuration()
    arguments = kind.parse(values)
    kind.command(arguments, "")  # refuses now what could not run later
    repository, set_name = arguments.target(config)
    job = Job(
        id=once or uuid.uuid4(),
        kind=kind.name,
        arguments=arguments.model_dump(mode="json"),
        note=note[:500],
        via=actor.via,
        by=actor.name,
        by_id=actor.id,
        plan=plan,
        slot=slot,
        host=host or config.host,
        repository=repository,
        set=set_name,
        writes=kind.writes,
        attempts=attempts or kind.attempts,
        limit=limit or kind.limit,
        backup_id=str(values.get("backup_id") or ""),
    )
    try:
        with transaction.atomic(using=config.database):
            job.save(force_insert=True)
            say(job, f"Requested by {job.by or 'the system'} ({job.get_via_display()}).")
            audit.record(actor, f"{kind.name}.requested", f"job:{job.id}", after=job.arguments)
            nudge(job.host)
    except IntegrityError:
        earlier = Job.objects.filter(pk=job.pk).first()
        if earlier is None:
            raise
        if (earlier.kind, earlier.arguments, earlier.by_id) != (job.kind, job.arguments, job.by_id):
            raise UsageError("This form has already been used. Nothing was queued.", hint="Load the page again.") from None
        return earlier
    return job


def claim(host: str, worker: str) -> Job | None:
    """Claim the oldest runnable job of *host*, or return None; at most ``JOBS_AT_ONCE``, one writer per repository."""
    config = configuration()
    running = Job.objects.filter(state=Job.State.RUNNING, host=host)
    if running.count() >= config.jobs_at_once:
        return None
    for job in runnable(host, moments.now())[:50]:
        token = secrets.token_hex(16)
        now = moments.now()
        try:
            with transaction.atomic(using=config.database):
                _lock_claims(host)
                taken = Job.objects.filter(pk=job.pk, state=Job.State.QUEUED).update(
                    state=Job.State.RUNNING, claim=token, worker=worker, started=now, heartbeat=now
                )
                # Count again, now that no other worker of the host can claim
                if taken and running.count() > config.jobs_at_once:
                    transaction.set_rollback(True, using=config.database)
                    return None
                if taken:
                    job.refresh_from_db()
                    say(job, f"Started on {host}.")
                    job_started.send(Job, job=job)
        except IntegrityError:
            continue  # another job writes to that repository
        if taken:
            return job
    return None


def _lock_claims(host: str) -> None:
    """In a transaction: serialize the claims of a host. On SQLite, ``BEGIN IMMEDIATE`` already does."""
    connection = connections[configuration().database]
    if connection.vendor == "postgresql":
        key = zlib.crc32(host.encode()) - (1 << 31)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_CLAIM_LOCK, key])


def runnable(host: str, now: datetime) -> QuerySet[Job]:
    """The jobs of *host* that could run now, oldest first; a writer waits while another one runs on its repository."""
    busy = Job.objects.filter(state=Job.State.RUNNING, writes=True).values("repository")
    return (
        Job.objects.filter(state=Job.State.QUEUED, host=host, not_before__lte=now)
        .exclude(Q(writes=True) & Q(repository__in=busy))
        .order_by("created", "id")
    )


def beat(job: Job, **values: Any) -> bool:
    """Update a running job and its heartbeat. False when it no longer belongs to this worker, which must then stop it."""
    row = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, claim=job.claim)
    return bool(row.update(heartbeat=moments.now(), **values))


def say(job: Job, line: str, level: JobLog.Level = JobLog.Level.INFO) -> None:
    """Add a line to a job's log."""
    JobLog.objects.create(job=job, time=moments.now(), level=level, line=line)


def end(
    job: Job,
    state: Job.State,
    *,
    exit_code: int | None = None,
    result: dict[str, Any] | None = None,
    error: dict[str, Any] | None = None,
    warning: dict[str, Any] | None = None,
    backup_id: str = "",
    by_claim: bool = True,
) -> bool:
    """End a running job, and queue another attempt if it is to be retried. False when it no longer runs."""
    with transaction.atomic(using=configuration().database):
        row = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING)
        if by_claim:
            row = row.filter(claim=job.claim)
        values: dict[str, Any] = {"backup_id": backup_id} if backup_id else {}
        values |= {"exit_code": exit_code, "result": result, "error": error, "warning": warning}
        ended = row.update(state=state, finished=moments.now(), left=None, rate=0, **values)
        if not ended:
            return False
        job.refresh_from_db()
        _say_end(job)
        after = {"state": job.state, "backup": job.backup_id, "error": (error or {}).get("message")}
        after |= {"warning": warning["message"]} if warning else {}
        audit.record(Actor.of(job), f"{job.kind}.{state}", f"job:{job.id}", after=after)
        retried = is_to_be_retried(job)
        if retried:
            _retry(job)
        job_ended.send(Job, job=job, retried=retried)
        nudge(job.host)
    return True


def _say_end(job: Job) -> None:
    """Add the outcome to the log, which commands that have nothing to report would leave empty."""
    error = job.error or job.warning or {}
    took = f" after {duration(job.took.total_seconds())}" if job.took is not None else ""
    made = f", backup {job.backup_id}" if job.backup_id and job.state == Job.State.SUCCEEDED else ""
    why = " ".join(str(error[part]) for part in ("message", "hint") if error.get(part))
    level = JobLog.Level.ERROR
    if job.state == Job.State.SUCCEEDED:
        level = JobLog.Level.WARNING if job.warning else JobLog.Level.INFO
    say(job, f"{job.get_state_display()}{took}{made}{f': {why}' if why else '.'}", level)


def is_to_be_retried(job: Job) -> bool:
    """Whether an ended job gets another attempt. A backup that was published does not."""
    if job.attempt >= job.attempts or job.cancel_asked is not None:
        return False
    if job.kind == BACKUP.name and job.backup_id:
        return False
    if job.state == Job.State.INTERRUPTED:
        return True
    return job.state == Job.State.FAILED and (job.error or {}).get("code") in RETRIED_CODES


def _retry(job: Job) -> None:
    pause = _PAUSES[min(job.attempt, len(_PAUSES)) - 1]
    again = Job.objects.create(
        **{name: getattr(job, name) for name in _KEPT},
        attempt=job.attempt + 1,
        attempts=job.attempts,
        again_after=job,
        limit=job.limit,
        not_before=moments.now() + timedelta(seconds=pause),
    )
    say(job, f"Attempt {again.attempt} of {again.attempts} follows in {pause} s.")


def cancel(job: Job, actor: Actor) -> Job:
    """Cancel a queued job now; request a running one to stop, which takes at most two seconds. Does nothing to an ended one.

    A running job of a host without a heartbeat (`SILENT_AFTER`) is given up; if it still runs, it is stopped once that host
    reaches the database again.
    """
    with transaction.atomic(using=configuration().database):
        now = moments.now()
        request: dict[str, Any] = {"cancel_asked": now, "cancel_by": actor.name}
        if Job.objects.filter(pk=job.pk, state=Job.State.QUEUED).update(state=Job.State.CANCELLED, finished=now, **request):
            audit.record(actor, "job.cancelled", f"job:{job.id}")
            say(job, f"Cancelled by {actor.name} before it started.", JobLog.Level.WARNING)
            nudge(job.host)
        elif Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, cancel_asked=None).update(**request):
            audit.record(actor, "job.cancel_asked", f"job:{job.id}")
        if Worker.objects.filter(host=job.host, beat__lt=now - SILENT_AFTER).exists():
            message = f"Given up by {actor.name}: the host {job.host} had no heartbeat. How far the job got is not known."
            hint = "Rescan the repository to see what the job published."
            error = {"code": "interrupted", "message": message, "hint": hint}
            end(job, Job.State.INTERRUPTED, error=error, by_claim=False)
    job.refresh_from_db()
    return job


def again(job: Job, actor: Actor) -> Job:
    """Queue a job with the same type and arguments. Raises `UsageError` when they are no longer valid."""
    return enqueue(job_type(job.kind), job.arguments, actor, note=job.note, host=job.host)
