"""The control database and the job queue, each from one setting: local files for one host, servers for several."""

import importlib.util
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from backups.engine.runtime.environment import Environment

_WAIT = 20


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


def queue(env: Environment, name: str) -> dict[str, str]:
    """The queue of the setting *name*: ``database``, or ``redis://host:6379/0``. Returns its ``url`` and ``password``; nothing
    for the database."""
    given = env.text(name, "database")
    password = env.secret(f"{name}_PASSWORD")
    if given == "database":
        return {}
    parts = urlsplit(given)
    if parts.scheme not in ("redis", "rediss", "unix"):
        shown = f"{parts.scheme}://" if parts.scheme else repr(given)
        env.problem(name, f"{shown} is not supported", "use database, or redis://host:6379/0")
    _require(env, name, "redis")
    _port(env, name, parts)
    return {"url": _without_password(parts), "password": password or unquote(parts.password or "")}


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
