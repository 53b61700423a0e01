"""`manage.py backup`: the earlier name of `backup_create`."""

from backups.management.commands.backup_create import Command

__all__ = ["Command"]
