"""The project's setting ``BACKUPS``: read, and every problem reported at once.

::

    BACKUPS = {
        "DATABASE": "control",                          # alias of the database that holds jobs, plans, index, audit
        "CONTROL_APPS": ["sessions"],                   # further apps whose tables are in it (`routing`), and survive a restore
        "REPOSITORIES": {"main": "/srv/backups"},       # name -> folder; the first is the default
        "SETS": {                                       # name -> what it backs up together; the first is the default
            "default": ["sqlite:app=/srv/app.sqlite3", "chroma:chroma=/srv/chroma", "files:uploads=/srv/uploads"],
            "control": ["sqlite:control=/srv/control.sqlite3"],
        },
        "KEPT_APART": ["control"],                      # sets that are never restored in place: they hold the control database
        "ADMIN_SITE": "office",                         # name of the admin site around the pages; by default that in the URLs
        "API_RATES": {"caller": "600/minute"},          # request rates of the REST interface: api.throttling
        "HOST": "",                                     # this machine's name; empty: its host name
        "QUEUE": {"url": "redis://host:6379/0"},        # a Redis server; empty: the control database
        "JOBS_AT_ONCE": 2,                              # jobs that run at the same time on a host
        "RESTORE_FOLDER": "/srv/restored",              # parent of the folders that pages and REST restore into
        "RUN_FOLDER": "/srv/run",                       # pid files and the worker's heartbeat
        "MANAGE": "/srv/app/manage.py",                 # runs the management commands of jobs; empty: python -m django
        "KINDS": ["project.jobs.CHECK"],                # further job types, as paths to `jobs.job_type.JobType` objects
        "METRICS": ["project.metrics.more"],            # further metrics, as paths to generators of metric families
        "EXAMINE": "project.jobs.examination",          # function from a set's name to a command: engine.application_check
        "ADDRESS": "https://refs.example.org",          # base URL of this site, for links in alerts; empty: no links
        "URLS": ["project.urls_of_backups"],             # further URLconfs, included by `backups.urls` before its own
        "EXTENSIONS": ["backups_consistency"],          # apps that may add to this setting (`given`); by default all that do
        "ALERT_DETECTORS": ["project.alerts.UNREAD"],   # further conditions: paths to `monitoring.conditions.Condition` objects
        "ALERT_HOSTS": ["hooks.slack.com", "*.example.org", "10.0.0.0/8"],  # allowed webhook hosts; empty: public ones
        "PROMISED_RPO_MINUTES": 60,
        "PROMISED_RTO_MINUTES": 5,
        "CALLED": {"EMAIL_HOST": "APP_SMTP_HOST"},      # what hints call settings and commands here (`called`)
        "KEEP_JOBS_DAYS": 400,                          # retention of ended jobs
        "KEEP_LOGS_DAYS": 30,                           # retention of their log lines
        "SIGNING_KEY": "/srv/signing_key",              # file of the key that signs backups; empty: none (engine.evidence)
        "TRUSTED_KEYS": [],                             # public keys of other hosts, in base64
        "ENCRYPTION_KEY": "/srv/encryption_key",        # file of the key that opens backups; empty: none (engine.encryption)
    }
"""

import functools
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .engine.config import parse_source
from .engine.encryption.keyring import keyring_for
from .engine.errors import EngineError, RepositoryMissing, UsageError
from .engine.evidence.keys import Keys, keys_for
from .engine.names import NAME
from .engine.repository.folder import Repository, open_repository
from .engine.runtime.environment import closest
from .engine.types import Source, SourceKind

CONTROL = "control"
"""The alias of the control database, unless the setting gives another."""

WORKER = "manage.py backups_worker"
"""The command that runs the workers."""

