"""`manage.py preview_restore`: the earlier name of `backup_preview`."""

from backups.management.commands.backup_preview import Command

__all__ = ["Command"]
