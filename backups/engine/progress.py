"""Progress as a bar on a terminal, as lines elsewhere, or as JSON lines; always on standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from .runtime.context import Progress

if TYPE_CHECKING:
    from rich.progress import TaskID


def human_bytes(count: float) -> str:
    """*count* bytes with the unit that fits: ``2.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def human_seconds(seconds: float) -> str:
    """*seconds* with the unit that fits: ``8.1 s``, ``14 min``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def rough(seconds: float) -> str:
    """A duration in one unit: ``14 min``."""
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (2 * 86400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"


def json_lines(stream: TextIO) -> tuple[Callable[[Progress], None], Callable[[str], None]]:
    """Each event and each log line as one JSON object a line."""

    def show(event: Progress) -> None:
        print(json.dumps({"event": "progress", **asdict(event)}), file=stream, flush=True)

    def log(line: str) -> None:
        print(json.dumps({"event": "log", "line": line}), file=stream, flush=True)

    return show, log


def plain_lines(stream: TextIO) -> tuple[Callable[[Progress], None], Callable[[str], None]]:
    """A line for each phase that took longer than a second, and one every five seconds while it lasts."""
    told = 0.0

    def show(event: Progress) -> None:
        nonlocal told
        now = time.monotonic()
        if event.elapsed < 1.0 or (not event.finished and now - told < 5.0):
            return
        told = now
        of = f" of {human_bytes(event.total)}" if event.total else ""
        left = f", {human_seconds(event.left)} left" if event.left and not event.finished else ""
        done = f", done in {human_seconds(event.elapsed)}" if event.finished else ""
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
    """How to show events, how to log, and what to call at the end, for ``auto``, ``json``, ``lines`` or ``none``."""
    if style == "none":
        return (lambda event: None), (lambda line: None), (lambda: None)
    if style == "json":
        return *json_lines(sys.stderr), lambda: None
    if style == "auto" and sys.stderr.isatty():
        bar = Bar(sys.stderr)
        return bar.show, bar.log, bar.close
    return *plain_lines(sys.stderr), lambda: None
