"""What a job's process writes: its answer on standard output, progress and log lines on standard error."""

import contextlib
import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backups import moments
from backups.engine.names import in_one_line
from backups.models import Job, JobLog

MOST_LINES = 20_000
"""Log lines kept of a job; further ones are dropped."""

_LONGEST_ANSWER = 32 << 20
_LONGEST_LINE = 65_536


@dataclass(slots=True)
class ChildOutput:
    """The output of *job*'s process so far. ``lines`` and ``changed`` are what is not yet in the database."""

    job: Job
    lines: list[JobLog] = field(default_factory=list)
    changed: bool = False
    progress: dict[str, Any] = field(default_factory=dict)
    """Values of the job's row: the newest progress event, and all phases."""

    _answer: bytearray = field(default_factory=bytearray)
    _partial: bytes = b""
    _count: int = 0

    def add_answer(self, received: bytes) -> None:
        if len(self._answer) < _LONGEST_ANSWER:
            self._answer += received

    def answer(self) -> dict[str, Any] | None:
        """The JSON object that the command printed last; None when it printed none."""
        for line in reversed(bytes(self._answer).splitlines()):
            with contextlib.suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict):
                    return answer
        return None

    def add_events(self, received: bytes) -> None:
        """Take bytes of standard error: events as JSON lines, anything else as lines of the log."""
        *lines, self._partial = (self._partial + received).split(b"\n")
        if len(self._partial) > _LONGEST_LINE:
            lines, self._partial = [*lines, self._partial], b""
        now = moments.now()
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip()
            message: Any = None
            if text.startswith("{"):
                with contextlib.suppress(ValueError):
                    message = json.loads(text)
            event = message.get("event") if isinstance(message, dict) else None
            if event == "progress" and self._add_progress(message, now):
                continue
            if event == "log":
                self.add_line(str(message.get("line", "")), str(message.get("level", "")), now)
            elif text:
                self.add_line(text, JobLog.Level.WARNING, now)

    def end_line(self) -> None:
        """Take what is left of an unterminated line of standard error."""
        if self._partial:
            self.add_events(b"\n")

    def add_line(self, line: str, level: str, now: datetime | None = None) -> None:
        """Add a line to the log; an unknown *level* becomes ``info``, or ``error`` for damage."""
        self._count += 1
        if self._count > MOST_LINES:
            return
        if self._count == MOST_LINES:
            line, level = f"The log is full at {MOST_LINES:,} lines; further lines are dropped.", JobLog.Level.WARNING
        if level not in JobLog.Level.values:
            word = line.partition(" ")[0]
            level = {"DAMAGED": JobLog.Level.ERROR, "SHRUNK": JobLog.Level.WARNING}.get(word, JobLog.Level.INFO)
        text = storable(in_one_line(line[:4000]))
        self.lines.append(JobLog(job=self.job, time=now or moments.now(), level=level, line=text))

    def _add_progress(self, event: dict[str, Any], now: datetime) -> bool:
        """Take an event of `engine.progress.json_lines`; False when it is malformed."""
        try:
            total, left = event.get("total"), event.get("left")
            newest = {
                "phase": str(event["phase"])[:40],
                "done": int(event["done"]),
                "total": None if total is None else int(total),
                "rate": float(event["rate"]),
                "left": None if left is None else float(left),
            }
            seconds = round(float(event["elapsed"]), 3) if event["finished"] else None
            pauses = {kind: float(ms) for kind, ms in event.get("pause_ms", {}).items()}
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
            return False
        phases = self.progress.get("phases", [])
        if not phases or phases[-1]["name"] != newest["phase"] or phases[-1]["seconds"] is not None:
            phases.append({"name": newest["phase"], "started": now.isoformat(), "seconds": None})
        phases[-1] |= {"done": newest["done"], "total": newest["total"], "seconds": seconds}
        if pauses:
            phases[-1]["pause_ms"] = pauses
        self.progress, self.changed = {**newest, "phases": phases}, True
        return True


def storable(value: Any) -> Any:
    """*value*, a JSON value, without what databases refuse: NUL characters, lone surrogates, NaN and infinities."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {storable(name): storable(item) for name, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list) else value
