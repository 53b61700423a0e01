"""Running a command and saying what it cost; running several in turn.

The process that measures stays small and imports nothing heavy: on Linux a child's peak memory begins with
that of the process that started it.
"""

from __future__ import annotations

import math
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
from typing import TypeVar

T = TypeVar("T")

_EVERY = 0.02


class CommandFailed(Exception):
    """A measured command ended with an error, or could not be started."""

    def __init__(self, argv: Sequence[str], code: int | None, output: str) -> None:
        tail = " ".join(output.split())[-300:]
        super().__init__(f"{' '.join(argv[:4])} ... ended with {code}: {tail}")
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """The most that a command and its descendants held at one moment, in bytes.

    ``own`` counts anonymous and shared memory, pages that several of them share once. ``mapped`` adds the
    pages of mapped files, which the kernel can take back at any time.
    """

    own: int
    mapped: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What a command took: wall and CPU seconds, and what it wrote to stdout.

    CPU seconds are those of all descendants that were waited for. ``largest`` is the peak resident size of
    the largest one of them, mapped files included. ``read`` counts the bytes that ``read`` calls of all
    returned, from the page cache too, but not those read through a mapping; None where the kernel does not
    tell. ``memory`` is there when it was asked for.
    """

    seconds: float
    cpu_seconds: float
    largest: int
    read: int | None = None
    memory: Memory | None = None
    output: str = ""

    def __add__(self, other: Cost) -> Cost:
        """The cost of both, one after the other."""
        return Cost(
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            largest=max(self.largest, other.largest),
            read=None if self.read is None or other.read is None else self.read + other.read,
            output=self.output + other.output,
        )


@dataclass(kw_only=True, slots=True)
class Series:
    """The outcomes of one contestant, one a round; *failure* says why it has none, or fewer."""

    costs: list[Cost] = field(default_factory=list)
    stored: list[int] = field(default_factory=list)
    failure: str | None = None

    @property
    def seconds(self) -> float | None:
        """The median of the wall seconds."""
        return median(cost.seconds for cost in self.costs)

    @property
    def cpu_seconds(self) -> float | None:
        """The median of the CPU seconds."""
        return median(cost.cpu_seconds for cost in self.costs)

    @property
    def bytes(self) -> float | None:
        """The median of the bytes stored."""
        return median(self.stored)

    def as_json(self) -> dict[str, object]:
        """Everything measured, without the commands' output."""
        return {
            "seconds": [round(cost.seconds, 4) for cost in self.costs],
            "cpu_seconds": [round(cost.cpu_seconds, 4) for cost in self.costs],
            "largest_process_bytes": max((cost.largest for cost in self.costs), default=None),
            "read_bytes": [cost.read for cost in self.costs],
            "stored_bytes": list(self.stored),
            "failure": self.failure,
        }


def median(values: Iterable[float]) -> float | None:
    """The median, None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of *values* that at least *share* (0 to 1) of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files below a folder."""
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

    With *flush*, what earlier commands wrote goes to the disk first, so that this one does not pay for it.
    *env* is added to the environment, None takes a name away. Watching memory costs a little time: do not
    take the seconds of such a run.
    """
    given: dict[str, str | None] = {**os.environ, **(env or {})}
    if flush:
        os.sync()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaints:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env={name: value for name, value in given.items() if value is not None},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=complaints,
            )
        except OSError as error:
            raise CommandFailed(argv, None, str(error)) from error
        watcher = _MemoryWatcher(process.pid) if watch_memory else None
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seconds = time.perf_counter() - start
            read = _bytes_read(process.pid)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            memory = watcher.stop() if watcher else None
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        complaints.seek(0)
        text = output.read().decode(errors="replace")
        if process.returncode:
            raise CommandFailed(argv, process.returncode, complaints.read().decode(errors="replace") + text)
    return Cost(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        largest=usage.ru_maxrss * 1024,
        read=read,
        memory=memory,
        output=text,
    )


def in_turn(
    contestants: Mapping[str, Callable[[int], tuple[Cost, int]]],
    rounds: int,
    before: Callable[[int], object] = lambda _: None,
    fewer: Mapping[str, int] | None = None,
) -> dict[str, Series]:
    """Let each contestant do the same work in turn, A B A B, *before* (untimed) preceding each round.

    Those in *fewer* take part only in that many of the first rounds.
    A contestant gets the number of the round and returns its cost and the bytes it stored. One that fails
    is left out from then on, and its series says why.
    """
    series = {name: Series() for name in contestants}
    for number in range(rounds):
        before(number)
        for name, contestant in contestants.items():
            if series[name].failure or number >= (fewer or {}).get(name, rounds):
                continue
            try:
                cost, stored = contestant(number)
            except CommandFailed as error:
                series[name].failure = str(error)
                progress(f"{name} failed: {error}")
            else:
                series[name].costs.append(cost)
                series[name].stored.append(stored)
    return series


def progress(text: str) -> None:
    """Tell the person who waits."""
    print(text, file=sys.stderr, flush=True)


def _bytes_read(pid: int) -> int | None:
    """What a process that has ended, and its descendants, got from ``read`` calls."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("rchar:")), None)


class _MemoryWatcher:
    """A thread that looks at a process and its descendants every 20 ms."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._own = 0
        self._mapped = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> Memory:
        """End watching and return the peaks."""
        self._done.set()
        self._thread.join()
        return Memory(own=self._own, mapped=self._mapped)

    def _watch(self) -> None:
        while not self._done.wait(_EVERY):
            own = mapped = 0
            for pid in _family(self._pid):
                shares = _proportional_shares(pid)
                own += shares.get("Pss_Anon", 0) + shares.get("Pss_Shmem", 0)
                mapped += shares.get("Pss", 0)
            self._own = max(self._own, own)
            self._mapped = max(self._mapped, mapped)


def _family(pid: int) -> list[int]:
    """A process and all its living descendants."""
    found = [pid]
    for parent in found:
        try:
            threads = list(Path(f"/proc/{parent}/task").iterdir())
            for thread in threads:
                found += [int(child) for child in (thread / "children").read_text().split()]
        except OSError:
            continue
    return found


def _proportional_shares(pid: int) -> dict[str, int]:
    """The ``Pss`` lines of a process in bytes: memory shared by n processes counts for 1/n in each."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss")}
