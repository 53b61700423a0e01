"""The processes that use the stores: found, stopped and started.

Two can be stopped: the systemd unit ``refserver``, and a ``manage.py serve`` that holds its pid file. Other processes that have
a store open are only named.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from backups.engine.capture.owners import owners
from backups.engine.errors import EngineError, PermissionMissing, SourceBusy
from backups.engine.runtime import locks
from backups.engine.types import Source, SourceKind

from .locations import UNIT, Locations, unit_properties
from .waiting import STOP_SECONDS, wait_for_end

START_SECONDS = 60.0
"""How long the web server may take to answer."""

Check = Callable[[], None]
Say = Callable[[str], None]
_ACTIVE = frozenset({"active", "activating", "reloading", "refreshing"})
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (named to be shown as what can be opened)


class NotStarted(EngineError):
    """A stopped service could not be started again."""

    default_hint = "The data is in place. Start the application yourself."


class Service(Protocol):
    """Something that can be stopped, and started again, also by a later process."""

    @property
    def title(self) -> str:
        """Its name in messages."""

    def stop(self, check: Check, say: Say) -> None:
        """Stop it, within `waiting.STOP_SECONDS`; *say* is told what it waits for. *check* is called meanwhile and may raise.

        Raises `SourceBusy` or `PermissionMissing` when it still runs.
        """

    def start(self) -> str:
        """Start it and return how to see that it is running. Raises `NotStarted`."""

    def as_json(self) -> dict[str, Any]:
        """Plain data, from which `service_from` makes it again."""


@dataclass(frozen=True, slots=True)
class SystemdUnit:
    """The systemd unit ``refserver``."""

    name: str = UNIT

    @property
    def title(self) -> str:
        return f"the systemd unit {self.name}"

    def stop(self, check: Check, say: Say) -> None:
        main = [line.removeprefix("MainPID=") for line in unit_properties("MainPID") if line.startswith("MainPID=")]
        with tempfile.TemporaryFile("w+") as said:
            with subprocess.Popen(self._command("stop"), stdin=subprocess.DEVNULL, stdout=said, stderr=said) as stop:
                try:
                    ended = wait_for_end(
                        int(main[0]) if main and main[0].isdigit() else 0,
                        lambda: stop.poll() is None,
                        self._interrupt,
                        check,
                        say,
                    )
                finally:
                    stop.kill()  # systemd goes on stopping the unit
            said.seek(0)
            problem = "" if stop.returncode == 0 else said.read().strip() or f"exit code {stop.returncode}"
        if not ended or problem:
            raise self._failed("stop", SourceBusy, problem if ended else f"it did not stop within {STOP_SECONDS:g} s")

    def start(self) -> str:
        try:
            done = subprocess.run(self._command("start"), capture_output=True, text=True, timeout=START_SECONDS, check=False)
            problem = done.stderr.strip() if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as failed:
            problem = str(failed)
        if problem:
            raise self._failed("start", NotStarted, problem)
        return f"systemctl status {self.name}"

    def as_json(self) -> dict[str, Any]:
        return {"unit": self.name}

    def _interrupt(self) -> None:
        """Send a second stop signal, to the supervisor only: `systemctl stop` would wait for the running jobs."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            command = self._command("kill", "--kill-who=main", "--signal=SIGTERM")
            subprocess.run(command, capture_output=True, timeout=10, check=False)

    def _command(self, verb: str, *options: str) -> list[str]:
        return ["systemctl", "--no-ask-password", verb, *options, self.name]

    def _failed(self, verb: str, error: type[EngineError], problem: str) -> EngineError:
        return error(
            f"systemctl {verb} {self.name} failed: {problem}", hint=f"Run it yourself: sudo systemctl {verb} {self.name}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeProcess:
    """A `manage.py serve`, with what is needed to start it again."""

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

    def stop(self, check: Check, say: Say) -> None:
        self._signal()
        ended = wait_for_end(
            self.pid,
            lambda: _locked(Path(self.pid_file)) and Path("/proc", str(self.pid)).exists(),
            self._signal,
            check,
            say,
        )
        if not ended:
            raise SourceBusy(
                f"{self.title} did not stop within {STOP_SECONDS:g} s.",
                hint=f"Find out why (ps -p {self.pid}), stop it, and run this again. Nothing was changed.",
            )

    def _signal(self) -> None:
        try:
            os.kill(self.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise PermissionMissing(
                f"{self.title} belongs to another user and was not stopped.",
                hint="Run this as that user or as root. Nothing was changed.",
            ) from None

    def start(self) -> str:
        log = Path(self.pid_file).with_name("serve.log")
        root = os.geteuid() == 0
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            if root:
                os.chown(log, self.user, self.group)
            with os.fdopen(descriptor, "ab") as output:
                process = subprocess.Popen(
                    list(self.command),
                    cwd=self.folder,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    user=self.user if root else None,
                    group=self.group if root else None,
                    extra_groups=list(self.groups) if root else None,
                )
        except OSError as problem:
            raise NotStarted(f"manage.py serve could not be started: {problem}.") from None
        address = self._address()
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{address}/healthz"):
            if process.poll() is not None:
                raise NotStarted(f"manage.py serve ended at once with exit code {process.returncode}; see {log}.")
            if time.monotonic() > deadline:
                raise NotStarted(
                    f"manage.py serve was started (process {process.pid}) but does not answer at {address}; see {log}."
                )
            time.sleep(0.1)
        return f"{address}/ answers; process {process.pid} runs in the background and logs to {log}"

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

    def as_json(self) -> dict[str, Any]:
        return {"serve": asdict(self)}


def running(locations: Locations) -> list[Service]:
    """The services that run now and can be stopped."""
    found: list[Service] = []
    if any(f"ActiveState={state}" in unit_properties("ActiveState") for state in _ACTIVE):
        found.append(SystemdUnit())
    if process := _serve_process(locations):
        found.append(process)
    return found


def _serve_process(locations: Locations) -> ServeProcess | None:
    """The `manage.py serve` that holds the pid file, unless it belongs to the unit, which stops it."""
    if not _locked(locations.pid_file):
        return None
    try:
        pid = int(locations.pid_file.read_text(encoding="ascii"))
        process = Path("/proc", str(pid))
        if UNIT in (process / "cgroup").read_text(encoding="utf-8"):
            return None
        command = _words(process / "cmdline")
        environment = dict(word.partition("=")[::2] for word in _words(process / "environ"))
        owner = process.stat()
        status = (process / "status").read_text(encoding="utf-8")
        groups = next(line for line in status.splitlines() if line.startswith("Groups:")).split()[1:]
        # .env is read when it starts, but its address must be known here
        for name in ("REFSERVER_BIND", "REFSERVER_PORT"):
            if name not in environment and name in locations.values:
                environment[name] = locations.values[name]
        return ServeProcess(
            pid=pid,
            pid_file=str(locations.pid_file),
            command=command,
            folder=str((process / "cwd").readlink()),
            environment=environment,
            user=owner.st_uid,
            group=owner.st_gid,
            groups=[int(group) for group in groups],
        )
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return None  # it has just ended
    except PermissionError:
        raise PermissionMissing(
            f"manage.py serve runs as another user ({locations.pid_file}), so it cannot be stopped.",
            hint="Run this as that user or as root. Nothing was changed.",
        ) from None


def _words(file: Path) -> list[str]:
    return [os.fsdecode(word) for word in file.read_bytes().split(b"\0") if word]


def _locked(pid_file: Path) -> bool:
    """Whether a `manage.py serve` is running: it holds the lock on its pid file (`backups.worker.supervisor.hold`)."""
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
        return True  # it rejects the host name, so it is running
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
        if processes := next(filter(None, (owners(file, parent=True) for file in files)), ""):
            found[str(target.path)] = processes
    return found


def is_among(service: Service, others: Sequence[Service]) -> bool:
    """Whether one of *others* is the same service, though perhaps another process."""
    return any(type(service) is type(other) for other in others)


def service_from(saved: dict[str, Any]) -> Service:
    """The service of which *saved* is `Service.as_json`. Raises ``TypeError`` and ``KeyError``."""
    return SystemdUnit(saved["unit"]) if "unit" in saved else ServeProcess(**saved["serve"])
