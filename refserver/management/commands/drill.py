"""`manage.py drill`: the earlier name of `backup_drill`."""

from backups.management.commands.backup_drill import Command

__all__ = ["Command"]
