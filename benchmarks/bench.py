"""What all scenarios share: how much to measure, the contestants that take part, and judging their results."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import contestants
from .contestants import LIMIT, NAME, Contestant
from .data import Dataset
from .measure import CommandFailed, Cost, Series, progress, run, size_of
from .report import Row, seconds, size

GIGABYTE = 1e9
MEGABYTE = 1e6
LONG_AGO = 3600
"""The age in seconds of time stamps that backups trust."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much to measure.

    ``runs`` are the rounds of refbackup and the limit, ``peer_runs`` those of the peers. Without ``all_peers``, peers are left
    out of scenarios whose goals do not compare with them. ``growth`` is the smallest scale of the growth scenario,
    which draws its chart to ``plot``.
    """

    scale: float = 1.0
    seed: int = 1
    runs: int = 5
    peer_runs: int = 5
    pace_count: int = 60
    pace_interval: float = 10.0
    pauses: int = 40
    growth: float = 0.0625
    growth_runs: int = 3
    plot: Path = Path(__file__).with_name("results") / "growth.svg"
    with_peers: bool = True
    all_peers: bool = True

    @property
    def is_full_size(self) -> bool:
        """Whether there is enough data for goals in seconds; on less, the start of the interpreter would decide."""
        return self.scale >= 1


SHORT = Settings(
    scale=0.05, runs=3, peer_runs=1, pace_count=5, pace_interval=0.0, pauses=4, growth=0.005, growth_runs=1, all_peers=False
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings, data, and the folder for copies and repositories."""

    settings: Settings
    data: Dataset
    scratch: Path

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """An empty folder that is removed at the end."""
        folder = self.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def names(self, peers: Iterable[str], *, compared: bool = True) -> list[str]:
        """Return refbackup and those *peers* that take part; *compared* says that a goal depends on them."""
        with_peers = self.settings.with_peers and (compared or self.settings.all_peers)
        present = contestants.available()
        return [NAME, *(name for name in peers if name in present and (with_peers or name == LIMIT))]

    def ready(self, folder: Path, source: Path, peers: Iterable[str], *, compared: bool = True) -> dict[str, Contestant]:
        """Return the contestants that have made a first backup of *source*."""
        made: dict[str, Contestant] = {}
        for name in self.names(peers, compared=compared):
            try:
                contestant = contestants.make(name, folder / "".join(letter if letter.isalnum() else "-" for letter in name))
                contestant.backup(source)
                made[name] = contestant
            except CommandFailed as error:
                progress(f"{name} failed: {error}")
        return made

    def in_turn(
        self,
        names: Iterable[str],
        work: Callable[[str], tuple[Cost, int]],
        before: Callable[[int], object] = lambda _: None,
    ) -> Results:
        """Let the contestants *names* do the same *work* in turn (A B A B), and call *before* at the start of each round.

        *work* returns the cost and the bytes stored. A contestant that raises `CommandFailed` takes no further part.
        """
        series = {name: Series() for name in names}
        for number in range(self.settings.runs):
            before(number)
            for name, measured in series.items():
                if measured.failure or (number >= self.settings.peer_runs and name not in (NAME, LIMIT)):
                    continue
                try:
                    cost, stored = work(name)
                except CommandFailed as error:
                    measured.failure = str(error)
                    progress(f"{name} failed: {error}")
                else:
                    measured.costs.append(cost)
                    measured.stored.append(stored)
        return Results(series)

    def incrementals(
        self,
        ready: Mapping[str, Contestant],
        source: Path,
        before: Callable[[int], object] = lambda _: None,
        *,
        read_all: bool = False,
    ) -> Results:
        """Let the contestants make incremental backups of *source* in turn; what they store is the growth of the repository."""

        def work(name: str) -> tuple[Cost, int]:
            stored = ready[name].stored()
            cost = ready[name].backup(source, read_all=read_all)
            return cost, ready[name].stored() - stored

        return self.in_turn(ready, work, before)


class Results:
    """The series of all contestants in one scenario."""

    def __init__(self, series: Mapping[str, Series]) -> None:
        self.series = series
        self.ours = self.of(NAME)
        self.limit = self.of(LIMIT)

    def of(self, name: str) -> Series:
        """Return the series of a contestant, empty if it took no part."""
        return self.series.get(name) or Series()

    def best(self, what: str) -> float | None:
        """Return the smallest median of the peers; *what* is ``seconds`` or ``bytes``."""
        values = [getattr(series, what) for name, series in self.series.items() if name != NAME]
        return min((value for value in values if value is not None), default=None)

    def row(
        self,
        name: str,
        work: str,
        goal: str,
        met: bool | None,
        *,
        source: int,
        note: str = "",
        bytes_as: str = "size",
        limit_options: str = "-1 -T0",
    ) -> Row:
        """Return the line of the table; *bytes_as* is ``size``, ``ratio`` (to the bytes of *source*) or ``none``."""
        cells = {
            name.replace("-1 -T0", limit_options): _figures(series, source, bytes_as) for name, series in self.series.items()
        }
        ours = cells.pop(NAME, seconds(None))
        return Row(
            name=name,
            work=work,
            ours=ours + note,
            others="; ".join(f"{name} {figures}" for name, figures in cells.items()),
            goal=goal,
            met=met,
            detail={"bytes_source": source, "series": {name: series.as_json() for name, series in self.series.items()}},
        )


def _figures(series: Series, source: int, bytes_as: str) -> str:
    if bytes_as == "none":
        return seconds(series.seconds)
    if not series.costs:
        return "failed" if series.failure else seconds(None)
    ratio = f" ({(series.bytes or 0) / source:.3f})" if bytes_as == "ratio" else ""
    return f"{seconds(series.seconds)}, {size(series.bytes)}{ratio}"


def at_most(value: float | None, reference: float | None, factor: float = 1.0) -> bool | None:
    """Return whether *value* is at most *factor* times *reference*; None if one is missing."""
    return None if value is None or reference is None else value <= reference * factor


def every(judged: bool, *goals: bool | None) -> bool | None:
    """Return whether all *goals* are met; None if they are not *judged* or one is None."""
    return None if not judged or None in goals else all(goals)


def copy(source: Path, folder: Path) -> Path:
    """Copy a file or a folder into *folder*, with old time stamps."""
    target = folder / source.name
    run(["cp", "-r", "--reflink=auto", str(source), str(target)])
    touch(target)
    return target


def touch(path: Path, later: float = 0) -> None:
    """Set the time stamps of a file, or of all files in a folder, to an hour ago plus *later* seconds."""
    for entry in [path, *path.rglob("*")]:
        os.utime(entry, (time.time() - LONG_AGO + later,) * 2)


def restored(contestant: Contestant, target: Path, least: int) -> tuple[Cost, int]:
    """Restore, and remove the result. Raises `CommandFailed` if it has fewer than *least* bytes."""
    cost = contestant.restore(target)
    written = size_of(target)
    shutil.rmtree(target)
    if written < least:
        raise CommandFailed(["restore"], 0, f"only {written} of {least} bytes restored")
    return cost, written
