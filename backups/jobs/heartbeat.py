"""Heartbeats of a host's workers: a file for the supervisor, and a row for pages and readiness.

The supervisor restarts a queue that has stopped working, so it must be able to read the heartbeat without the database.
"""

import contextlib
import os
from pathlib import Path

from backups import __version__, moments
from backups.conf import configuration
from backups.engine.runtime import processes
from backups.models import Worker


def heartbeat_file() -> Path:
    """The file whose modification time is the last heartbeat of this host's workers."""
    return configuration().run_folder / "worker.heartbeat"


def touch_heartbeat() -> None:
    """Touch the supervisor's file. Errors are ignored: a full disk must not stop the job that may free it."""
    path = heartbeat_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path)


def beat() -> None:
    """Touch the file and update the row."""
    touch_heartbeat()
    Worker.objects.update_or_create(
        host=configuration().host,
        defaults={"beat": moments.now(), "process": processes.current(), "version": __version__},
    )
