"""`manage.py import_plans`: the earlier name of `backup_plans_import`."""

from backups.management.commands.backup_plans_import import Command

__all__ = ["Command"]
