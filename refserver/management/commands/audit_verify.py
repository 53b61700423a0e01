"""`manage.py audit_verify`: the earlier name of `backup_audit_verify`."""

from backups.management.commands.backup_audit_verify import Command

__all__ = ["Command"]
