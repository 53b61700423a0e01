"""`manage.py export_plans`: the earlier name of `backup_plans_export`."""

from backups.management.commands.backup_plans_export import Command

__all__ = ["Command"]
