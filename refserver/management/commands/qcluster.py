"""`manage.py qcluster`: the earlier name of `backups_worker`."""

from backups.management.commands.backups_worker import Command

__all__ = ["Command"]
