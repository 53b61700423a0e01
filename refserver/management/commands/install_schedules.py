"""`manage.py install_schedules`: the earlier name of `backup_plans_install`."""

from backups.management.commands.backup_plans_install import Command

__all__ = ["Command"]
