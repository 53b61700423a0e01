"""`manage.py restore`: the earlier name of `backup_restore`."""

from backups.management.commands.backup_restore import Command

__all__ = ["Command"]
