"""Runs commands and measures their cost.

This process imports nothing heavy; what needs numpy or chromadb runs through `in_child`.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_SAMPLE_SECONDS = 0.02


class CommandFailed(Exception):
    """A measured command could not be started, or exited with a status other than 0."""

    def __init__(self, argv: Sequence[str], code: int | None, output: str) -> None:
        tail = " ".join(output.split())[-300:]
        super().__init__(f"{' '.join(argv[:4])} ... exited with {code}: {tail}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Peak memory of a command with all its descendants, in bytes; a page that several of them share counts once.

    ``own`` is anonymous and shared memory. ``mapped`` adds pages of mapped files, which the kernel can reclaim.
    """

    own: int
    mapped: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Wall and CPU seconds of a command with its descendants, and its output.

    ``read`` is the bytes returned by ``read`` calls, from the page cache too but not through mappings; None if the kernel does
    not report it. ``memory`` is set if the run watched it.
    """

    seconds: float
    cpu_seconds: float
    read: int | None = None
    memory: Memory | None = None
    output: str = ""

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both in a row."""
        return Cost(
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            read=None if self.read is None or other.read is None else self.read + other.read,
            output=self.output + other.output,
        )


@dataclass(kw_only=True, slots=True)
class Series:
    """The costs of one contestant and the bytes it stored, round by round, up to its first failure."""

    costs: list[Cost] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    failure: str | None = None

    @property
    def seconds(self) -> float | None:
        """The median wall seconds."""
        return median(cost.seconds for cost in self.costs)

    @property
    def bytes(self) -> float | None:
        """The median bytes stored."""
        return median(self.stored)

    def as_json(self) -> dict[str, object]:
        """Return all measurements, without the commands' output."""
        return {
            "seconds": [round(cost.seconds, 4) for cost in self.costs],
            "cpu_seconds": [round(cost.cpu_seconds, 4) for cost in self.costs],
            "read_bytes": [cost.read for cost in self.costs],
            "stored_bytes": list(self.stored),
            "failure": self.failure,
        }


def median(values: Iterable[float]) -> float | None:
    """Return the median, None for no values."""
    ordered = sorted(values)
    return statistics.median(ordered) if ordered else None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest of *values* that at least *share* (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(size_of(entry) for entry in path.iterdir())
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str | None] | None = None,
    flush: bool = True,
    watch_memory: bool = False,
) -> Cost:
    """Run a command to its end and return its cost. Raises `CommandFailed` for an exit code other than 0.

    *flush* syncs what earlier commands wrote, so that this one is not charged for it. *env* is added to the environment; None
    removes a name. Watching memory costs a little time: do not use the seconds of such a run.
    """
    environment: dict[str, str | None] = {**os.environ, **(env or {})}
    if flush:
        os.sync()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as stderr:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env={name: value for name, value in environment.items() if value is not None},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=stderr,
            )
        except OSError as error:
            raise CommandFailed(argv, None, str(error)) from error
        watcher = _MemoryWatcher(process.pid) if watch_memory else None
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seconds = time.perf_counter() - start
            read = _proc(process.pid, "io").get("rchar")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            memory = watcher.stop() if watcher else None
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        stderr.seek(0)
        text = output.read().decode(errors="replace")
        if process.returncode:
            raise CommandFailed(argv, process.returncode, stderr.read().decode(errors="replace") + text)
    return Cost(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        read=read,
        memory=memory,
        output=text,
    )


def in_child(function: Callable[..., object], *arguments: object) -> None:
    """Call a module-level *function* in a new process. Raises `RuntimeError` if it fails."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} exited with {process.exitcode}")


def progress(text: str) -> None:
    """Print *text* to stderr."""
    print(text, file=sys.stderr, flush=True)


def _proc(pid: int, name: str) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()
    except OSError:
        return {}
    return {key: int(value.split()[0]) for key, value in (line.split(":", 1) for line in lines if ": " in line)}


class _MemoryWatcher:
    """A thread that samples the memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._own = 0
        self._mapped = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> Memory:
        self._done.set()
        self._thread.join()
        return Memory(own=self._own, mapped=self._mapped)

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            own = mapped = 0
            for pid in _family(self._pid):
                shares = _proc(pid, "smaps_rollup")  # memory that n processes share counts 1/n in each
                own += shares.get("Pss_Anon", 0) + shares.get("Pss_Shmem", 0)
                mapped += shares.get("Pss", 0)
            self._own = max(self._own, own * 1024)
            self._mapped = max(self._mapped, mapped * 1024)


def _family(pid: int) -> list[int]:
    family = [pid]
    for parent in family:
        try:
            for thread in list(Path(f"/proc/{parent}/task").iterdir()):
                family += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            continue
    return family
