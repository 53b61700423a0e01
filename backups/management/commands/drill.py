"""`manage.py drill`: `refbackup drill` on the project's repository and stores."""

from __future__ import annotations

from backups.management.engine import EngineCommand


class Command(EngineCommand):
    """Restore a backup for a test, and record it."""

    verb = "drill"
    kind = "drill"
