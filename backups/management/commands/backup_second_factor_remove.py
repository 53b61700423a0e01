"""`manage.py backup_second_factor_remove USER`: for a user who lost both the device and the recovery codes."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from backups.identity import audit, second_factor


class Command(BaseCommand):
    """Removes the device and the recovery codes of an account, with an audit entry."""

    help = "Remove the second factor of an account whose device and recovery codes are lost."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="name of the account")

    def handle(self, *args: Any, **options: Any) -> None:
        users = get_user_model()
        user = users._default_manager.filter(**{users.USERNAME_FIELD: options["user"]}).first()
        if user is None:
            raise CommandError(f"There is no account {options['user']!r}. Nothing was changed.")
        if not second_factor.remove(user, audit.at_the_shell()):
            raise CommandError(f"{options['user']} has no second factor. Nothing was changed.")
        self.stdout.write(f"The second factor of {options['user']} was removed; the password is enough to sign in.")
