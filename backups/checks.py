"""System checks of the project's settings, each with an id and a hint."""

import sqlite3
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from . import conf
from .engine.doctor import has_wal_reset_bug

LONGEST_JOB = 30 * 24 * 3600
"""Seconds; Django-Q's timeout must not be shorter."""


@register(Tags.compatibility)
def setting(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that ``BACKUPS`` is present and valid."""
    given = getattr(settings, "BACKUPS", None)
    if given is None:
        return [Error("The setting BACKUPS is missing.", hint="See the docstring of backups.conf.", id="backups.E001")]
    return [Error(f"BACKUPS: {problem.rstrip('.')}.", id="backups.E002") for problem in conf.read(given).problems]


@register(Tags.database)
def queue(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check Django-Q's settings (docs/adr/0018-guard-of-workers.md gives the reasons)."""
    messages: list[CheckMessage] = []
    given = getattr(settings, "Q_CLUSTER", {})
    required: dict[str, Any] = {"queue_limit": 1, "ack_failures": True, "max_attempts": 1, "catch_up": False}
    for name, value in required.items():
        if given.get(name) != value:
            messages.append(
                Error(f"Q_CLUSTER[{name!r}] must be {value!r}.", hint="Otherwise jobs are delivered twice.", id="backups.E003")
            )
    timeout, retry = given.get("timeout") or 0, given.get("retry") or 0
    if not LONGEST_JOB <= timeout < retry:
        hint = f"Set timeout to at least {LONGEST_JOB} and retry above it: jobs have their own time limits."
        messages.append(Error("Q_CLUSTER ends or repeats running jobs.", hint=hint, id="backups.E004"))
    broker = "backups.jobs.database_broker.DatabaseBroker" if given.get("orm") else "backups.jobs.redis_broker.RedisBroker"
    if given.get("broker_class") != broker and (given.get("orm") or given.get("redis")):
        text = "Django-Q's own brokers close connections of other databases, and stop at an outage of their server."
        messages.append(Error(text, hint=f"Set broker_class to {broker}.", id="backups.E005"))
    host = conf.read(getattr(settings, "BACKUPS", {})).host
    if given.get("cluster_name") != host:
        hint = f"Set cluster_name to {host!r} (BACKUPS['HOST'], or this machine's host name)."
        messages.append(Error("The workers of this host would read another host's queue.", hint=hint, id="backups.E007"))
    order = [app.partition(".")[0] for app in settings.INSTALLED_APPS if app.partition(".")[0] in ("backups", "django_q")]
    if order[:1] == ["django_q"]:
        text = "manage.py backups_worker is Django-Q's: its workers do not survive the death of one of them."
        messages.append(Error(text, hint="List backups before django_q in INSTALLED_APPS.", id="backups.E008"))
    return messages


@register(Tags.database)
def databases(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that the control database exists, is separate from restored data, and waits for locks."""
    alias = conf.read(getattr(settings, "BACKUPS", {})).database
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
