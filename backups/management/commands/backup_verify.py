"""`manage.py backup_verify`: `refbackup verify` on the project's repository and stores."""

from backups.management.engine import EngineCommand


class Command(EngineCommand):
    """Verify backups."""

    verb = "verify"
