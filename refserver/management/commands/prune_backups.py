"""`manage.py prune_backups`: the earlier name of `backup_prune`."""

from backups.management.commands.backup_prune import Command

__all__ = ["Command"]
