"""System checks of what the worker and every command need, each with an id and a hint; `page_checks` has those of the pages.

=========== ============================================================================
backups.    what
=========== ============================================================================
E001, E002  the setting is missing, or wrong
E006        no control database
E009        a router keeps the tables from it
E010        a control database of a kind that cannot be used without ``USE_TZ``
E011        a path that depends on the current directory
E012        ``MANAGE`` names no file
E013        a restore would replace the control database
E014        the apps are installed in an order in which one hides the other
W001, W002  the control database is restored with the application, or does not wait
W003        SQLite has the WAL-reset bug
W004        a database that is in no set
W005        backups and consistency are not connected
=========== ============================================================================
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import router

from . import conf
from .engine.doctor import has_wal_reset_bug
from .engine.types import SourceKind

TAG = "backups"
"""The tag of these checks: the worker and `backups_init` run them, and not those of the pages."""


@register(TAG)
def setting(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that ``BACKUPS`` is present and valid."""
    if getattr(settings, "BACKUPS", None) is None:
        hint = "docs/how-to/add-to-django.md has a block to copy; the docstring of backups.conf describes every entry."
        return [Error("The setting BACKUPS is missing.", hint=hint, id="backups.E001")]
    config = conf.read(conf.given())
    found: list[CheckMessage] = [Error(f"BACKUPS: {one.rstrip('.')}.", id="backups.E002") for one in config.problems]
    paths = {"RUN_FOLDER": config.run_folder, "RESTORE_FOLDER": config.restore_folder, "SIGNING_KEY": config.signing_key}
    paths |= {f"REPOSITORIES[{name!r}]": path for name, path in config.repositories.items() if "://" not in str(path)}
    paths |= {f"SETS[{name!r}]": one.path for name, sources in config.sets.items() for one in sources}
    for what, path in paths.items():
        if path is not None and not path.is_absolute() and not config.problems:
            hint = "Write the whole path: web server, worker and commands may have different current directories."
            found.append(Error(f"BACKUPS: {what}: {path} depends on the current directory.", hint=hint, id="backups.E011"))
    if config.manage is not None and not config.manage.is_file():
        hint = "Name the project's manage.py, or leave MANAGE out: jobs then use python -m django."
        found.append(Error(f"BACKUPS: MANAGE: there is no file {config.manage}.", hint=hint, id="backups.E012"))
    return found


@register(TAG)
def databases(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that the control database exists, holds its tables, is separate from restored data, and waits for locks."""
    alias = conf.control_database()
    database = settings.DATABASES.get(alias)
    if database is None:
        hint = f"Add DATABASES[{alias!r}], an SQLite file of its own (docs/how-to/add-to-django.md)."
        return [Error(f"There is no database {alias!r} for jobs, plans and the audit.", hint=hint, id="backups.E006")]
    found: list[CheckMessage] = list(_of_routers(alias))
    if alias == "default":
        hint = "Use a separate database with a router, and name it in BACKUPS['DATABASE']."
        text = "A restore of the application's database would roll back jobs, plans and the audit with it."
        found.append(Warning(text, hint=hint, id="backups.W001"))
    is_file = database["ENGINE"].endswith("sqlite3")
    if is_file and database.get("OPTIONS", {}).get("transaction_mode") != "IMMEDIATE":
        hint = "Set OPTIONS['transaction_mode'] to IMMEDIATE, and OPTIONS['timeout'] to 20 or more."
        found.append(Warning(f"Concurrent transactions of {alias!r} can fail immediately.", hint=hint, id="backups.W002"))
    if not is_file and not settings.USE_TZ:
        hint = "Set USE_TZ = True, or use an SQLite file for this database."
        found.append(Error(f"Without USE_TZ the server of {alias!r} gives times without a zone.", hint=hint, id="backups.E010"))
    return found


def _of_routers(alias: str) -> Iterator[CheckMessage]:
    labels = [label for label in ("backups", "consistency") if apps.is_installed(label)]
    for label in labels:
        models = apps.get_app_config(label).get_models()
        if {router.db_for_write(model) for model in models} != {alias} or not router.allow_migrate(alias, label):
            yield Error(
                f"The tables of {label} would not be in the database {alias!r}.",
                hint="List 'backups.routing.ControlRouter' first in DATABASE_ROUTERS.",
                id="backups.E009",
            )
            return
    if not router.allow_migrate(alias, "django_q"):
        hint = "List 'backups.routing.ControlRouter' first in DATABASE_ROUTERS."
        yield Error(f"The queue's tables would not be in the database {alias!r}.", hint=hint, id="backups.E009")


@register(TAG)
def sets(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that every SQLite database of the project is in a set, and the control database in one that is kept apart."""
    config = conf.read(conf.given())
    if config.problems:
        return []
    found: list[CheckMessage] = []
    holding: dict[Path, set[str]] = {}
    for name, sources in config.sets.items():
        for one in sources:
            if one.kind is SourceKind.SQLITE:
                holding.setdefault(one.path.resolve(), set()).add(name)
    for alias, database in settings.DATABASES.items():
        name = str(database.get("NAME") or "")
        if not database["ENGINE"].endswith("sqlite3") or not name or ":memory:" in name or name.startswith("file:"):
            continue
        file = Path(name).resolve()
        among = holding.get(file, set())
        if not among:
            hint = f"Add 'sqlite:{alias}={file}' to a set of BACKUPS['SETS']."
            hint += " Name that set in BACKUPS['KEPT_APART'] too." if alias == config.database else ""
            found.append(Warning(f"The database {alias!r} is in no set: it is not backed up.", hint=hint, id="backups.W004"))
        elif alias == config.database and alias != "default" and among - config.kept_apart:
            hint = f"Give it a set of its own, and name that in BACKUPS['KEPT_APART'] (now in {', '.join(sorted(among))})."
            found.append(Error("A restore in place would replace the control database.", hint=hint, id="backups.E013"))
    return found


@register(TAG)
def installed(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that backups and consistency are connected where both are installed."""
    names = [app.name for app in apps.get_app_configs()]
    if not {"backups", "consistency"} <= {*names}:
        return []
    if "backups_consistency" not in names:
        hint = "Add 'backups_consistency' to INSTALLED_APPS before 'consistency': checks then run as jobs and in proofs."
        return [Warning("The apps backups and consistency are not connected.", hint=hint, id="backups.W005")]
    if names.index("backups_consistency") > names.index("consistency"):
        hint = "List 'backups_consistency' before 'consistency' in INSTALLED_APPS."
        return [Error("The templates of consistency hide those of backups_consistency.", hint=hint, id="backups.E014")]
    return []


@register(Tags.database, deploy=True)
def sqlite(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Check that SQLite has no WAL-reset bug; ``refbackup doctor`` checks the same."""
    if not has_wal_reset_bug(sqlite3.sqlite_version_info):
        return []
    hint = "Use SQLite 3.51.3, 3.50.7 or 3.44.6, or later. Until then, verify backups by restore."
    text = f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug: a busy database can lose committed pages."
    return [Warning(text, hint=hint, id="backups.W003")]
