"""`manage.py make_admin`: create the first administrator."""

import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction


class Command(BaseCommand):
    """Creates an administrator if there is none. An existing one is never changed."""

    help = (
        "Create an administrator if there is none: REFSERVER_ADMIN_USER with REFSERVER_ADMIN_PASSWORD, "
        "or with a random password that is printed once."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        with transaction.atomic():
            users = get_user_model().objects
            existing = users.filter(is_superuser=True, is_active=True).order_by("pk").first()
            if existing is not None:
                self.stdout.write(f"{'Administrator':16} {existing.get_username()} (existing)")
                return
            name, given = settings.ADMIN_USER, settings.ADMIN_PASSWORD
            if users.filter(username=name).exists():
                raise CommandError(f"The account {name!r} is not an administrator; set another name in REFSERVER_ADMIN_USER.")
            if given:
                _require_good(given)
            password = given or secrets.token_urlsafe(15)
            users.create_superuser(username=name, email="", password=password)
        shown = "the password from REFSERVER_ADMIN_PASSWORD" if given else f"password {password}   <- shown only once"
        self.stdout.write(f"{'Administrator':16} {name}, {shown}")


def _require_good(password: str) -> None:
    try:
        validate_password(password)
    except ValidationError as error:
        raise CommandError(f"REFSERVER_ADMIN_PASSWORD is too weak: {' '.join(error.messages)}") from error
