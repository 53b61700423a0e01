"""Runs ``refbackup restore`` as a child process and passes its progress on."""

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from backups.engine.cli.text import missing_lines
from backups.engine.errors import EngineError, from_json
from backups.engine.progress import counted, duration, human_bytes
from backups.engine.runtime.processes import end_with_parent

from .interruption import Interruption
from .locations import ROOT, Locations
from .report import Report

STOP_SECONDS = 300.0
"""How long a restore may take to stop; a started exchange is finished or undone."""


@dataclass(frozen=True, slots=True)
class EngineResult:
    """The exit code of the engine (negative: killed by a signal) and the JSON object that it printed.

    ``refused`` is why the recovery did not let it go on, before anything was changed.
    """

    code: int
    answer: dict[str, Any]
    refused: EngineError | None = None

    @property
    def error(self) -> EngineError | None:
        """What went wrong, if anything."""
        if self.refused is not None:
            return self.refused
        if self.code == 0 or (self.code == 5 and "error" not in self.answer and self.answer):
            return None
        if "error" in self.answer:
            return from_json(self.answer["error"])
        how = f"was killed by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with exit code {self.code}"
        return EngineError(f"The restore {how} before it reported a result.")


class EngineRun:
    """Restores with these locations, reporting to *report* and stopping on *interruption*."""

    def __init__(self, locations: Locations, report: Report, interruption: Interruption) -> None:
        self._locations = locations
        self._report = report
        self._interruption = interruption

    def restore(self, backup_id: str, *arguments: str, when_ready: Callable[[], None] | None = None) -> EngineResult:
        """Run ``refbackup restore``; without *backup_id*, the arguments are to finish or undo a restore.

        *when_ready* is called when the data is staged and checked, before anything is changed; if it raises, nothing is.
        """
        repository = str(self._locations.repository)
        command = [sys.executable, "-P", "-m", "backups.engine", "restore", *([backup_id] if backup_id else [])]
        command += ["--repo", repository, "--yes", "--json", "--progress", "lines", *arguments]
        ready, told = os.pipe() if when_ready is not None else (-1, -1)
        if when_ready is not None:
            command += ["--ready-fd", str(told)]
        with tempfile.TemporaryFile() as output, contextlib.ExitStack() as pipes:
            if when_ready is not None:
                pipes.callback(os.close, ready)
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**self._locations.child_environment(), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE if when_ready is not None else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                pass_fds=(told,) if when_ready is not None else (),
                text=True,
                errors="surrogateescape",
                process_group=0,  # Ctrl-C is for this process to pass on
                preexec_fn=functools.partial(end_with_parent, os.getpid()),  # no other thread runs yet
            )
            lines = threading.Thread(target=self._pass_on_lines, args=(child,), daemon=True)
            lines.start()
            if when_ready is not None:
                os.close(told)
            refused = self._let_go_on(child, ready, when_ready) if when_ready is not None else None
            self._wait(child)
            lines.join(5.0)
            output.seek(0)
            try:
                answer = json.loads(output.read())
            except ValueError:
                answer = {}
        return EngineResult(child.returncode, answer if isinstance(answer, dict) else {}, refused)

    def report_checks(self, answer: dict[str, Any]) -> None:
        """Report size, time and what was checked of a restore that succeeded."""
        if not answer["id"]:  # an undo that only moved stores aside
            return
        size, seconds = human_bytes(answer["bytes"]), duration(answer["seconds"])
        opened = "" if answer.get("damaged") else ", every store was opened"
        self._report.write(f"    {size} in {seconds}; every block matched its hash{opened}")
        for problem in answer.get("damaged", ()):
            self._report.write(f"    DAMAGED when it was backed up, {problem['source']}: {problem['message']}")
        for line in missing_lines(answer["id"], answer.get("missing", ())):
            self._report.write(f"  {line}")
        for name, check in answer["checks"].items():
            if not isinstance(check, dict):
                continue
            if "tables" in check:
                rows = sum(count for count in check["tables"].values() if isinstance(count, int))
                tables = counted(len(check["tables"]), "table")
                result = f"integrity_check {check['integrity_check']}, {counted(rows, 'row')} in {tables}"
                self._report.write(f"    {name}: {'; '.join([result, *check.get('findings', [])])}")
            elif "collections" in check:
                counts = ", ".join(f"{title} {about['count']:,}" for title, about in check["collections"].items())
                self._report.write(f"    {name}: opened, searched and compared; {counts}")

    def _pass_on_lines(self, child: subprocess.Popen[str]) -> None:
        assert child.stderr is not None
        for line in child.stderr:
            if not line.startswith(("refbackup: ", "  -> ")):  # its error is in the answer, too
                self._report.write(f"    {line.rstrip()}")

    def _let_go_on(self, child: subprocess.Popen[str], ready: int, when_ready: Callable[[], None]) -> EngineError | None:
        """Wait until the child is ready or has ended, call *when_ready*, and tell the child. Returns what it raised."""
        assert child.stdin is not None
        with child.stdin:
            while not select.select([ready], [], [], 0.1)[0]:
                if self._interruption.requested:
                    return None
            if not os.read(ready, 16):  # it has ended
                return None
            try:
                when_ready()
            except EngineError as problem:
                return problem
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write("go\n")
                child.stdin.flush()
            return None

    def _wait(self, child: subprocess.Popen[str]) -> None:
        deadline: float | None = None
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
                return
            if self._interruption.requested and deadline is None:
                self._interruption.announce()
                deadline = time.monotonic() + STOP_SECONDS
                child.terminate()
            if deadline is not None and time.monotonic() > deadline:
                child.kill()
