"""System checks: what is wrong with the project's settings, each with an id and a way to mend it."""

from __future__ import annotations

import sqlite3
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from . import conf
from .engine.doctor import has_wal_reset_bug

LONGEST_JOB = 30 * 24 * 3600
"""Seconds that Django-Q must leave a worker alone."""


@register(Tags.compatibility)
def setting(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """``BACKUPS`` is there and right."""
    given = getattr(settings, "BACKUPS", None)
    if given is None:
        return [Error("The setting BACKUPS is missing.", hint="See the docstring of backups.conf.", id="backups.E001")]
    return [Error(f"BACKUPS: {problem}.", id="backups.E002") for problem in conf.read(given).problems]


@register(Tags.database)
def queue(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Django-Q delivers as jobs need it (docs/adr/0018-guard-of-workers.md says why for each)."""
    found: list[CheckMessage] = []
    given = getattr(settings, "Q_CLUSTER", {})
    wanted: dict[str, Any] = {"queue_limit": 1, "ack_failures": True, "max_attempts": 1, "catch_up": False}
    for name, value in wanted.items():
        if given.get(name) != value:
            found.append(
                Error(f"Q_CLUSTER[{name!r}] must be {value!r}.", hint="Else jobs are delivered twice.", id="backups.E003")
            )
    timeout, retry = given.get("timeout") or 0, given.get("retry") or 0
    if not LONGEST_JOB <= timeout < retry:
        hint = f"Set timeout to {LONGEST_JOB} or more, and retry above it: jobs have limits of their own."
        found.append(Error("Q_CLUSTER ends or repeats jobs that still run.", hint=hint, id="backups.E004"))
    wanted_broker = (
        "backups.jobs.database_broker.DatabaseBroker" if given.get("orm") else "backups.jobs.redis_broker.RedisBroker"
    )
    if given.get("broker_class") != wanted_broker and (given.get("orm") or given.get("redis")):
        text = "Django-Q's own brokers close connections of other databases, and end where their server is away for a moment."
        found.append(Error(text, hint=f"Set broker_class to {wanted_broker}.", id="backups.E005"))
    host = conf.read(getattr(settings, "BACKUPS", {})).host
    if given.get("cluster_name") != host:
        hint = f"Set cluster_name to {host!r}, as BACKUPS['HOST'] says or the machine is called."
        found.append(Error("The workers of this host would listen to another one's queue.", hint=hint, id="backups.E007"))
    order = [app.partition(".")[0] for app in settings.INSTALLED_APPS if app.partition(".")[0] in ("backups", "django_q")]
    if order[:1] == ["django_q"]:
        text = "manage.py qcluster is Django-Q's: the workers would not get over the death of one of them."
        found.append(Error(text, hint="Name backups before django_q in INSTALLED_APPS.", id="backups.E008"))
    return found


@register(Tags.database)
def databases(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The control database is there, apart from what is restored, and waits rather than fails."""
    alias = conf.read(getattr(settings, "BACKUPS", {})).database
    found = settings.DATABASES.get(alias)
    if found is None:
        return [Error(f"BACKUPS['DATABASE'] names {alias!r}, which is no database.", id="backups.E006")]
    messages: list[CheckMessage] = []
    if alias == "default":
        hint = "Give it a database of its own, with a router, and name it in BACKUPS['DATABASE']."
        text = "A restore of the application's database would roll back jobs, plans and the audit with it."
        messages.append(Warning(text, hint=hint, id="backups.W001"))
    if found["ENGINE"].endswith("sqlite3") and found.get("OPTIONS", {}).get("transaction_mode") != "IMMEDIATE":
        hint = "Set OPTIONS['transaction_mode'] to IMMEDIATE, and OPTIONS['timeout'] to 20 or more."
        messages.append(Warning(f"Transactions of {alias!r} can fail at once when two write.", hint=hint, id="backups.W002"))
    return messages


@register(Tags.database, deploy=True)
def sqlite(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """This SQLite does not lose commits at a reset of its log. Said by ``check --deploy`` and ``refbackup doctor``."""
    if not has_wal_reset_bug(sqlite3.sqlite_version_info):
        return []
    hint = "Use SQLite 3.51.3, 3.50.7 or 3.44.6, or later. Until then let proofs check the sources too (verify by restore)."
    text = f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug, by which a busy database can lose committed pages."
    return [Warning(text, hint=hint, id="backups.W003")]
