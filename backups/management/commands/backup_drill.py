"""`manage.py backup_drill`: `refbackup drill` on the project's repository and stores."""

from backups.management.engine import EngineCommand


class Command(EngineCommand):
    """Test a restore and record the result."""

    verb = "drill"
