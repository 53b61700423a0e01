"""End jobs whose worker is gone; `leftovers` says what such a job made."""

import secrets
import time
from typing import Any

from django.db import transaction

from backups.conf import configuration
from backups.engine.runtime import processes
from backups.models import Job, JobLog

from . import completion, leftovers, lifecycle
from .types import RESTORE_IN_PLACE, job_types

_ENDS_WITHIN = 3.0
"""Seconds that the processes of a job without a worker have to end after the kernel's signal."""


def reconcile(host: str) -> list[Job]:
    """End the running jobs of *host* whose worker and processes are gone, and return them.

    Call this in workers only: from another container their processes cannot be seen. A restore in place that outlives its
    worker is left alone until its process has ended.
    """
    running = Job.objects.filter(state=Job.State.RUNNING, host=host)
    return [job for job in running if not processes.alive(job.worker) and _is_over(job) and _end(job)]


def _is_over(job: Job) -> bool:
    deadline = time.monotonic() + _ENDS_WITHIN
    while processes.of_job(str(job.pk)):
        if time.monotonic() > deadline:
            kind = job_types().get(job.kind)
            return kind is not None and kind.killable and processes.end_all_of_job(str(job.pk), within=_ENDS_WITHIN)
        time.sleep(0.05)
    return True


def _end(job: Job) -> bool:
    """Bring the job to its end as the runner does. False when another worker reconciles it."""
    if not _take_over(job):
        return False
    result = leftovers.published(job)
    leftovers.clear(job)
    if result is not None:
        state, backup_id = Job.State.SUCCEEDED, str(result["id"])
    else:
        state, backup_id = Job.State.CANCELLED if job.cancel_asked else Job.State.INTERRUPTED, ""
    job.state, job.result, job.backup_id = state, result, backup_id or job.backup_id
    job.error = _error(job)
    completion.complete(job)
    with transaction.atomic(using=configuration().database):  # the end is never visible without its reason
        if not lifecycle.end(job, state, result=result, error=job.error, backup_id=backup_id):
            return False
        lifecycle.say(job, _what_happened(job), JobLog.Level.ERROR if result is None else JobLog.Level.WARNING)
    if result is not None:
        completion.prove_later(job)
    return True


def _what_happened(job: Job) -> str:
    if job.state == Job.State.SUCCEEDED:
        return "The worker died after the work had been done; its result was found."
    if job.kind == RESTORE_IN_PLACE.name:
        return "The worker died. `refbackup doctor` shows whether a store was exchanged, and where the safety backup is."
    return "The worker died. What had been staged is removed now or by the next run."


def _take_over(job: Job) -> bool:
    """Claim the job, so that two workers do not complete it at the same time."""
    claim = secrets.token_hex(16)
    taken = Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, claim=job.claim).update(claim=claim)
    job.claim = claim
    return bool(taken)


def _error(job: Job) -> dict[str, Any] | None:
    if job.state == Job.State.SUCCEEDED:
        return None
    if job.state == Job.State.CANCELLED:
        return {"code": "cancelled", "message": f"Cancelled by {job.cancel_by or 'a user'}.", "hint": ""}
    message = "The worker died before the job ended: it was killed, or the machine stopped."
    return {"code": "interrupted", "message": message, "hint": leftovers.HINT}
