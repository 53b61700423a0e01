"""`manage.py backup_token USER`: create a token of the REST API."""

import json
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser

from backups import moments
from backups.engine.errors import EngineError
from backups.identity import permissions, tokens
from backups.identity.audit import Actor
from backups.identity.permissions import SCOPES
from backups.models import Job


class Command(BaseCommand):
    """Prints the secret of a new token once; only its hash is stored."""

    help = "Create a token of the REST API and print its secret once. A token can never do more than its account."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="name of the account")
        parser.add_argument("--scope", action="append", required=True, choices=[*SCOPES], help="scope; repeatable")
        parser.add_argument("--days", type=int, default=90, metavar="N", help="days of validity (default: 90)")
        parser.add_argument("--no-expiry", action="store_true", help="valid until it is revoked")
        parser.add_argument("--name", default="", help="its purpose (default: its scopes)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["days"] <= 3650:
            raise CommandError("--days must be from 1 to 3650. No token was created.")
        users = get_user_model()._default_manager
        user: Any = users.filter(**{get_user_model().USERNAME_FIELD: options["user"]}).first()
        if user is None:
            raise CommandError(f"There is no account {options['user']!r}. No token was created.")
        if not user.is_active:
            raise CommandError(f"The account {options['user']} is not active. No token was created.")
        scopes = sorted(set(options["scope"]))
        expires = moments.now() + timedelta(days=options["days"]) if not options["no_expiry"] else None
        try:
            actor = Actor(name="manage.py", via=Job.Via.COMMAND)
            issued = tokens.issue_token(actor, user, (options["name"] or " ".join(scopes))[:120], scopes, expires)
        except EngineError as problem:
            raise CommandError(f"{problem.message} {problem.hint}") from None
        if options["json"]:
            answer = {"id": issued.token.pk, "secret": issued.secret, "scopes": scopes, "expires": expires}
            self.stdout.write(json.dumps(answer, default=str))
            return
        self.stdout.write(issued.secret)
        until = f"until {expires:%Y-%m-%d %H:%M} UTC" if expires else "without limit"
        self.stderr.write(f"Token {issued.token.pk} of {user.get_username()}, valid {until}. It is not shown again.")
        idle = [scope for scope in scopes if SCOPES[scope] and not any(permissions.may(user, one) for one in SCOPES[scope])]
        if idle:
            self.stderr.write(f"The account has no permission for these scopes: {', '.join(idle)}. Add it to a group that has.")
