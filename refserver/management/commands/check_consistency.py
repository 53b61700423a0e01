"""`manage.py check_consistency`: the earlier name of `consistency_check`."""

from consistency.management.commands.consistency_check import Command

__all__ = ["Command"]
