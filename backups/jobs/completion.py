"""The work before and after a job's command. The worker, the reconciler and management commands call the same functions."""

import functools
import logging

from backups.catalog import index
from backups.identity.audit import Actor
from backups.models import Job, JobLog

from . import lifecycle
from .job_type import Work
from .types import BACKUP, VERIFY, job_types

_log = logging.getLogger(__name__)


def prepare(job: Job) -> Work:
    """Call the type's ``prepare``, and return what `complete` needs."""
    work = _work(job)
    job_types()[job.kind].prepare(work)
    return work


def complete(job: Job, work: Work | None = None) -> None:
    """Refresh the index after *job*, whose result and final state are set but not saved, and call the type's ``complete``.

    Called before the end is saved, so that a job that has ended is in the index even after a crash in between. *work* is what
    `prepare` returned; without it the type's hook finds out what it can. Raises ``DatabaseError``; other errors are logged.
    """
    work = work or _work(job)
    work.result = job.result
    index.note_job(job)
    try:
        if job.kind in job_types():
            job_types()[job.kind].complete(work)
    except OSError as problem:
        _log.warning("What %s changed cannot be read: %s", job, problem)


def prove_later(job: Job) -> Job | None:
    """Queue the verification of a backup whose process died after publishing it; None when none is wanted."""
    if job.kind != BACKUP.name or not job.backup_id or job.arguments.get("verify") == "none":
        return None
    if (job.result or {}).get("verification") not in (None, "none"):
        return None
    depth = job.arguments.get("verify") or ("hashes" if job.arguments["backup"] == "incremental" else "restore")
    arguments = {name: job.arguments[name] for name in ("repository", "set")}
    arguments |= {"backup_ids": [job.backup_id], "depth": depth}
    return lifecycle.enqueue(VERIFY, arguments, Actor.of(job), note=f"For {job}", host=job.host)


def _work(job: Job) -> Work:
    return Work(
        key=str(job.pk),
        target=f"job:{job.pk}",
        actor=Actor.of(job),
        backup_id=str(job.arguments.get("backup_id") or ""),
        only=str(job.arguments.get("only") or ""),
        warn=functools.partial(lifecycle.say, job, level=JobLog.Level.WARNING),
    )
