"""`manage.py withhold_access`: the earlier name of `backup_access_withhold`."""

from backups.management.commands.backup_access_withhold import Command

__all__ = ["Command"]
