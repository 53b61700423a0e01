"""`manage.py remove_second_factor`: the earlier name of `backup_second_factor_remove`."""

from backups.management.commands.backup_second_factor_remove import Command

__all__ = ["Command"]
