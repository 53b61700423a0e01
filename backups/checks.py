"""System checks of the project's settings, each with an id and a hint."""

import sqlite3
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from . import conf
from .engine.doctor import has_wal_reset_bug


@register(Tags.compatibility)
def setting(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that ``BACKUPS`` is present and valid."""
    given = getattr(settings, "BACKUPS", None)
    if given is None:
        return [Error("The setting BACKUPS is missing.", hint="See the docstring of backups.conf.", id="backups.E001")]
    return [Error(f"BACKUPS: {problem.rstrip('.')}.", id="backups.E002") for problem in conf.read(conf.given()).problems]


@register(Tags.database)
def databases(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that the control database exists, is separate from restored data, and waits for locks."""
    alias = conf.read(conf.given()).database
    database = settings.DATABASES.get(alias)
    if database is None:
        return [Error(f"BACKUPS['DATABASE'] is {alias!r}, which is not in DATABASES.", id="backups.E006")]
    messages: list[CheckMessage] = []
    if alias == "default":
        hint = "Use a separate database with a router, and name it in BACKUPS['DATABASE']."
        text = "A restore of the application's database would roll back jobs, plans and the audit with it."
        messages.append(Warning(text, hint=hint, id="backups.W001"))
    if database["ENGINE"].endswith("sqlite3") and database.get("OPTIONS", {}).get("transaction_mode") != "IMMEDIATE":
        hint = "Set OPTIONS['transaction_mode'] to IMMEDIATE, and OPTIONS['timeout'] to 20 or more."
        messages.append(Warning(f"Concurrent transactions of {alias!r} can fail immediately.", hint=hint, id="backups.W002"))
    return messages


@register(Tags.database, deploy=True)
def sqlite(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that SQLite has no WAL-reset bug; ``refbackup doctor`` checks the same."""
    if not has_wal_reset_bug(sqlite3.sqlite_version_info):
        return []
    hint = "Use SQLite 3.51.3, 3.50.7 or 3.44.6, or later. Until then, verify backups by restore."
    text = f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug: a busy database can lose committed pages."
    return [Warning(text, hint=hint, id="backups.W003")]
