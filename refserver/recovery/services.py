"""What runs on the stores: found, stopped before a restore, started again after it.

Known are the systemd unit ``refserver`` and a ``manage.py serve`` that holds its pid file. Whatever else has a store open is
named, for a person to stop.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from backups.engine.capture.owners import owners
from backups.engine.errors import EngineError, PermissionMissing, SourceBusy
from backups.engine.runtime import durable, locks
from backups.engine.types import Source, SourceKind

from .places import UNIT, Places, unit_properties

STOP_WITHIN = 16 * 60.0
"""Seconds that stopping may take: a job that runs may be let end (``TimeoutStopSec`` of the unit is 15 minutes)."""

START_WITHIN = 60.0
"""Seconds until the web server must answer."""

Check = Callable[[], None]
_ACTIVE = frozenset({"active", "activating", "reloading", "refreshing"})
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (named to be shown as what can be opened)


class NotStarted(EngineError):
    """A service that was stopped does not run again."""

    default_hint = "The data is in place. Start the application yourself."


class Service(Protocol):
    """Something that can be stopped and started again, by whoever reads what was remembered of it."""

    @property
    def title(self) -> str:
        """How people call it."""

    def stop(self, check: Check) -> None:
        """Stop it, within `STOP_WITHIN`. *check* raises when somebody wants to end the waiting.

        Raises `SourceBusy` or `PermissionMissing` when it still runs.
        """

    def start(self) -> str:
        """Start it and return how to see that it runs. Raises `NotStarted`."""

    def remembered(self) -> dict[str, Any]:
        """What `recall` makes it of again."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The systemd unit."""

    name: str = UNIT

    @property
    def title(self) -> str:
        return f"the systemd unit {self.name}"

    def stop(self, check: Check) -> None:
        self._systemctl("stop", SourceBusy)

    def start(self) -> str:
        self._systemctl("start", NotStarted)
        return f"systemctl status {self.name}"

    def remembered(self) -> dict[str, Any]:
        return {"unit": self.name}

    def _systemctl(self, verb: str, error: type[EngineError]) -> None:
        command = ["systemctl", "--no-ask-password", verb, self.name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_WITHIN, check=False)
            problem = done.stderr.strip() if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as failed:
            problem = str(failed)
        if problem:
            raise error(
                f"systemctl {verb} {self.name} failed: {problem}", hint=f"Do it yourself: sudo systemctl {verb} {self.name}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A `manage.py serve`: how it was started, so that it can be again."""

    pid: int
    pid_file: str
    command: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    user: int
    group: int
    groups: Sequence[int]

    @property
    def title(self) -> str:
        return f"manage.py serve (process {self.pid})"

    def stop(self, check: Check) -> None:
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        except PermissionError:
            raise PermissionMissing(
                f"{self.title} belongs to another user and was not stopped.",
                hint="Run this as that user or as root. Nothing was changed.",
            ) from None
        deadline = time.monotonic() + STOP_WITHIN
        while _locked(Path(self.pid_file)) and Path("/proc", str(self.pid)).exists():
            if time.monotonic() > deadline:
                raise SourceBusy(
                    f"{self.title} did not stop within {STOP_WITHIN:g} s.",
                    hint=f"See what it waits for (ps -p {self.pid}), stop it, and run this again. Nothing was changed.",
                )
            check()
            time.sleep(0.05)

    def start(self) -> str:
        log = Path(self.pid_file).with_name("serve.log")
        root = os.geteuid() == 0
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            if root:
                os.chown(log, self.user, self.group)
            with os.fdopen(descriptor, "ab") as said:
                process = subprocess.Popen(
                    list(self.command),
                    cwd=self.folder,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,
                    user=self.user if root else None,
                    group=self.group if root else None,
                    extra_groups=list(self.groups) if root else None,
                )
        except OSError as problem:
            raise NotStarted(f"manage.py serve could not be started: {problem}.") from None
        address = self._address()
        deadline = time.monotonic() + START_WITHIN
        while not _answers(f"{address}/healthz"):
            if process.poll() is not None:
                raise NotStarted(f"manage.py serve ended at once with exit code {process.returncode}; see {log}.")
            if time.monotonic() > deadline:
                raise NotStarted(
                    f"manage.py serve was started (process {process.pid}) and does not answer at {address}; see {log}."
                )
            time.sleep(0.1)
        return f"{address}/ answers; process {process.pid}, in the background; it writes to {log}"

    def _address(self) -> str:
        bind = self._argument("--bind") or self.environment.get("REFSERVER_BIND") or "127.0.0.1"
        port = self._argument("--port") or self.environment.get("REFSERVER_PORT") or "8000"
        bind = _ANY_ADDRESS.get(bind, bind)
        return f"http://[{bind}]:{port}" if ":" in bind else f"http://{bind}:{port}"

    def _argument(self, name: str) -> str:
        words = list(self.command)
        for number, word in enumerate(words):
            if word == name and number + 1 < len(words):
                return words[number + 1]
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
        return ""

    def remembered(self) -> dict[str, Any]:
        return {"serve": asdict(self)}


def running(places: Places) -> list[Service]:
    """The services that run now."""
    found: list[Service] = []
    if any(f"ActiveState={state}" in unit_properties("ActiveState") for state in _ACTIVE):
        found.append(Unit())
    if served := _served(places):
        found.append(served)
    return found


def _served(places: Places) -> Served | None:
    """The `manage.py serve` that holds the pid file, unless it belongs to the unit, which stops it."""
    if not _locked(places.pid_file):
        return None
    try:
        pid = int(places.pid_file.read_text(encoding="ascii"))
        process = Path("/proc", str(pid))
        if UNIT in (process / "cgroup").read_text(encoding="utf-8"):
            return None
        command = _words(process / "cmdline")
        environment = dict(word.partition("=")[::2] for word in _words(process / "environ"))
        owner = process.stat()
        status = (process / "status").read_text(encoding="utf-8")
        groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
        # .env is read anew when it starts, but where it listens must be known here
        for name in ("REFSERVER_BIND", "REFSERVER_PORT"):
            if name not in environment and name in places.values:
                environment[name] = places.values[name]
        return Served(
            pid=pid,
            pid_file=str(places.pid_file),
            command=command,
            folder=str((process / "cwd").readlink()),
            environment=environment,
            user=owner.st_uid,
            group=owner.st_gid,
            groups=[int(group) for group in groups],
        )
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return None  # it ended meanwhile
    except PermissionError:
        raise PermissionMissing(
            f"manage.py serve runs as another user ({places.pid_file}), so it cannot be stopped.",
            hint="Run this as that user or as root. Nothing was changed.",
        ) from None


def _words(file: Path) -> list[str]:
    return [os.fsdecode(word) for word in file.read_bytes().split(b"\0") if word]


def _locked(pid_file: Path) -> bool:
    """Whether a `manage.py serve` runs: it holds the lock on its pid file (`refserver.supervisor.hold`)."""
    try:
        with pid_file.open("rb") as stream:
            return not locks.acquire(stream.fileno(), shared=True)
    except FileNotFoundError:
        return False


def _answers(address: str) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return True  # it refuses the name that it was asked by, so it runs
    except OSError:
        return False


def holders(targets: Sequence[Source]) -> dict[str, str]:
    """The processes that have a store open, by the store's path."""
    found = {}
    for target in targets:
        files = {
            SourceKind.SQLITE: (target.path, target.path.with_name(f"{target.path.name}-wal")),
            SourceKind.CHROMA: (target.path / "chroma.sqlite3",),
            SourceKind.FILES: (),
        }[target.kind]
        if who := next(filter(None, (owners(file, parent=True) for file in files)), ""):
            found[str(target.path)] = who
    return found


# What was stopped is remembered, so that a recovery that is killed leaves the next one to start it


def remember(file: Path, services: Sequence[Service]) -> None:
    """Write down what is about to be stopped. The file holds a process's environment: its owner alone may read it."""
    durable.write_file(file, json.dumps([service.remembered() for service in services]).encode(), 0o600)


def recall(file: Path) -> list[Service]:
    """What a recovery that did not end had stopped; none where it ended."""
    try:
        noted = json.loads(file.read_bytes())
        return [Unit(one["unit"]) if "unit" in one else Served(**one["serve"]) for one in noted]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError):
        return []


def forget(file: Path) -> None:
    """All that was stopped runs again, or somebody was told that it does not."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
