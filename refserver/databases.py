"""The control database and the job queue, each from one setting: local files for one host, servers for several."""

import importlib.util
import socket
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from backups.engine.runtime.environment import Environment

_WAIT = 20
_LONGEST_JOB = 30 * 24 * 3600


def sqlite(file: Path) -> dict[str, Any]:
    """Describe an SQLite database in WAL mode.

    - transaction_mode: a transaction takes the write lock when it begins. One that reads first and then writes would fail
      with "database is locked" if another writer came between.
    - synchronous=FULL: a commit is on the disk when it returns. NORMAL may lose the last commits at a power failure, but their
      vectors, which Chroma has synced by then, would remain.
    """
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(file),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": _WAIT,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;",
        },
    }


def control_database(env: Environment, name: str, default: str) -> tuple[dict[str, Any], Path | str]:
    """The control database of the setting *name*: a file, or ``postgresql://user:password@host:port/name?sslmode=require``.

    Returns Django's description of the database, and its file or address without the password.
    """
    given = env.text(name, default)
    password = env.secret(f"{name}_PASSWORD")
    if "://" not in given:
        file = env.file(name, default)
        return sqlite(file), file
    parts = urlsplit(given)
    if parts.scheme not in ("postgresql", "postgres"):
        env.problem(name, f"{parts.scheme}:// is not supported", "use a file, or postgresql://user@host/name")
    _require(env, name, "psycopg")
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    host = options.pop("host", "") or parts.hostname or ""
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "refserver",
        "USER": unquote(parts.username or ""),
        "PASSWORD": password or unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(_port(env, name, parts) or ""),
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            "connect_timeout": 5,
            "options": f"-c lock_timeout={_WAIT}s -c idle_in_transaction_session_timeout=5min",
            "application_name": "refserver",
            # Detects a server that vanished within half a minute
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            **options,
        },
    }
    return database, _without_password(parts)


def _broker(env: Environment, name: str) -> dict[str, Any]:
    given = env.text(name, "database")
    password = env.secret(f"{name}_PASSWORD")
    if given == "database":
        return {"orm": "control", "broker_class": "backups.jobs.database_broker.DatabaseBroker"}
    parts = urlsplit(given)
    if parts.scheme not in ("redis", "rediss", "unix"):
        shown = f"{parts.scheme}://" if parts.scheme else repr(given)
        env.problem(name, f"{shown} is not supported", "use database, or redis://host:6379/0")
    _require(env, name, "redis")
    _port(env, name, parts)
    secret = password or unquote(parts.password or "")
    return {
        "redis": {"url": _without_password(parts), "password": secret},
        "broker_class": "backups.jobs.redis_broker.RedisBroker",
    }


def queue_settings(env: Environment, name: str, host: str, jobs_at_once: int) -> dict[str, Any]:
    """Django-Q's settings. `backups.checks` verifies them; docs/adr/0018-guard-of-workers.md says why.

    Each host reads its own queue. There are two workers more than jobs: one for the tick of each minute, and one for alert
    messages, whose receivers may hang.
    """
    return _broker(env, name) | {
        "name": "refserver",
        "cluster_name": host or socket.gethostname(),
        "workers": jobs_at_once + 2,
        "timeout": _LONGEST_JOB,
        "retry": _LONGEST_JOB + 24 * 3600,
        "queue_limit": 1,
        "ack_failures": True,
        "max_attempts": 1,
        "catch_up": False,
        "poll": 0.5,
        "guard_cycle": 0.5,
        "save_limit": -1,
        "ALT_CLUSTERS": {},  # Django-Q requires it if Q_CLUSTER_NAME is set
    }


def _without_password(parts: SplitResult) -> str:
    user = f"{parts.username}@" if parts.username else ""
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}{place}"))


def _port(env: Environment, name: str, parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        env.problem(name, "its port is not a number", "write it as host:5432")
        return None


def _require(env: Environment, name: str, module: str) -> None:
    if importlib.util.find_spec(module) is None:
        env.problem(name, f"{module} is not installed", "install the extra: pip install 'refserver-backups[refserver,hosts]'")
