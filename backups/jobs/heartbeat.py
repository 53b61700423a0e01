"""Signs of life: a file that a host's workers touch, and a row that pages and readiness read.

The file is for the supervisor, which restarts a queue that has stopped working: it must be readable when the database is not.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from django.utils import timezone

from backups import __version__
from backups.conf import configuration
from backups.engine.runtime import processes
from backups.models import Worker


def heartbeat_file() -> Path:
    """The file whose time of change is the last sign of life of this host's workers."""
    return configuration().run_folder / "worker.heartbeat"


def touch_heartbeat() -> None:
    """Give a sign of life to the supervisor. A full disk is no reason to stop the job that might free it."""
    path = heartbeat_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path)


def beat() -> None:
    """Give a sign of life to everybody."""
    touch_heartbeat()
    Worker.objects.update_or_create(
        host=configuration().host,
        defaults={"beat": timezone.now(), "process": processes.current(), "version": __version__},
    )
