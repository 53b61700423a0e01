"""`manage.py backup_prune`: `refbackup prune` on the project's repository and stores."""

from backups.management.engine import EngineCommand


class Command(EngineCommand):
    """Remove backups that no retention rule keeps."""

    verb = "prune"
