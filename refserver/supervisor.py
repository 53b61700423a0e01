"""A small supervisor: starts some child processes, keeps them running, and stops them gently.

Each child runs in a session of its own, and only the child itself is ever signalled, never its group: a
Ctrl-C on the terminal, or a signal to all of a group, would also hit the worker processes of a child, and
kill a job that runs there. Those worker processes are for the child to stop.

The loop is one thread. Signals only wake it up; what they ask for is done in the loop, never in a handler.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import IO

from backups.engine.runtime import locks
from backups.engine.runtime.processes import end_with_parent

Say = Callable[[str], None]
Wait = Callable[[float], set[int]]

_STOPPING = frozenset({signal.SIGTERM, signal.SIGINT})
_WATCHED = _STOPPING | {signal.SIGCHLD}
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_HEALTHY_AFTER = 60.0


class AlreadyRunning(Exception):
    """Another supervisor holds the pid file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """What to run, what is added to its environment, and how many seconds stopping may take.

    A program with ``drain_within`` may have work to finish first: it is given that many seconds, or until somebody asks again,
    then a second SIGTERM, and ``stop_within`` from there. One with a ``heartbeat`` touches that file while it is well, and is
    killed and started again when the file has not changed for ``silent_after`` seconds.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_within: float
    drain_within: float = 0.0
    heartbeat: Path | None = None
    silent_after: float = 180.0


class Child:
    """A program, and the process that runs it, if any."""

    def __init__(self, program: Program, say: Say) -> None:
        self.program = program
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = _FIRST_PAUSE
        self._beat: tuple[int, float] = (0, 0.0)
        self.start_at: float | None = 0.0
        """When to start it next, on the monotonic clock; None while it runs."""

    def start(self) -> None:
        """Start the program now."""
        self._started = monotonic()
        self._beat = (self._last_beat(), self._started)
        self.start_at = None
        self._process = subprocess.Popen(  # the supervisor has one thread, so `preexec_fn` is safe
            list(self.program.command),
            env={**os.environ, **self.program.environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, os.getpid()),
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

    def watch(self) -> None:
        """Kill it when its heartbeat has stopped; `look` then plans its next start. A clock that was set is no matter."""
        if self._process is None or self.program.heartbeat is None:
            return
        last = self._last_beat()
        if last != self._beat[0]:
            self._beat = (last, monotonic())
        elif monotonic() - self._beat[1] > self.program.silent_after:
            self._say(f"{self.program.name} has given no sign of life for {self.program.silent_after:g} s; killing it")
            self._process.kill()
            self._process.wait()

    def _last_beat(self) -> int:
        try:
            return self.program.heartbeat.stat().st_mtime_ns if self.program.heartbeat else 0
        except OSError:
            return 0

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the child, and to it alone."""
        self.start_at = None
        if self._process is not None:
            self._process.terminate()

    def has_stopped(self) -> bool:
        """Whether it has ended; said once."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            self._say(f"{self.program.name} stopped")
        return self._process is None

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._say(f"{self.program.name} did not stop within {self.program.stop_within:g} s; killing it")
            self._process.kill()
            self._process.wait()
            self._process = None


def supervise(programs: Iterable[Program], say: Say) -> bool:
    """Run *programs* until SIGTERM or SIGINT, then stop them all; a second signal hurries those that may finish work first.

    Returns whether all of them stopped by themselves in time. The main thread must call this, and no other
    thread may run.
    """
    with _signals() as wait:
        children = [Child(program, say) for program in programs]
        caught = _run(children, wait)
        return _stop(children, signal.Signals(caught).name, wait, say)


def hold(pid_file: Path) -> IO[str]:
    """Lock *pid_file* until what is returned is closed, and write this process's id into it.

    The lock, not the number, says that somebody runs: it is gone with the process. Raises `AlreadyRunning`.
    """
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    stream = pid_file.open("a+", encoding="ascii")
    if not locks.acquire(stream.fileno()):
        stream.seek(0)
        pid = stream.read().strip()
        stream.close()
        raise AlreadyRunning(f"it is running already, as process {pid or '(unknown)'} ({pid_file})")
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()
    return stream


def _run(children: Sequence[Child], wait: Wait) -> int:
    """Keep *children* running until a signal asks to stop; return that signal."""
    while True:
        for child in children:
            child.watch()
            child.look()
            if child.start_at is not None and child.start_at <= monotonic():
                child.start()
        starts = [child.start_at for child in children if child.start_at is not None]
        patience = min([1.0, *(max(0.0, start - monotonic()) for start in starts)])
        if asked := wait(patience) & _STOPPING:
            return min(asked)


def _stop(children: Sequence[Child], caught: str, wait: Wait, say: Say) -> bool:
    """Ask all to stop, and wait for each as long as its program allows. Returns whether none had to be killed."""
    finishing = [child.program for child in children if child.program.drain_within and not child.has_stopped()]
    names = " and ".join(program.name for program in finishing)
    say(f"{caught} received, stopping" + (f"; {names} finishes what it runs, again interrupts it" if finishing else ""))
    for child in reversed(children):
        child.ask_to_stop()
    began = monotonic()
    hurried_at = {child: began for child in children if not child.program.drain_within}
    gently = True
    while left := [child for child in reversed(children) if not child.has_stopped()]:
        again = bool(wait(0.2) & _STOPPING)
        for child in left:
            if child not in hurried_at and (again or monotonic() - began > child.program.drain_within):
                say(f"{child.program.name} is asked to interrupt what it runs")
                child.ask_to_stop()
                hurried_at[child] = monotonic()
            if child in hurried_at and monotonic() - hurried_at[child] > child.program.stop_within:
                child.kill()
                gently = False
    return gently


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


def _ending(code: int) -> str:
    return f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
