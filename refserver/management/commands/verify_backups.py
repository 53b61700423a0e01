"""`manage.py verify_backups`: the earlier name of `backup_verify`."""

from backups.management.commands.backup_verify import Command

__all__ = ["Command"]
