"""Find jobs whose worker is gone and bring them to a true state (`traces` says what that is known from)."""

from __future__ import annotations

import time
from typing import Any

from backups.catalog.index import note_job
from backups.engine.runtime import processes
from backups.identity.audit import Actor
from backups.models import Job, JobLog

from . import leftovers, lifecycle
from .types import BACKUP, VERIFY, job_types

_ENDS_WITHIN = 3.0
"""Seconds for which the processes of a job without a worker, which the kernel told to stop, may take to end."""


def reconcile(host: str) -> list[Job]:
    """End the jobs of *host* that say they run, and whose worker and processes are gone. Returns them.

    Only for workers: from another container a worker's process cannot be seen. A restore in place that goes on without its
    worker is left alone until it has ended.
    """
    running = Job.objects.filter(state=Job.State.RUNNING, host=host)
    return [job for job in running if not processes.alive(job.worker) and _is_over(job) and _end(job)]


def prove_later(job: Job) -> Job | None:
    """Queue the proof of a backup that was published and whose process did not get to prove it. None where none is wanted."""
    if job.kind != BACKUP.name or not job.backup_id or job.arguments.get("verify") == "none":
        return None
    if (job.result or {}).get("verification") not in (None, "none"):
        return None
    depth = job.arguments.get("verify") or ("hashes" if job.arguments["backup"] == "incremental" else "restore")
    arguments = {"repository": job.arguments["repository"], "backup_ids": [job.backup_id], "depth": depth}
    actor = Actor(name=job.by, id=job.by_id, via=Job.Via(job.via))
    return lifecycle.enqueue(VERIFY, arguments | {"set": job.arguments["set"]}, actor, note=f"For {job}", host=job.host)


def _is_over(job: Job) -> bool:
    """Whether nobody works for it any more. Who does not end by himself is killed, where the kind allows it."""
    deadline = time.monotonic() + _ENDS_WITHIN
    while processes.of_job(str(job.pk)):
        if time.monotonic() > deadline:
            kind = job_types().get(job.kind)
            return kind is not None and kind.killable and processes.end_all_of_job(str(job.pk), within=_ENDS_WITHIN)
        time.sleep(0.05)
    return True


def _end(job: Job) -> bool:
    result = leftovers.published(job)
    leftovers.clear(job)
    note_job(job)
    if not _ended(job, result):
        return False  # another worker was faster
    if result is not None:
        lifecycle.say(job, "Its worker went away when the work had been done; what it made was found.", JobLog.Level.WARNING)
        prove_later(job)
    else:
        lifecycle.say(job, _what_is_known(job), JobLog.Level.ERROR)
    return True


def _ended(job: Job, result: dict[str, Any] | None) -> bool:
    if result is not None:
        backup_id = str(result["id"])
        return lifecycle.end(job, Job.State.SUCCEEDED, result=result, backup_id=backup_id, by_claim=False)
    if job.cancel_asked is not None:
        error = {"code": "cancelled", "message": f"Cancelled by {job.cancel_by or 'a person'}.", "hint": ""}
        return lifecycle.end(job, Job.State.CANCELLED, error=error, by_claim=False)
    error = {
        "code": "interrupted",
        "message": "Its worker went away before the job had ended: it was killed, or the machine stopped.",
        "hint": "Nothing half-made is left in place. It is tried again if its plan says so; else run it again.",
    }
    return lifecycle.end(job, Job.State.INTERRUPTED, error=error, by_claim=False)


def _what_is_known(job: Job) -> str:
    if job.kind == "restore_in_place":
        return (
            "The worker went away. `refbackup doctor` says whether a store had been exchanged, and where the safety backup is."
        )
    return "The worker went away. What had been staged is cleared now, or by the next run."
