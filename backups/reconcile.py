"""Find jobs whose worker is gone and bring them to a true state.

A worker that is killed, a machine that is switched off: neither can say how its job ended. What is certain afterwards is what
the repository holds, so a backup that was published is found there by the job that its manifest names.
"""

from __future__ import annotations

import itertools

from . import jobs, processes
from .conf import configuration
from .engine.errors import EngineError
from .engine.types import Backup
from .index import note_job
from .kinds import BACKUP
from .models import Job, JobLog

_LOOK_BACK = 200
"""How many backups, from the newest, are searched for the one that a lost job published."""


def reconcile(host: str) -> list[Job]:
    """End the jobs of *host* that say they run, and whose worker and child are both gone. Returns them.

    A child that outlives its worker is being told to stop by the kernel; its job is left for the next look.
    """
    ended = []
    for job in Job.objects.filter(state=Job.State.RUNNING, host=host):
        if processes.alive(job.worker) or processes.alive(job.child):
            continue
        published = _published(job)
        if published is not None:
            jobs.say(job, "Its worker went away after the backup was published; it was found in the repository.")
            result = {"id": published.id, "kind": published.manifest.kind, "verification": published.verification}
            done = jobs.end(job, Job.State.SUCCEEDED, result=result, backup_id=published.id, by_claim=False)
        else:
            jobs.say(job, _what_is_known(job), JobLog.Level.ERROR)
            error = {
                "code": "interrupted",
                "message": "Its worker went away before the job had ended: it was killed, or the machine stopped.",
                "hint": "Nothing half-made is left in place. It is tried again if its plan says so; else run it again.",
            }
            done = jobs.end(job, Job.State.INTERRUPTED, error=error, by_claim=False)
        if done:
            note_job(job)
            ended.append(job)
    return ended


def _what_is_known(job: Job) -> str:
    if job.kind == "restore_in_place":
        return (
            "The worker went away. `refbackup doctor` says whether a store had been exchanged, and where the safety backup is."
        )
    return "The worker went away. The next run clears what had been staged."


def _published(job: Job) -> Backup | None:
    """The backup whose manifest names *job*, among the newest."""
    if job.kind != BACKUP.name or job.started is None:
        return None
    try:
        backups = configuration().open(job.repository).newest_first(job.set)
        for backup in itertools.islice(backups, _LOOK_BACK):
            if backup.manifest.job == str(job.pk):
                return backup
            if backup.manifest.finished < job.started:
                break
    except EngineError:
        return None
    return None
