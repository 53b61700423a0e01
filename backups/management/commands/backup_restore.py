"""`manage.py backup_restore`: `refbackup restore` on the project's repository and stores."""

from backups.management.engine import EngineCommand


class Command(EngineCommand):
    """Restore a backup, into a folder or in place."""

    verb = "restore"
