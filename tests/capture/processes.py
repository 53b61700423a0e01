"""Real processes for the tests: started, listened to with a deadline, found in ``/proc``, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHILDREN = ("backups.engine.capture.holder", "backups.engine.capture.packer", "backups.engine.prober")


def until(condition: Callable[[], Any], within: float = 15.0, what: str = "the condition") -> Any:
    """Ask *condition* every few milliseconds until its answer is true, and return that."""
    deadline = time.monotonic() + within
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about within {within:g} s"
        time.sleep(0.003)
    return answer


def environment(**more: str) -> dict[str, str]:
    """The environment of a test's process: the project can be imported, and no setting of this machine leaks in."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("BACKUP_", "REFSERVER_", "CHROMA_"))}
    return clean | {"PYTHONPATH": str(ROOT)} | more


def ordinary() -> list[str]:
    """Words before a command that take from root what an ordinary user may not do to files; none for an ordinary user."""
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


class Peer:
    """A child of the test that says one line at a time and ends when its standard input does."""

    def __init__(self, module: str, *arguments: str, **options: Any) -> None:
        options.setdefault("env", environment())
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            **options,
        )
        self._pending = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self, within: float = 40.0) -> str:
        """The next line that it says."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within
        descriptor = self.process.stdout.fileno()
        with selectors.DefaultSelector() as ready:
            ready.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                assert ready.select(max(0.0, deadline - time.monotonic())), f"it said nothing within {within:g} s"
                received = os.read(descriptor, 1 << 20)
                assert received, f"it ended with status {self.process.wait()} and without a word"
                self._pending += received
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    def tell(self, line: str) -> None:
        """Say a line to it."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, line: str) -> Any:
        """Say a line and read the JSON of the answer."""
        self.tell(line)
        return json.loads(self.hear())

    def end(self) -> Any:
        """Wait for its end and return the JSON of its last line, if any."""
        rest, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, f"it ended with status {self.process.returncode}"
        lines = (self._pending.decode() + rest).splitlines()
        return json.loads(lines[-1]) if lines else None

    def kill(self) -> None:
        """End it the hard way."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.process.wait()


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command left: exit code, the JSON on standard output, the text on standard error."""

    code: int
    json: dict[str, Any]
    text: str

    @property
    def error(self) -> dict[str, Any]:
        assert "error" in self.json, self
        return dict(self.json["error"])


class Command:
    """A running ``python -m backups.engine ...`` whose answer is JSON; end it with `end`."""

    def __init__(self, *arguments: str | Path, folder: Path | None = None, more: dict[str, str] | None = None, **options: Any):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backups.engine", *map(str, arguments), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder or "/",
            env=environment(**(more or {})),
            text=True,
            **options,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self, within: float = 60.0) -> Ended:
        """Wait for its end. The answer of a process that was killed is empty."""
        try:
            out, text = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, text = self.process.communicate()
            raise AssertionError(f"the command did not end within {within:g} s: {text}") from None
        return Ended(self.process.returncode, json.loads(out) if out.strip() else {}, text)

    def child(self, module: str, within: float = 15.0) -> int:
        """The id of the child that runs *module*, as soon as it is there."""

        def find() -> int | None:
            assert self.process.poll() is None, f"the command ended first: {self.end()}"
            return next((pid for pid, line in descendants(self.pid) if any(part.endswith(module) for part in line)), None)

        return int(until(find, within, f"a child {module}"))


@contextlib.contextmanager
def command(*arguments: str | Path, **options: Any) -> Iterator[Command]:
    """A `Command` that is gone afterwards, and all its children with it."""
    started = Command(*arguments, **options)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.communicate()


def run(*arguments: str | Path, within: float = 60.0, **options: Any) -> Ended:
    """Run a command to its end."""
    with command(*arguments, **options) as started:
        return started.end(within)


def descendants(pid: int) -> list[tuple[int, list[str]]]:
    """The children of *pid* and theirs, each with its command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (OSError, IndexError):
            continue
        if parent == pid:
            found.append((int(entry.name), arguments))
            found += descendants(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def at_work_on(folder: Path) -> list[str]:
    """Engine processes that have a file below *folder* open, as ``pid: command``; a clean end leaves none."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command_line = (entry / "cmdline").read_bytes().decode(errors="replace")
            if not any(module in command_line for module in (*CHILDREN, "backups.engine")):
                continue
            opened = [os.readlink(link) for link in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(path.startswith(str(folder)) for path in opened):
            found.append(f"{entry.name}: {command_line}")
    return found


def stop(pid: int) -> None:
    """Stop a process with SIGSTOP and wait until it stands still."""
    os.kill(pid, signal.SIGSTOP)
    until(lambda: (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T", what="a stop")