REPOSITORY_AWAY = "Mount its disk, or correct its path in the settings."
"""What to do about a configured repository that is not available. Never to create it: an empty one on the mount point of a
disk that is not mounted would hide the one with the backups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The setting's values. Repositories and sets keep their order."""

    database: str
    control_apps: tuple[str, ...] = ()
    queue: Mapping[str, str] = field(default_factory=dict)
    repositories: Mapping[str, Path]
    sets: Mapping[str, tuple[Source, ...]]
    kept_apart: frozenset[str]
    admin_site: str = ""
    api_rates: Mapping[str, str | None] = field(default_factory=dict)
    host: str
    jobs_at_once: int
    restore_folder: Path
    run_folder: Path
    manage: Path | None = None
    kinds: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    examine: str = ""
    address: str = ""
    alert_detectors: tuple[str, ...] = ()
    alert_hosts: tuple[str, ...] = ()
    promised_rpo_minutes: int
    promised_rto_minutes: int
    keep_jobs_days: int
    keep_logs_days: int
    signing_key: Path | None = None
    trusted_keys: tuple[str, ...] = ()
    encryption_key: Path | None = None
    problems: tuple[str, ...] = ()

    @property
    def default_repository(self) -> str:
        return next(iter(self.repositories))

    @property
    def default_set(self) -> str:
        return next(iter(self.sets))

    def open(self, name: str) -> Repository:
        """The repository of that name. Raises `RepositoryMissing`, and `UsageError` for an unknown name."""
        if name not in self.repositories:
            raise UsageError(
                f"There is no repository {name!r}.", hint=f"The setting BACKUPS has: {', '.join(self.repositories)}."
            )
        try:
            return self.opened(self.repositories[name])
        except RepositoryMissing as problem:
            if problem.hint != RepositoryMissing.default_hint:
                raise  # it is there, and cannot be read
            raise RepositoryMissing(problem.message, hint=REPOSITORY_AWAY) from problem

    def opened(self, folder: Path) -> Repository:
        """The repository in *folder*, with the keys of the settings. Raises `EngineError`."""
        return open_repository(folder, self.keys(folder), keyring_for(folder, self.encryption_key))

    def keys(self, repository: Path) -> Keys | None:
        """The keys that decide what counts in a repository; None if there is no key. Raises `EngineError`."""
        return keys_for(repository, self.signing_key, self.trusted_keys)

    @property
    def key_environment(self) -> dict[str, str]:
        """The settings of the keys as ``refbackup`` reads them from the environment."""
        given = {
            "BACKUP_SIGNING_KEY": str(self.signing_key or ""),
            "BACKUP_TRUSTED_KEYS": os.pathsep.join(self.trusted_keys),
            "BACKUP_ENCRYPTION_KEY": str(self.encryption_key or ""),
        }
        return {name: value for name, value in given.items() if value}

    def sources(self, set_name: str) -> tuple[Source, ...]:
        """The sources of a set. Raises `UsageError` for an unknown name."""
        if set_name not in self.sets:
            raise UsageError(f"There is no set {set_name!r}.", hint=f"The setting BACKUPS has: {', '.join(self.sets)}.")
        return self.sets[set_name]

    def live_sources(self, set_name: str) -> tuple[Source, ...]:
        """The live stores that backups of a set are restored to; a partial set (``default-sqlite``) has those of its whole.

        Raises `UsageError` for a set of another application.
        """
        return self.sources(self.whole_set(set_name))

    def whole_set(self, set_name: str) -> str:
        """The project's set that a partial set belongs to; any other name unchanged."""
        whole = set_name
        while whole not in self.sets and "-" in whole:
            whole = whole.rpartition("-")[0]
        return whole if whole in self.sets else set_name


_NUMBERS = {
    "JOBS_AT_ONCE": (2, 1, 64),
    "PROMISED_RPO_MINUTES": (60, 1, 1_000_000),
    "PROMISED_RTO_MINUTES": (5, 1, 1_000_000),
    "KEEP_JOBS_DAYS": (400, 1, 100_000),
    "KEEP_LOGS_DAYS": (30, 1, 100_000),
}
_KNOWN = {entry.name.upper() for entry in fields(Configuration)} - {"PROBLEMS"} | {"CALLED", "EXTENSIONS"}


@functools.cache
def configuration() -> Configuration:
    """The setting in force. Raises one `ImproperlyConfigured` that names every problem; see also `checks`."""
    config = read(given())
    if config.problems:
        lines = "\n".join(f"  - {problem}" for problem in config.problems)
        raise ImproperlyConfigured(f"The setting BACKUPS is invalid:\n{lines}")
    return config


def control_database() -> str:
    """The alias of the control database, also while the rest of the setting is invalid."""
    return str(getattr(settings, "BACKUPS", {}).get("DATABASE", CONTROL))


def called(name: str) -> str:
    """What a person here sets or types for a setting or command: a variable of the environment, say. *name* by default."""
    return str(getattr(settings, "BACKUPS", {}).get("CALLED", {}).get(name, name))


