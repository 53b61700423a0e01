"""What a job left on disk when its process could not report its end: what it published, and partial files.

The process may have been killed, or the machine switched off. A backup names its job in its manifest; a restored folder appears
complete or not at all.
"""

import contextlib
import itertools
from datetime import timedelta
from pathlib import Path
from typing import Any

from backups import moments
from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.engine.restore.partial import clear_partials
from backups.models import Job

from .types import BACKUP, RESTORE

HINT = "Partial files are removed. Run it again, unless another attempt is queued."
"""What to do after an interrupted job."""

_SEARCHED = 200
"""Newest backups that are searched for the one that a job published."""

_CLOCKS_DIFFER = timedelta(days=1)
_LOCK_WITHIN = 0.5


def published(job: Job) -> dict[str, Any] | None:
    """What a job made, in the form of its command's answer; None when it made nothing."""
    if job.started is None:
        return None
    with contextlib.suppress(EngineError, OSError):
        if job.kind == BACKUP.name:
            return _published_backup(job)
        if job.kind == RESTORE.name:
            return _restored_folder(job)
    return None


def clear(job: Job) -> None:
    """Remove the partial files of a job whose processes are all gone. The next backup removes what this could not."""
    with contextlib.suppress(EngineError, OSError):
        if job.kind == RESTORE.name:
            clear_partials(_target(job).parent, lambda line: None)
    with contextlib.suppress(EngineError, OSError):
        repository = configuration().open(job.repository)
        if job.child:
            repository.clear_scratch(int(job.child.split(":")[1]))
        if job.writes:
            with repository.writing("clearing up", moments.now(), wait=_LOCK_WITHIN):
                repository.clear_debris()


def _published_backup(job: Job) -> dict[str, Any] | None:
    assert job.started is not None
    for backup in itertools.islice(configuration().open(job.repository).newest_first(job.set), _SEARCHED):
        if backup.manifest.job == str(job.pk):
            return {"id": backup.id, "kind": backup.manifest.kind.value, "verification": backup.verification}
        if backup.manifest.finished < job.started - _CLOCKS_DIFFER:
            break
    return None


def _restored_folder(job: Job) -> dict[str, Any] | None:
    assert job.started is not None
    folder = _target(job)
    if not folder.is_dir() or folder.stat().st_ctime < job.started.timestamp():
        return None
    return {"id": job.arguments["backup_id"], "to": str(folder)}


def _target(job: Job) -> Path:
    return Path(configuration().restore_folder / job.arguments["folder"])
