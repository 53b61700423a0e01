"""`manage.py create_token`: the earlier name of `backup_token`."""

from backups.management.commands.backup_token import Command

__all__ = ["Command"]
