"""`manage.py backup_create`: `refbackup create` on the project's repository and stores."""

from backups.management.engine import EngineCommand


class Command(EngineCommand):
    """Back up the project's stores at one instant."""

    verb = "create"