def given() -> dict[str, Any]:
    """The setting, and what installed apps add to it with the attribute ``adds_to_backups`` of their configurations.

    Their lists come before the project's; other values count where the project gives none.
    """
    merged = dict(getattr(settings, "BACKUPS", {}))
    allowed = merged.get("EXTENSIONS")
    for app in apps.get_app_configs():
        added: Mapping[str, Any] = getattr(app, "adds_to_backups", {})
        for key, value in added.items() if allowed is None or app.name in allowed else ():
            merged[key] = [*value, *merged.get(key, ())] if isinstance(value, list) else merged.get(key, value)
    return merged


def read(given: Mapping[str, Any]) -> Configuration:
    """Read *given*; invalid values are listed in ``problems`` and replaced by defaults."""
    problems = []
    for name in sorted(set(given) - _KNOWN):
        similar = closest(name, _KNOWN)
        problems.append(f"{name}: there is no such entry" + (f"; did you mean {similar}?" if similar else ""))
    numbers = {}
    for name, (default, least, most) in _NUMBERS.items():
        value = given.get(name, default)
        if not isinstance(value, int) or not least <= value <= most:
            problems.append(f"{name}: give a whole number from {least} to {most}")
            value = default
        numbers[name.lower()] = value
    repositories = {name: Path(path) for name, path in given.get("REPOSITORIES", {}).items()}
    if not repositories:
        problems.append('REPOSITORIES: give at least one, such as {"main": "/srv/backups"}')
        repositories = {"main": Path("backups")}
    sets = {name: _sources(name, lines, problems) for name, lines in given.get("SETS", {}).items()}
    if not sets:
        problems.append('SETS: give at least one, such as {"default": ["sqlite:app=/srv/app.sqlite3"]}')
        sets = {"default": ()}
    for what, names in (("REPOSITORIES", repositories), ("SETS", sets)):
        problems += [
            f"{what}: {name!r} is not a valid name (letters, digits, . _ -)" for name in names if not NAME.fullmatch(name)
        ]
    apart = frozenset(given.get("KEPT_APART", ()))
    problems += [f"KEPT_APART: there is no set {name!r}" for name in sorted(apart - sets.keys())]
    first = next(iter(repositories.values()))
    return Configuration(
        database=given.get("DATABASE", CONTROL),
        queue=dict(given.get("QUEUE", {})),
        control_apps=tuple(given.get("CONTROL_APPS", ())),
        repositories=repositories,
        sets=sets,
        kept_apart=apart,
        admin_site=str(given.get("ADMIN_SITE", "")),
        api_rates=dict(given.get("API_RATES", {})),
        host=given.get("HOST") or socket.gethostname(),
        restore_folder=Path(given.get("RESTORE_FOLDER") or first.with_name("restored")),
        run_folder=Path(given.get("RUN_FOLDER") or first.with_name("run")),
        manage=Path(given["MANAGE"]) if given.get("MANAGE") else None,
        kinds=tuple(given.get("KINDS", ())),
        address=str(given.get("ADDRESS", "")).rstrip("/"),
        alert_detectors=tuple(given.get("ALERT_DETECTORS", ())),
        alert_hosts=tuple(given.get("ALERT_HOSTS", ())),
        metrics=tuple(given.get("METRICS", ())),
        urls=tuple(given.get("URLS", ())),
        examine=str(given.get("EXAMINE", "")),
        signing_key=Path(given["SIGNING_KEY"]) if given.get("SIGNING_KEY") else None,
        trusted_keys=tuple(given.get("TRUSTED_KEYS", ())),
        encryption_key=Path(given["ENCRYPTION_KEY"]) if given.get("ENCRYPTION_KEY") else None,
        problems=tuple(problems),
        **numbers,
    )


def _sources(set_name: str, lines: Any, problems: list[str]) -> tuple[Source, ...]:
    sources = []
    for line in lines:
        kind, separator, rest = str(line).partition(":")
        try:
            if not separator:
                raise ValueError
            sources.append(parse_source(SourceKind(kind), rest))
        except ValueError:
            problems.append(
                f"SETS[{set_name!r}]: {line!r} is not a source; write sqlite:NAME=FILE, chroma:NAME=DIR, files:NAME=DIR"
            )
        except EngineError as problem:
            problems.append(f"SETS[{set_name!r}]: {problem.message}")
    if not sources:
        problems.append(f"SETS[{set_name!r}]: it has no sources")
    return tuple(sources)


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "BACKUPS":
        configuration.cache_clear()


setting_changed.connect(_forget)
