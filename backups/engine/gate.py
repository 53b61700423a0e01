"""The gate: how an application and a restore agree on who may touch a Chroma directory.

A Chroma directory cannot be exchanged under an open client: the client goes on writing into the files that were
moved aside. So an application that takes part calls Chroma only inside a gate, and reopens its client when the gate's
generation is not the one it opened with::

    gate = Gate(chroma_path)
    with gate.shared() as generation:           # any number of readers
        if generation != opened_with:
            client = reopen()
        client.query(...)

    with gate.exclusive() as held:              # one writer, no reader; writers of several processes take turns
        ...
        held.advance()                          # all others reopen at their next call

The gate is the folder ``<directory>.gate`` beside the directory, so that it stays in place when directories are exchanged:

========== ==========================================================================================
file       meaning
========== ==========================================================================================
lock       ``flock``: shared around each call, exclusive for whoever changes the directory. Its content is
           the generation, a decimal number; empty means 0.
turnstile  ``flock``: everyone passes through it on the way to ``lock``; whoever wants ``lock`` exclusively
           keeps it while waiting, so that a stream of readers cannot starve it.
========== ==========================================================================================

Locks are the kernel's: those of a process that dies are gone with it. A gate is not re-entrant.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FIRST_WAIT = 0.0005
_LONGEST_WAIT = 0.01


class GateTimeout(Exception):
    """The gate stayed closed for longer than the caller was willing to wait."""

    def __init__(self, folder: Path, seconds: float) -> None:
        super().__init__(f"{folder} stayed locked for {seconds:g} s: a backup, a restore or a writer holds it")
        self.folder = folder
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Held:
    """An exclusively held gate."""

    generation: int
    _descriptor: int

    def advance(self) -> int:
        """Raise the generation by one, so that every other client reopens, and return it.

        The number is written in one call and synced before the gate opens.
        """
        following = self.generation + 1
        os.pwrite(self._descriptor, b"%d" % following, 0)
        os.fsync(self._descriptor)
        return following


class Gate:
    """The gate of one Chroma directory; cheap to make, holds nothing open between uses."""

    def __init__(self, directory: Path) -> None:
        place = Path(os.path.realpath(directory))  # so that whoever comes through a link meets the others
        self.folder = place.with_name(place.name + ".gate")

    def exists(self) -> bool:
        """Whether an application takes part: it creates the gate at its first use."""
        return (self.folder / "lock").exists()

    @contextmanager
    def shared(self, timeout: float = 60.0) -> Iterator[int]:
        """Hold the gate together with other readers and yield its generation. Raises `GateTimeout` after *timeout* seconds."""
        with self._locked(fcntl.LOCK_SH, timeout) as held:
            yield held.generation

    @contextmanager
    def exclusive(self, timeout: float = 60.0) -> Iterator[Held]:
        """Hold the gate alone. Raises `GateTimeout` after *timeout* seconds."""
        with self._locked(fcntl.LOCK_EX, timeout) as held:
            yield held

    @contextmanager
    def _locked(self, mode: int, timeout: float) -> Iterator[Held]:
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        lock = self._open("lock")
        try:
            turnstile = self._open("turnstile")
            try:
                self._wait(turnstile, mode, deadline, timeout)
                self._wait(lock, mode, deadline, timeout)
            finally:
                os.close(turnstile)
            yield Held(int(os.pread(lock, 32, 0) or b"0"), lock)
        finally:
            os.close(lock)

    def _open(self, name: str) -> int:
        return os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _wait(self, descriptor: int, mode: int, deadline: float, timeout: float) -> None:
        pause = _FIRST_WAIT
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise GateTimeout(self.folder, timeout) from None
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_WAIT)
            else:
                return
