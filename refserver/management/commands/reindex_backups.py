"""`manage.py reindex_backups`: the earlier name of `backup_reindex`."""

from backups.management.commands.backup_reindex import Command

__all__ = ["Command"]
