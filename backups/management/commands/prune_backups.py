"""`manage.py prune_backups`: `refbackup prune` on the project's repository and stores."""

from __future__ import annotations

from backups.management.engine import EngineCommand


class Command(EngineCommand):
    """Remove what no rule keeps."""

    verb = "prune"
    kind = "prune"
