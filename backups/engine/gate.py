"""The gate: how applications and restores take turns on a Chroma directory.

A Chroma directory cannot be exchanged under an open client: the client would go on writing into the files that were moved
aside. An application that takes part calls Chroma only inside a gate, and reopens its client if the generation of the gate has
changed::

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
lock       ``flock``: shared around each call, exclusive to change the directory. Its content is the
           generation, a decimal number; empty means 0.
turnstile  ``flock``: every caller passes through it on the way to ``lock``; one that wants ``lock``
           exclusively keeps it while waiting, so that a stream of readers cannot starve it.
========== ==========================================================================================

The locks of a process that dies are gone. A gate is not re-entrant.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .runtime.locks import acquire


class GateTimeout(Exception):
    """The gate stayed closed for longer than the caller would wait."""

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
        """Raise the generation by one, so that every other client reopens, and return it. It is durable on return."""
        following = self.generation + 1
        os.pwrite(self._descriptor, b"%d" % following, 0)
        os.fsync(self._descriptor)
        return following


class Gate:
    """The gate of one Chroma directory. It holds nothing open between uses."""

    def __init__(self, directory: Path) -> None:
        place = Path(os.path.realpath(directory))  # a link leads to the same gate
        self.folder = place.with_name(place.name + ".gate")

    def exists(self) -> bool:
        """Whether an application takes part: its first use creates the gate."""
        return (self.folder / "lock").exists()

    @contextmanager
    def shared(self, timeout: float = 60.0) -> Iterator[int]:
        """Hold the gate together with other readers and yield its generation. Raises `GateTimeout` after *timeout* seconds."""
        with self._locked(timeout, shared=True) as held:
            yield held.generation

    @contextmanager
    def exclusive(self, timeout: float = 60.0) -> Iterator[Held]:
        """Hold the gate alone. Raises `GateTimeout` after *timeout* seconds."""
        with self._locked(timeout, shared=False) as held:
            yield held

    @contextmanager
    def _locked(self, timeout: float, *, shared: bool) -> Iterator[Held]:
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        lock = self._open("lock")
        try:
            turnstile = self._open("turnstile")
            try:
                for descriptor in (turnstile, lock):
                    if not acquire(descriptor, shared=shared, wait=deadline - time.monotonic()):
                        raise GateTimeout(self.folder, timeout)
            finally:
                os.close(turnstile)
            yield Held(int(os.pread(lock, 32, 0) or b"0"), lock)
        finally:
            os.close(lock)

    def _open(self, name: str) -> int:
        return os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
