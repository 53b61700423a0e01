"""What a use case gets from its caller: time, cancellation, progress and log."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import Cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of an operation, in bytes, bytes per second and seconds. ``left`` is None while unknown.

    ``pause_ms`` is set by the phase that pauses writers, at its end: the longest pause of each kind of store, by its name.
    """

    operation: str
    phase: str
    done: int
    total: int | None
    rate: float
    elapsed: float
    left: float | None
    finished: bool = False
    pause_ms: dict[str, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """The event as a line of ``--progress json``; ``pause_ms`` only if it is set."""
        event = {"event": "progress", **asdict(self)}
        if self.pause_ms is None:
            del event["pause_ms"]
        return event


@dataclass(slots=True, kw_only=True)
class Context:
    """Passed to every use case, which therefore needs no clock, terminal, job table or settings.

    ``should_cancel`` is called at every block. ``on_progress`` gets at most ten events per second of a phase, and always its
    last. ``on_log`` gets lines for people, which ``lines`` collects. ``chroma_python`` is the interpreter whose chromadb opens
    restored directories; None for this one.
    """

    on_progress: Callable[[Progress], None] = lambda event: None
    on_log: Callable[[str], None] = lambda line: None
    should_cancel: Callable[[], bool] = lambda: False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    token: Callable[[], str] = lambda: secrets.token_hex(3)
    chroma_python: Path | None = None
    lines: list[str] = field(default_factory=list)

    def log(self, line: str) -> None:
        """Add *line* to the log."""
        self.lines.append(line)
        self.on_log(line)

    def check(self) -> None:
        """Raise `Cancelled` if the operation was cancelled."""
        if self.should_cancel():
            raise Cancelled("Cancelled. Staged data was removed.")

    def phase(self, operation: str, name: str, total: int | None = None) -> Phase:
        """A new phase of an operation; *total* is in bytes, None if unknown."""
        return Phase(self, operation, name, total)


class Phase:
    """Counts the bytes of one phase and reports them. Use as a context manager; the last report is marked finished."""

    def __init__(self, ctx: Context, operation: str, name: str, total: int | None) -> None:
        self.total = total
        self.done = 0
        self.pause_ms: dict[str, float] | None = None
        self._ctx = ctx
        self._operation = operation
        self._name = name
        self._began = time.monotonic()
        self._reported = 0.0
        self._counting = threading.Lock()

    def advance(self, amount: int) -> None:
        """Add *amount* bytes; thread-safe. Raises `Cancelled`."""
        with self._counting:
            self.reach(self.done + amount)

    def reach(self, done: int) -> None:
        """Set the number of bytes done. Raises `Cancelled`."""
        self.done = done
        self._ctx.check()
        now = time.monotonic()
        if now - self._reported >= 0.1:
            self._reported = now
            self._report(now, finished=False)

    def __enter__(self) -> Phase:
        self._report(self._began, finished=False)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._report(time.monotonic(), finished=True)

    def _report(self, now: float, *, finished: bool) -> None:
        elapsed = max(now - self._began, 1e-9)
        rate = self.done / elapsed
        left = max(self.total - self.done, 0) / rate if self.total is not None and rate > 0 else None
        self._ctx.on_progress(
            Progress(
                operation=self._operation,
                phase=self._name,
                done=self.done,
                total=self.total,
                rate=rate,
                elapsed=elapsed,
                left=0.0 if finished else left,
                finished=finished,
                pause_ms=self.pause_ms,
            )
        )


@contextmanager
def cancel_on_signals() -> Iterator[Callable[[], bool]]:
    """Within the context, SIGINT and SIGTERM only make the yielded function return True."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
