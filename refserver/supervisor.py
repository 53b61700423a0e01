"""A small supervisor: starts some child processes, keeps them running, and stops them gently.

Each child runs in a session of its own, and only the child itself is ever signalled, never its group: a
Ctrl-C on the terminal, or a signal to all of a group, would also hit the worker processes of a child, and
kill a job that runs there. Those worker processes are for the child to stop.

The loop is one thread. Signals only wake it up; what they ask for is done in the loop, never in a handler.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import IO

Say = Callable[[str], None]
Wait = Callable[[float], set[int]]

_STOPPING = frozenset({signal.SIGTERM, signal.SIGINT})
_WATCHED = _STOPPING | {signal.SIGCHLD}
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_HEALTHY_AFTER = 60.0
_PR_SET_PDEATHSIG = 1


class AlreadyRunning(Exception):
    """Another supervisor holds the pid file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, what is added to its environment, and how many seconds stopping may take."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_within: float


class Child:
    """A program, and the process that runs it, if any."""

    def __init__(self, program: Program, say: Say) -> None:
        self.program = program
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = _FIRST_PAUSE
        self.start_at: float | None = 0.0
        """When to start it next, on the monotonic clock; None while it runs."""

    def start(self) -> None:
        """Start the program now."""
        self._started = monotonic()
        self.start_at = None
        self._process = subprocess.Popen(  # the supervisor has one thread, so `preexec_fn` is safe
            list(self.program.command),
            env={**os.environ, **self.program.environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_prepare,
        )
        self._say(f"{self.program.name} started (pid {self._process.pid})")

    def look(self) -> None:
        """Note whether it ended by itself, and plan its next start, later each time."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        ran = monotonic() - self._started
        if ran >= _HEALTHY_AFTER:
            self._pause = _FIRST_PAUSE
        self._say(
            f"{self.program.name} (pid {self._process.pid}) ended by itself after {ran:.1f} s, "
            f"{_ending(code)}; starting it again in {self._pause:g} s"
        )
        self._process = None
        self.start_at = monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the child, and to it alone."""
        self.start_at = None
        if self._process is not None:
            self._process.terminate()

    def wait(self, deadline: float) -> bool:
        """Wait for its end; after *deadline* it is killed. Returns whether it ended by itself."""
        if self._process is None:
            return True
        try:
            self._process.wait(max(0.0, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            self._say(f"{self.program.name} did not stop within {self.program.stop_within:g} s; killing it")
            self._process.kill()
            self._process.wait()
            return False
        self._say(f"{self.program.name} stopped")
        return True


def supervise(programs: Iterable[Program], say: Say) -> bool:
    """Run *programs* until SIGTERM or SIGINT, then stop them all.

    Returns whether all of them stopped by themselves in time. The main thread must call this, and no other
    thread may run.
    """
    with _signals() as wait:
        children = [Child(program, say) for program in programs]
        caught = _run(children, wait)
        say(f"{signal.Signals(caught).name} received, stopping")
        return _stop(children)


def hold(pid_file: Path) -> IO[str]:
    """Lock *pid_file* until what is returned is closed, and write this process's id into it.

    The lock, not the number, says that somebody runs: it is gone with the process. Raises `AlreadyRunning`.
    """
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    stream = pid_file.open("a+", encoding="ascii")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        pid = stream.read().strip()
        stream.close()
        raise AlreadyRunning(f"it is running already, as process {pid or '(unknown)'} ({pid_file})") from None
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()
    return stream


def _run(children: Sequence[Child], wait: Wait) -> int:
    """Keep *children* running until a signal asks to stop; return that signal."""
    while True:
        for child in children:
            child.look()
            if child.start_at is not None and child.start_at <= monotonic():
                child.start()
        starts = [child.start_at for child in children if child.start_at is not None]
        patience = min([1.0, *(max(0.0, start - monotonic()) for start in starts)])
        if asked := wait(patience) & _STOPPING:
            return min(asked)


def _stop(children: Sequence[Child]) -> bool:
    """Ask all to stop, and wait for each as long as its program allows."""
    began = monotonic()
    for child in reversed(children):
        child.ask_to_stop()
    gently = [child.wait(began + child.program.stop_within) for child in reversed(children)]  # waits for each
    return all(gently)


@contextmanager
def _signals() -> Iterator[Wait]:
    """Catch the watched signals, and yield a function that waits for them.

    It takes seconds, and returns the numbers of the signals that came: none, when the time passed.
    """
    woken, waker = socket.socketpair()
    with woken, waker:
        waker.setblocking(False)
        before = {number: signal.signal(number, lambda *_: None) for number in _WATCHED}
        descriptor = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)

        def wait(seconds: float) -> set[int]:
            ready, _, _ = select.select([woken], [], [], seconds)
            return set(woken.recv(4096)) if ready else set()

        try:
            yield wait
        finally:
            signal.set_wakeup_fd(descriptor)
            for number, handler in before.items():
                signal.signal(number, handler)


def _prepare() -> None:
    """In a child, before its program: have it stopped when the supervisor dies. Linux alone can do that."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _ending(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
