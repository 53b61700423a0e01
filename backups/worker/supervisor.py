"""A small supervisor: starts child processes, keeps them running, and stops them gracefully.

Each child runs in its own session, and only the child is signalled, never its process group: a Ctrl-C on the terminal would
otherwise reach the child's worker processes and kill a running job. The child stops its own workers.

The loop is single-threaded. Signals wake it up and are handled in the loop, not in the signal handler.
"""

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

    A program with ``drain_within`` may finish its work first: after that many seconds, or at a second stop signal, it gets
    another SIGTERM and ``stop_within`` seconds. A program with a ``heartbeat`` touches that file while it is alive; it is
    killed and restarted if the file has not changed for ``silent_after`` seconds.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_within: float
    drain_within: float = 0.0
    heartbeat: Path | None = None
    silent_after: float = 180.0


class Child:
    """A program and its process, if it is running."""

    def __init__(self, program: Program, say: Say) -> None:
        self.program = program
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._pause = _FIRST_PAUSE
        self._beat: tuple[int, float] = (0, 0.0)
        self.start_at: float | None = 0.0
        """When to start it next, on the monotonic clock; None while it is running."""

    def start(self) -> None:
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

    def reap(self) -> None:
        """If it has ended, schedule its next start, with a longer pause each time."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        ran = monotonic() - self._started
        if ran >= _HEALTHY_AFTER:
            self._pause = _FIRST_PAUSE
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        ended = f"{self.program.name} (pid {self._process.pid}) ended unexpectedly after {ran:.1f} s"
        self._say(f"{ended}, {how}; restarting in {self._pause:g} s")
        self._process = None
        self.start_at = monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def check_heartbeat(self) -> None:
        """Kill it if its heartbeat has stopped; `reap` then schedules its next start. Clock changes have no effect."""
        if self._process is None or self.program.heartbeat is None:
            return
        last = self._last_beat()
        if last != self._beat[0]:
            self._beat = (last, monotonic())
        elif monotonic() - self._beat[1] > self.program.silent_after:
            self._say(f"{self.program.name} has had no heartbeat for {self.program.silent_after:g} s; killing it")
            self._process.kill()
            self._process.wait()

    def _last_beat(self) -> int:
        try:
            return self.program.heartbeat.stat().st_mtime_ns if self.program.heartbeat else 0
        except OSError:
            return 0

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the child only."""
        self.start_at = None
        if self._process is not None:
            self._process.terminate()

    def has_stopped(self) -> bool:
        """Whether it has ended; logged once."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            self._say(f"{self.program.name} stopped")
        return self._process is None

    def kill(self) -> None:
        if self._process is not None:
            self._say(f"{self.program.name} did not stop within {self.program.stop_within:g} s; killing it")
            self._process.kill()
            self._process.wait()
            self._process = None


def supervise(programs: Iterable[Program], say: Say) -> bool:
    """Run *programs* until SIGTERM or SIGINT, then stop them all; a second signal interrupts their work.

    Returns whether all of them stopped in time, without being killed. Call this from the main thread, with no other thread
    running.
    """
    with _signals() as wait:
        children = [Child(program, say) for program in programs]
        received = _run(children, wait)
        return _stop(children, signal.Signals(received).name, wait, say)


def hold(pid_file: Path) -> IO[str]:
    """Lock *pid_file* until the returned stream is closed, and write this process's id into it.

    The lock, not the number, says that the process is running: it ends with the process. Raises `AlreadyRunning`.
    """
    pid_file.parent.mkdir(parents=True, exist_ok=True)
    stream = pid_file.open("a+", encoding="ascii")
    if not locks.acquire(stream.fileno()):
        stream.seek(0)
        pid = stream.read().strip()
        stream.close()
        raise AlreadyRunning(f"already running as process {pid or '(unknown)'} ({pid_file})")
    stream.truncate(0)
    stream.write(f"{os.getpid()}\n")
    stream.flush()
    return stream


def _run(children: Sequence[Child], wait: Wait) -> int:
    while True:
        for child in children:
            child.check_heartbeat()
            child.reap()
            if child.start_at is not None and child.start_at <= monotonic():
                child.start()
        starts = [child.start_at for child in children if child.start_at is not None]
        timeout = min([1.0, *(max(0.0, start - monotonic()) for start in starts)])
        if received := wait(timeout) & _STOPPING:
            return min(received)


def _stop(children: Sequence[Child], received: str, wait: Wait, say: Say) -> bool:
    """Stop all, waiting for each as long as its program allows. Returns whether none had to be killed."""
    finishing = [child.program for child in children if child.program.drain_within and not child.has_stopped()]
    names = " and ".join(program.name for program in finishing)
    say(
        f"{received} received, stopping"
        + (f"; {names} finishes its running jobs, a second signal interrupts them" if finishing else "")
    )
    for child in reversed(children):
        child.ask_to_stop()
    began = monotonic()
    interrupted_at = {child: began for child in children if not child.program.drain_within}
    gracefully = True
    while left := [child for child in reversed(children) if not child.has_stopped()]:
        again = bool(wait(0.2) & _STOPPING)
        for child in left:
            if child not in interrupted_at and (again or monotonic() - began > child.program.drain_within):
                say(f"interrupting the running jobs of {child.program.name}")
                child.ask_to_stop()
                interrupted_at[child] = monotonic()
            if child in interrupted_at and monotonic() - interrupted_at[child] > child.program.stop_within:
                child.kill()
                gracefully = False
    return gracefully


@contextmanager
def _signals() -> Iterator[Wait]:
    """Catch the watched signals, and yield a function that waits for them.

    It takes seconds, and returns the numbers of the signals received: none after a timeout.
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
