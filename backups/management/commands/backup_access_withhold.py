"""`manage.py backup_access_withhold`: after a restore by `refbackup` or a script, deny accounts what they had lost before."""

from typing import Any

from django.core.management.base import BaseCommand

from backups.identity import audit
from backups.jobs import restored_accounts
from backups.jobs.job_type import Work


class Command(BaseCommand):
    """What a restore in place by a job or by `manage.py backup_restore` does at its end, for other restores."""

    help = (
        "Deny restored accounts what they had lost before the restore, as the control database remembers it. Run it after "
        "`refbackup restore --in-place` or disaster_recovery.sh, before the application starts."
    )
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        """Settle the accounts."""
        told: list[str] = []
        work = Work(key="unsettled", target="accounts", actor=audit.at_the_shell(), backup_id="", only="", warn=told.append)
        restored_accounts.settle(work, compared=False)
        for line in told:
            self.stderr.write(line)
        if not told:
            self.stdout.write("No account has more access than is remembered of it.")
