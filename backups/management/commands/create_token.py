"""Make a token of the REST interface."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from backups.engine.errors import EngineError
from backups.identity import permissions, tokens
from backups.identity.audit import Actor
from backups.identity.permissions import SCOPES
from backups.models import Job


class Command(BaseCommand):
    """Print the secret of a new token, this once: only its hash is kept."""

    help = "Make a token of the REST interface and print its secret, this once. It never grants more than its account may."

    def add_arguments(self, parser: CommandParser) -> None:
        """Account, scopes, and for how long."""
        parser.add_argument("user", help="name of the account")
        parser.add_argument(
            "--scope", action="append", required=True, choices=[*SCOPES], help="what it lets through; repeat it"
        )
        parser.add_argument("--days", type=int, default=90, metavar="N", help="how long it is good (default 90; 0: for ever)")
        parser.add_argument("--name", default="", help="what it is for (default: its scopes)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises `CommandError` for an account that is not there."""
        if not 0 <= options["days"] <= 36_500:
            raise CommandError("--days: give a number from 0 to 36500. No token was made.")
        users = get_user_model()._default_manager
        user = users.filter(**{get_user_model().USERNAME_FIELD: options["user"]}).first()
        if not isinstance(user, AbstractUser):
            raise CommandError(f"There is no account {options['user']!r}. No token was made.")
        if not user.is_active:
            raise CommandError(f"The account {options['user']} is not active. No token was made.")
        scopes = sorted(set(options["scope"]))
        expires = timezone.now() + timedelta(days=options["days"]) if options["days"] else None
        try:
            actor = Actor(name="manage.py", via=Job.Via.COMMAND)
            issued = tokens.issue_token(actor, user, (options["name"] or " ".join(scopes))[:120], scopes, expires)
        except EngineError as problem:
            raise CommandError(f"{problem.message} {problem.hint}") from None
        if options["json"]:
            told = {"id": issued.token.pk, "secret": issued.secret, "scopes": scopes, "expires": expires}
            self.stdout.write(json.dumps(told, default=str))
            return
        self.stdout.write(issued.secret)
        until = f"until {expires:%Y-%m-%d %H:%M} UTC" if expires else "for ever"
        self.stderr.write(f"Token {issued.token.pk} of {user.get_username()}, good {until}. It is not shown again.")
        idle = [scope for scope in scopes if SCOPES[scope] and not any(permissions.may(user, one) for one in SCOPES[scope])]
        if idle:
            self.stderr.write(
                f"The account has no right that these scopes let through: {', '.join(idle)}. Give it one by a group."
            )
