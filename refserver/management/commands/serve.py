"""`manage.py serve`: start the web server and the workers, and keep them running."""

import errno
import ipaddress
import os
import socket
import sys
from argparse import ArgumentParser
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backups.conf import configuration
from backups.engine.errors import EngineError
from backups.engine.evidence.keys import lost_key, make_key
from backups.jobs.heartbeat import heartbeat_file
from backups.worker.supervisor import AlreadyRunning, Program, hold, supervise

_STOP_WITHIN = 30.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (named to be shown as what can be opened)


class Command(BaseCommand):
    """Supervises the web server and the workers (`programs`)."""

    help = (
        "Start the web server and the workers, and keep them running until Ctrl-C or SIGTERM. "
        "Running jobs are finished first; a second Ctrl-C interrupts them."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=settings.REFSERVER_PORT, help="TCP port (%(default)s)")
        parser.add_argument("--bind", default=settings.REFSERVER_BIND, help="address to listen on (%(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until stopped. Exit code 1 if a child had to be killed."""
        bind, port = options["bind"], options["port"]
        _require_proxy(bind)
        pid_file = Path(settings.REFSERVER_RUN_DIR) / "serve.pid"
        try:
            with hold(pid_file):
                _require_free(bind, port)
                self._make_signing_key()
                self._say(f"http://{_shown(bind)}:{port}/ (Ctrl-C stops it)")
                gracefully = supervise(programs(bind, port), self._say)
        except AlreadyRunning as error:
            raise CommandError(f"RefServer is {error}. Stop it first, or use it.") from error
        if not gracefully:
            raise SystemExit(1)

    def _make_signing_key(self) -> None:
        """For an installation that is older than signatures; where the key is lost, a new one would hide that."""
        config = configuration()
        key = config.signing_key
        if key is None or os.path.lexists(key) or any(lost_key(folder, key) for folder in config.repositories.values()):
            return
        try:
            make_key(key)
        except EngineError as problem:
            self._say(f"backups are not signed: {problem.message}")
            return
        self._say(f"made the signing key {key}. Keep a copy of it in a safe place; `refbackup adopt` signs what there is.")

    def _say(self, message: str) -> None:
        self.stderr.write(f"serve: {message}", str)
        self.stderr.flush()


def programs(bind: str, port: int) -> list[Program]:
    """The programs to run, in the order of starting."""
    address = f"[{bind}]:{port}" if ":" in bind else f"{bind}:{port}"
    web = Program(
        name="web",
        command=[
            *(sys.executable, "-m", "gunicorn"),
            *("--config", "python:refserver.gunicorn_conf"),
            *("--chdir", str(settings.BASE_DIR)),
            *("--bind", address),
            "refserver.wsgi:application",
        ],
        environment={"REFSERVER_THREADS": str(settings.REFSERVER_THREADS), "PYTHONUNBUFFERED": "1"},
        stop_within=_STOP_WITHIN,
    )
    queue = Program(
        name="worker",
        command=[sys.executable, str(settings.BASE_DIR / "manage.py"), "backups_worker"],
        environment={"PYTHONUNBUFFERED": "1"},
        stop_within=_STOP_WITHIN,
        drain_within=float(settings.REFSERVER_DRAIN_SECONDS),
        heartbeat=heartbeat_file(),
    )
    return [web, queue]


def _require_proxy(bind: str) -> None:
    """Raise `CommandError` if other machines could reach the server although no setting says that they may."""
    if settings.REFSERVER_BEHIND_PROXY or settings.REFSERVER_WITHOUT_PROXY or bind == "localhost":
        return
    with suppress(ValueError):
        if ipaddress.ip_address(bind).is_loopback:
            return
    raise CommandError(
        f"Nothing was started: at {bind}, other machines reach this server without TLS. Put a proxy in front of it, and set "
        "REFSERVER_BEHIND_PROXY=yes; or set REFSERVER_WITHOUT_PROXY=yes if that is intended."
    )


def _require_free(bind: str, port: int) -> None:
    """Raise `CommandError` if the address is in use, so that it is reported once and not by each restart of a child."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OverflowError:
            raise CommandError(f"{port} is not a port: use a number from 1 to 65535.") from None
        except OSError as error:
            taken = "another program uses it; " if error.errno == errno.EADDRINUSE else ""
            raise CommandError(f"{bind}:{port} cannot be used ({error.strerror}): {taken}see --port and --bind.") from error


def _shown(bind: str) -> str:
    address = _ANY_ADDRESS.get(bind, bind)
    return f"[{address}]" if ":" in address else address
