"""`manage.py backup_access_return USER`: give an account what the last restore withheld from it."""

from argparse import ArgumentParser
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group, Permission
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from backups.identity import accounts, audit, known_accounts
from backups.models import KnownAccount


class Command(BaseCommand):
    """Makes an account active again, with the flags, groups and permissions that it had in the restored backup."""

    help = "Give an account the access that it had in a restored backup, and that the restore withheld. Passwords stay."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The account."""
        parser.add_argument("user", help="name of the account")

    def handle(self, *args: Any, **options: Any) -> None:
        """Give it back, with an audit entry."""
        name = options["user"]
        users = get_user_model()
        user: Any = users._default_manager.filter(**{users.USERNAME_FIELD: name}).first()
        if user is None:
            raise CommandError(f"There is no account {name!r}. Nothing was changed.")
        row = KnownAccount.objects.filter(username=name).exclude(withheld={}).first()
        if row is None:
            raise CommandError(f"No restore has withheld anything from {name}. Nothing was changed.")
        given = row.withheld
        with transaction.atomic(using=accounts.alias()):
            for column, flag in accounts.FLAGS.items():
                if flag in given["flags"]:
                    setattr(user, column, True)
            user.save()
            if given["groups"]:
                user.groups.add(*Group.objects.filter(name__in=given["groups"]))
            for app, _, codename in (full.partition(".") for full in given["permissions"]):
                user.user_permissions.add(*Permission.objects.filter(content_type__app_label=app, codename=codename))
        known_accounts.observe(accounts.read_live())
        KnownAccount.objects.filter(pk=row.pk).update(withheld={})
        audit.record(audit.at_the_shell(), "account.access_returned", f"account:{name}", after=given)
        told = [*given["flags"], *given["groups"], *given["permissions"]]
        self.stdout.write(f"{name} has again: {', '.join(told) or 'nothing but its data'}.")
        if given["password"] == "none":  # noqa: S105 - no password
            self.stdout.write(f"It needs a password: manage.py changepassword {name}")
