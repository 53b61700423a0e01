"""`manage.py return_access`: the earlier name of `backup_access_return`."""

from backups.management.commands.backup_access_return import Command

__all__ = ["Command"]
