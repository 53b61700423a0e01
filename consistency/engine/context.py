"""What a check asks of its surroundings: whether to go on, and where to tell how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from .errors import Cancelled


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an operation is. Records, records a second, seconds; ``left`` is None while it cannot be told."""

    operation: str
    phase: str
    done: int
    total: int | None
    rate: float
    elapsed: float
    left: float | None
    finished: bool = False


@dataclass(slots=True, kw_only=True)
class Context:
    """``should_cancel`` is asked at every window of records and inside long queries.

    ``on_progress`` gets at most ten events a second, and always the last one of a phase.
    """

    on_progress: Callable[[Progress], None] = lambda event: None
    on_log: Callable[[str], None] = lambda line: None
    should_cancel: Callable[[], bool] = lambda: False
    sleep: Callable[[float], None] = time.sleep

    def check(self) -> None:
        """Raise `Cancelled` when somebody wants the operation to end."""
        if self.should_cancel():
            raise Cancelled("Cancelled on request.")

    def wait(self, seconds: float) -> None:
        """Let *seconds* pass, in slices after each of which `Cancelled` may be raised."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.check()
            self.sleep(min(left, 0.1))

    def phase(self, operation: str, name: str, total: int | None = None) -> Phase:
        """Begin a phase of *total* records, where that is known."""
        return Phase(self, operation, name, total)


class Phase:
    """Counts the records of one phase and reports them. Use as a context manager; the last report is marked finished."""

    def __init__(self, ctx: Context, operation: str, name: str, total: int | None) -> None:
        self.total = total
        self.done = 0
        self._ctx = ctx
        self._operation = operation
        self._name = name
        self._began = time.monotonic()
        self._told = 0.0

    def advance(self, amount: int) -> None:
        """Count *amount* records more. Raises `Cancelled`."""
        self.done += amount
        self._ctx.check()
        now = time.monotonic()
        if now - self._told >= 0.1:
            self._told = now
            self._report(now, finished=False)

    def __enter__(self) -> Phase:
        self._report(self._began, finished=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
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
            )
        )
