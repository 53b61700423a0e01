"""`manage.py restore`: `refbackup restore` on the project's repository and stores."""

from __future__ import annotations

from backups.management.engine import EngineCommand


class Command(EngineCommand):
    """Bring a backup back, into a folder or in place."""

    verb = "restore"
    kind = "restore"
