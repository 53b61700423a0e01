"""Progress on standard error (a bar on a terminal, else lines or JSON lines), and numbers for people (`runtime.wording`)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from .runtime.context import Progress
from .runtime.wording import ago as ago
from .runtime.wording import clock as clock
from .runtime.wording import counted as counted
from .runtime.wording import duration as duration
from .runtime.wording import human_bytes as human_bytes

if TYPE_CHECKING:
    from rich.progress import TaskID


def json_lines(stream: TextIO) -> tuple[Callable[[Progress], None], Callable[[str], None]]:
    """Functions that print each event and each log line as a JSON object."""

    def show(event: Progress) -> None:
        print(json.dumps(event.as_json()), file=stream, flush=True)

    def log(line: str) -> None:
        print(json.dumps({"event": "log", "line": line}), file=stream, flush=True)

    return show, log


def plain_lines(stream: TextIO) -> tuple[Callable[[Progress], None], Callable[[str], None]]:
    """Functions that print a line every five seconds, at the end of each phase longer than a second, and for each log line."""
    printed = 0.0

    def show(event: Progress) -> None:
        nonlocal printed
        now = time.monotonic()
        if event.elapsed < 1.0 or (not event.finished and now - printed < 5.0):
            return
        printed = now
        of = f" of {human_bytes(event.total)}" if event.total else ""
        left = f", {duration(event.left)} left" if event.left and not event.finished else ""
        done = f", done in {duration(event.elapsed)}" if event.finished else ""
        print(
            f"{event.operation}: {event.phase}: {human_bytes(event.done)}{of}, {human_bytes(event.rate)}/s{left}{done}",
            file=stream,
            flush=True,
        )

    return show, lambda line: print(line, file=stream, flush=True)


class Bar:
    """A bar on a terminal: phase, bytes, rate, time left."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        self._console = Console(file=stream)
        self._bars = Bars(
            TextColumn("{task.description:<28}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._phase = ""

    def show(self, event: Progress) -> None:
        """Draw an event."""
        if event.phase != self._phase:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._phase = event.phase
            self._task = self._bars.add_task(f"{event.operation}: {event.phase}", total=event.total)
            self._bars.start()
        assert self._task is not None
        self._bars.update(self._task, completed=event.done)

    def log(self, line: str) -> None:
        """Print a line above the bar."""
        self._bars.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Remove the bar."""
        self._bars.stop()


def chosen(style: str) -> tuple[Callable[[Progress], None], Callable[[str], None], Callable[[], None]]:
    """Functions to show events, to log, and to call at the end, for *style* ``auto``, ``json``, ``lines`` or ``none``."""
    if style == "none":
        return (lambda event: None), (lambda line: None), (lambda: None)
    if style == "json":
        return *json_lines(sys.stderr), lambda: None
    if style == "auto" and sys.stderr.isatty():
        bar = Bar(sys.stderr)
        return bar.show, bar.log, bar.close
    return *plain_lines(sys.stderr), lambda: None
