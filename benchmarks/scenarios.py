"""What is measured: one function a scenario, each yielding rows of the table.

A scenario copies what it changes into a scratch folder of its own, which goes away with it, and can be run
alone.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from . import peers
from .changes import Writes, add_to_chroma, change_rows, writing
from .data import Dataset, prepare
from .measure import CommandFailed, Cost, Series, in_turn, median, percentile, progress, run, size_of
from .ours import NAME, Ours, report, start_up
from .peers import LIMIT, SYNCED, Contestant
from .report import Chart, Row, milliseconds, seconds, size, svg

_GIGABYTE = 1e9
_MEGABYTE = 1e6
_LONG_AGO = 3600
_SETTLING = 3
"""Seconds after which the time stamps of a change are old enough to be believed (git's racy rule)."""
_FULL_SIZE = 1.2e9
"""The bytes of SQLite that goals in absolute seconds are stated for."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much to measure. ``growth`` is the scale of the smallest of the three sizes of the growth plot.

    ``runs`` are the rounds of ours and of the limit, ``peer_runs`` those of the peers. Without
    ``all_peers`` they are left out where no goal compares with them.
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
    with_peers: bool = True
    all_peers: bool = True
    scratch: Path
    plot: Path

    @property
    def is_full_size(self) -> bool:
        """Whether goals can be judged that less data does not tell: the interpreter's start would decide."""
        return self.scale >= 1

    def scaled(self, number: int, least: int) -> int:
        """A number that is stated for scale 1, at this scale."""
        return max(least, round(number * self.scale))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The settings, the data, and who takes part."""

    settings: Settings
    data: Dataset
    ours: bool

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """An empty folder that goes away at the end."""
        folder = self.settings.scratch / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def contestants(self, folder: Path, names: Iterable[str], *, compared: bool = True) -> dict[str, Contestant]:
        """Ours and those of the peers *names* that take part, each with an empty repository."""
        made: dict[str, Contestant] = {}
        for name in [NAME] * self.ours + self.peers(names, compared=compared):
            try:
                made[name] = Ours(folder / "ours") if name == NAME else peers.make(name, folder / _plain(name))
            except CommandFailed as error:
                progress(f"{name} failed: {error}")
        return made

    def peers(self, names: Iterable[str], *, compared: bool = True) -> list[str]:
        """Those of *names* that take part, the limit always; *compared*: whether a goal looks at them."""
        present = self.settings.with_peers and (compared or self.settings.all_peers)
        return [name for name in names if name in peers.available() and (present or name == LIMIT)]

    def in_turn(
        self,
        contestants: Mapping[str, Callable[[int], tuple[Cost, int]]],
        before: Callable[[int], object] = lambda _: None,
    ) -> dict[str, Series]:
        """See `measure.in_turn`; ours and the limit run in every round, peers possibly in fewer."""
        fewer = {name: self.settings.peer_runs for name in contestants if name not in (NAME, LIMIT)}
        return in_turn(contestants, self.settings.runs, before, fewer)


Scenario = Callable[[Bench], Iterator[Row]]


# Full backups


def full(bench: Bench) -> Iterator[Row]:
    """A full backup of SQLite, each run into an empty repository."""
    with bench.scratch("full") as folder:
        source = _copy(bench.data.sqlite, folder)
        bytes_source = size_of(source)

        def attempt(name: str, _: int) -> tuple[Cost, int]:
            if name == NAME:
                ours = Ours(folder / "repository")
                cost, stored = ours.create(source, kind="full"), ours.stored()
            else:
                peer = peers.make(name, folder / "repository")
                cost, stored = peer.backup(source), peer.stored()
            shutil.rmtree(folder / "repository")
            return cost, stored

        names = [NAME] * bench.ours + bench.peers(peers.available())
        series = bench.in_turn({name: partial(attempt, name) for name in names})
    ours, limit = _of(series, NAME), _of(series, LIMIT)
    yield Row(
        name="full",
        work=f"full backup, {size(bytes_source)} of SQLite",
        ours=_time_and_size(ours, bytes_source) + _times(ours.seconds, limit.seconds, " the limit"),
        others=_others(series, bytes_source),
        goal="≤ 1.25 times `zstd -1 -T0`, ratio no worse (within 1 %)",
        met=_all(
            bench.settings.is_full_size,
            _at_most(ours.seconds, limit.seconds, 1.25),
            _at_most(ours.bytes, limit.bytes, 1.01),
        ),
        detail=_detail(series, bytes_source=bytes_source),
    )


# Incremental backups


def unchanged(bench: Bench) -> Iterator[Row]:
    """Incremental backups of a file that did not change: with its mtime as it was, and with a new one."""
    with bench.scratch("unchanged") as folder:
        source = _copy(bench.data.sqlite, folder)
        time.sleep(_SETTLING)
        bytes_source = size_of(source)
        contestants = bench.contestants(folder, peers.DEDUPLICATING, compared=False)
        _first_backups(contestants, source)
        _first_backups(contestants, source)
        still = bench.in_turn(_incrementals(contestants, source))
        touched = bench.in_turn(
            _incrementals(contestants, source, read_all=True),
            before=lambda number: os.utime(source, (time.time() - _LONG_AGO + number + 1,) * 2),
        )
    ours = _of(touched, NAME)
    gigabytes = bytes_source / _GIGABYTE
    yield Row(
        name="unchanged",
        work=f"incremental, nothing changed, {size(bytes_source)} of SQLite, to be read",
        ours=_time_and_size(ours),
        others=_others(touched),
        goal=f"≤ 0.3 s a GB: {seconds(0.3 * gigabytes)}",
        met=_all(bench.settings.is_full_size, _at_most(ours.seconds, 0.3 * gigabytes)),
        detail=_detail(touched, bytes_source=bytes_source),
    )
    ours = _of(still, NAME)
    read = median(cost.read for cost in ours.costs if cost.read is not None)
    idle = start_up() if bench.ours else None
    extra = read - (idle.read or 0) if read is not None and idle else None
    yield Row(
        name="unchanged",
        work="the same, mtime as it was",
        ours=_time_and_size(ours) + (f", {size(max(0, extra))} read" if extra is not None else ""),
        others=_others(still),
        goal="the file is not read (≤ 5 % of it, code included)",
        met=_all(bench.settings.is_full_size, _at_most(extra, bytes_source, 0.05)),
        detail=_detail(still, bytes_source=bytes_source),
    )


def rows(bench: Bench) -> Iterator[Row]:
    """Incremental backups, each after the same change of random rows."""
    count = bench.settings.scaled(600, 20)
    with bench.scratch("rows") as folder:
        source = _copy(bench.data.sqlite, folder)
        contestants = bench.contestants(folder, peers.DEDUPLICATING)
        _first_backups(contestants, source)
        series = bench.in_turn(
            _incrementals(contestants, source),
            before=lambda number: change_rows(source, count, 100 + number, checkpoint=True),
        )
        bytes_source = size_of(source)
    ours, fastest, smallest = _of(series, NAME), _best(series, "seconds"), _best(series, "bytes")
    yield Row(
        name="rows",
        work=f"incremental, {count} random rows changed in {size(bytes_source)}",
        ours=_time_and_size(ours) + _advantage(ours, fastest, smallest),
        others=_others(series),
        goal="≥ 4 times faster and ≥ 50 times smaller than the best peer",
        met=_all(
            bench.settings.is_full_size,
            _at_most(ours.seconds, fastest, 1 / 4),
            _at_most(ours.bytes, smallest, 1 / 50),
        ),
        detail=_detail(series, rows=count, bytes_source=bytes_source),
    )


def vectors(bench: Bench) -> Iterator[Row]:
    """Incremental backups of a Chroma directory, each after 2 % new records, which rewrite the index once."""
    shape = bench.data.shape
    count = shape.sync_threshold
    with bench.scratch("vectors") as folder:
        source = _copy(bench.data.chroma, folder)
        contestants = bench.contestants(folder, peers.DEDUPLICATING)
        _first_backups(contestants, source)
        series = bench.in_turn(
            _incrementals(contestants, source),
            before=lambda number: add_to_chroma(source, count, 200 + number),
        )
        bytes_source = size_of(source)
    ours, borg, smallest = _of(series, NAME), _of(series, "borg"), _best(series, "bytes")
    allowed = 3.5 * _MEGABYTE * count / 1_000
    yield Row(
        name="vectors",
        work=f"incremental, {count} new vectors in Chroma ({shape.vectors} before, {size(bytes_source)})",
        ours=_time_and_size(ours) + _advantage(ours, borg.seconds, smallest),
        others=_others(series),
        goal=f"≤ {size(allowed)}, ≥ 25 times smaller than the best peer, no slower than borg",
        met=_all(
            bench.settings.is_full_size,
            _at_most(ours.bytes, allowed),
            _at_most(ours.bytes, smallest, 1 / 25),
            _at_most(ours.seconds, borg.seconds),
        ),
        detail=_detail(series, vectors=count, bytes_source=bytes_source),
    )


def pace(bench: Bench) -> Iterator[Row]:
    """Incremental backups at a steady pace, 100 changed rows each, and what they leave behind."""
    settings = bench.settings
    if not bench.ours:
        return
    with bench.scratch("pace") as folder:
        source = _copy(bench.data.sqlite, folder)
        ours = Ours(folder / "ours")
        ours.create(source, kind="full")
        listing = ours.list().seconds
        costs: list[Cost] = []
        bookkeeping: list[int] = []
        stored = ours.stored()
        for number in range(settings.pace_count):
            started = time.monotonic()
            change_rows(source, 100, 300 + number)
            cost = ours.create(source)
            costs.append(cost)
            kept = ours.bookkeeping(str(report(cost)["id"]))
            bookkeeping += [] if kept is None else [kept]
            time.sleep(max(0.0, settings.pace_interval - (time.monotonic() - started)))
        stored = (ours.stored() - stored) // settings.pace_count
        listings = [ours.list().seconds for _ in range(3)]
        bytes_source = size_of(source)
    cpu = median(cost.cpu_seconds for cost in costs) or 0.0
    idle = start_up()
    of_which = f" ({seconds(idle.cpu_seconds)} of it to start)" if idle else ""
    detail = {
        "cpu_seconds": [cost.cpu_seconds for cost in costs],
        "seconds": [cost.seconds for cost in costs],
        "bookkeeping_bytes": bookkeeping,
        "stored_bytes": stored,
        "list_seconds": listings,
    }
    work = f"an incremental every 10 s, 100 changed rows each, {size(bytes_source)}"
    yield Row(
        name="pace",
        work=f"{work}: CPU of each, median of {len(costs)}",
        ours=f"{seconds(cpu)}{of_which}, {cpu / 10:.1%} of a core",
        goal="≤ 5 % of a core",
        met=_all(settings.is_full_size, cpu / 10 <= 0.05),
        detail=detail,
    )
    most = max(bookkeeping, default=None)
    yield Row(
        name="pace",
        work="the same: bookkeeping of each",
        ours=f"{size(median(bookkeeping))}, at most {size(most)}, of {size(stored)} stored",
        goal="≤ 20 kB",
        met=None if most is None else (median(bookkeeping) or 0) <= 20_000,
    )
    after = median(listings) or 0.0
    yield Row(
        name="pace",
        work=f"the same: listing the {len(costs) + 1} backups",
        ours=f"{seconds(after)}, {seconds(listing)} for one backup",
        goal="at most 0.1 s more",
        met=after <= listing + 0.1,
    )


# Reading back


def restore(bench: Bench) -> Iterator[Row]:
    """Restoring SQLite from a full backup."""
    with bench.scratch("restore") as folder:
        source = _copy(bench.data.sqlite, folder)
        bytes_source = size_of(source)
        contestants = bench.contestants(folder, [LIMIT, SYNCED, *peers.DEDUPLICATING], compared=False)
        _first_backups(contestants, source)

        def attempt(contestant: Contestant, _: int) -> tuple[Cost, int]:
            cost = contestant.restore(folder / "restored")
            written = size_of(folder / "restored")
            shutil.rmtree(folder / "restored")
            if written < bytes_source:
                raise CommandFailed(["restore"], 0, f"only {written} of {bytes_source} bytes came back")
            return cost, written

        series = bench.in_turn(
            {name: partial(attempt, contestant) for name, contestant in contestants.items()},
        )
    ours, limit = _of(series, NAME), _of(series, LIMIT)
    yield Row(
        name="restore",
        work=f"restore, {size(bytes_source)} of SQLite",
        ours=seconds(ours.seconds) + _times(ours.seconds, limit.seconds, " the limit"),
        others=_others(series, sizes=False).replace("-1 -T0", "-d"),
        goal="≤ 1.1 times `zstd -d`",
        met=_all(bench.settings.is_full_size, _at_most(ours.seconds, limit.seconds, 1.1)),
        detail=_detail(series, bytes_source=bytes_source),
    )


def verify(bench: Bench) -> Iterator[Row]:
    """Reading and checking every byte of a full backup."""
    with bench.scratch("verify") as folder:
        source = _copy(bench.data.sqlite, folder)
        bytes_source = size_of(source)
        contestants = bench.contestants(folder, [LIMIT, *peers.DEDUPLICATING], compared=False)
        _first_backups(contestants, source)

        def attempt(contestant: Contestant, _: int) -> tuple[Cost, int]:
            return contestant.verify(), contestant.stored()

        series = bench.in_turn(
            {name: partial(attempt, contestant) for name, contestant in contestants.items()},
        )
    ours = _of(series, NAME)
    allowed = 1.5 * bytes_source / _FULL_SIZE
    yield Row(
        name="verify",
        work=f"verify every byte, {size(bytes_source)} of SQLite",
        ours=seconds(ours.seconds),
        others=_others(series, sizes=False).replace("-1 -T0", "-t"),
        goal=f"≤ 1.5 s for 1.2 GB: {seconds(allowed)}",
        met=_all(bench.settings.is_full_size, _at_most(ours.seconds, allowed)),
        detail=_detail(series, bytes_source=bytes_source),
    )


# What applications feel


def pauses(bench: Bench) -> Iterator[Row]:
    """How long writers of both stores wait while incremental backups of both are made in a row."""
    if not bench.ours:
        return
    with bench.scratch("pauses") as folder:
        database = _copy(bench.data.sqlite, folder)
        chroma = _copy(bench.data.chroma, folder)
        ours = Ours(folder / "ours")
        ours.create(database, chroma, kind="full")
        with writing("sqlite", database) as alone:
            time.sleep(1)
        idle, idle_writes = _pauses(bench, ours, {"sqlite": database}, (database, chroma))
        busy, busy_writes = _pauses(bench, ours, {"sqlite": database, "chroma": chroma}, (database, chroma))
        gigabytes = size_of(chroma) / _GIGABYTE
    for name, store, found, writes, allowed in (
        ("Chroma idle", "sqlite", idle, idle_writes["sqlite"], 10.0),
        ("both written without pause", "sqlite", busy, busy_writes["sqlite"], 150.0),
        ("Chroma idle", "chroma", idle, None, 50.0),
        ("both written without pause", "chroma", busy, busy_writes["chroma"], 150 + 300 * gigabytes),
    ):
        times = found.times[store]
        writers = "SQLite's" if store == "sqlite" else "Chroma's"
        slowest = f"without backups {milliseconds(alone.slowest[0])}" if store == "sqlite" else ""
        ours_text = f"p50 {milliseconds(percentile(times, 0.5))}, p99 {milliseconds(percentile(times, 0.99))}, "
        ours_text += f"most {milliseconds(max(times))}, {len(times)} backups" if times else ""
        yield Row(
            name="pauses",
            work=f"pause of {writers} writers, {name}",
            ours=(ours_text if times else "no backup") + (f", {found.failures} failed" if found.failures else ""),
            others=_as_felt(writes, slowest),
            goal=f"p99 ≤ {milliseconds(allowed)}",
            met=None if not times else percentile(times, 0.99) <= allowed and not found.failures,
            detail={"pause_ms": times, "slowest_writes_ms": writes.slowest if writes else []},
        )


@dataclass(kw_only=True, slots=True)
class _Pauses:
    """What backups said about the pauses of each store, in milliseconds, and how many of them failed."""

    times: dict[str, list[float]]
    failures: int = 0


def _pauses(
    bench: Bench, ours: Ours, written: Mapping[str, Path], sources: tuple[Path, ...]
) -> tuple[_Pauses, dict[str, Writes]]:
    """Make backups of *sources* beside writers of those in *written*."""
    found = _Pauses(times={"sqlite": [], "chroma": []})
    with ExitStack() as stack:
        writes = {name: stack.enter_context(writing(name, path)) for name, path in written.items()}
        for _ in range(bench.settings.pauses):
            try:
                pause = report(ours.create(*sources))["pause_ms"]
            except CommandFailed as error:
                progress(f"{NAME} failed: {error}")
                found.failures += 1
            else:
                for store, times in found.times.items():
                    times.append(float(pause[store] or 0.0))
    return found, writes


def _as_felt(writes: Writes | None, beside: str) -> str:
    if writes is None:
        return ""
    text = f"the writer saw: median {milliseconds(writes.median)}, p99 {milliseconds(writes.p99)}, "
    text += f"slowest {milliseconds(writes.slowest[0])} of {writes.count}"
    return f"{text} ({beside})" if beside else text


# What it takes


def memory(bench: Bench) -> Iterator[Row]:
    """The memory of each command, all its processes together, above that of a bare interpreter."""
    if not bench.ours:
        return
    with bench.scratch("memory") as folder:
        database, chroma = _copy(bench.data.sqlite, folder), _copy(bench.data.chroma, folder)
        bytes_source = size_of(database) + size_of(chroma)
        costs = _each_command(folder, (database, chroma), watch_memory=True)
    bare = run([*_PYTHON, "-c", "import time; time.sleep(0.2)"], watch_memory=True)
    base = bare.memory.own if bare.memory else 0
    own = {name: cost.memory.own - base for name, cost in costs.items() if cost.memory}
    mapped = {name: cost.memory.mapped for name, cost in costs.items() if cost.memory}
    yield Row(
        name="memory",
        work=f"memory above the interpreter, {size(bytes_source)}",
        ours=", ".join(f"{name} {size(value)}" for name, value in own.items()),
        others="with mapped files, interpreter included: "
        + ", ".join(f"{name} {size(value)}" for name, value in mapped.items()),
        goal="≤ 200 MB",
        met=max(own.values()) <= 200 * _MEGABYTE if own else None,
        detail={"own_bytes": own, "with_mapped_bytes": mapped, "interpreter_bytes": base},
    )


def growth(bench: Bench) -> Iterator[Row]:
    """Time and memory at 1, 4 and 16 times a small base, both stores together; draws a plot."""
    if not bench.ours:
        return
    sizes: list[float] = []
    times: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    for factor in (1, 4, 16):
        data = prepare(replace(bench.data.shape, scale=bench.settings.growth * factor))
        with bench.scratch("growth") as folder:
            sources = (_copy(data.sqlite, folder), _copy(data.chroma, folder))
            sizes.append(sum(size_of(source) for source in sources) / _MEGABYTE)
            rounds = [_each_command(folder, sources) for _ in range(bench.settings.growth_runs)]
            for name in rounds[0]:
                times.setdefault(name, []).append(median(costs[name].seconds for costs in rounds) or 0.0)
            for name, cost in _each_command(folder, sources, watch_memory=True).items():
                if cost.memory:
                    peaks.setdefault(name, []).append(max(cost.memory.own, 1) / _MEGABYTE)
    charts = [Chart(title="time", unit="s", positions=sizes, lines=times)]
    if peaks:
        charts.append(Chart(title="memory", unit="MB", positions=sizes, lines=peaks))
    bench.settings.plot.parent.mkdir(parents=True, exist_ok=True)
    bench.settings.plot.write_text(svg(charts, "MB", "Source data of both stores; the dashed line grows in proportion to it."))
    progress(f"plot: {bench.settings.plot}")
    detail = {"megabytes": sizes, "seconds": times, "memory_megabytes": peaks}
    yield Row(
        name="growth",
        work=f"time at {' / '.join(size(value * _MEGABYTE) for value in sizes)}",
        ours="; ".join(f"{name} {' / '.join(map(seconds, line))}" for name, line in times.items()),
        goal="linear: 4 times the added data in ≤ 4.8 times the added time",
        met=_is_linear(times.values()),
        detail=detail,
    )
    yield Row(
        name="growth",
        work="memory at the same",
        ours="; ".join(f"{name} {' / '.join(size(value * _MEGABYTE) for value in line)}" for name, line in peaks.items()),
        goal="flat: ≤ 50 MB more for 16 times the data",
        met=all(line[-1] - line[0] <= 50 for line in peaks.values()) if peaks else None,
    )


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario for scenario in (full, unchanged, rows, vectors, pace, restore, verify, pauses, memory, growth)
}


# Shared by the scenarios

_PYTHON = (sys.executable,)


def _each_command(folder: Path, sources: tuple[Path, ...], *, watch_memory: bool = False) -> dict[str, Cost]:
    """Run each command once on a new repository, and the incremental one after all files were touched."""
    ours = Ours(folder / "each", watch_memory=watch_memory)
    costs = {"full": ours.create(*sources, kind="full")}
    for source in sources:
        for path in [source, *source.rglob("*")]:
            os.utime(path, (time.time() - _LONG_AGO,) * 2)
    costs["incremental"] = ours.create(*sources)
    costs["verify"] = ours.verify()
    costs["restore"] = ours.restore(folder / "restored")
    shutil.rmtree(folder / "restored")
    return costs


def _copy(source: Path, folder: Path) -> Path:
    """Copy a file or a folder into *folder*, with an mtime that is safely in the past."""
    target = folder / source.name
    run(["cp", "-r", "--reflink=auto", str(source), str(target)])
    for path in [target, *target.rglob("*")]:
        os.utime(path, (time.time() - _LONG_AGO,) * 2)
    return target


def _first_backups(contestants: dict[str, Contestant], source: Path) -> None:
    """Let all make the backups that the measured ones build on; one that fails takes no further part."""
    for name, contestant in list(contestants.items()):
        try:
            contestant.backup(source)
        except CommandFailed as error:
            progress(f"{name} failed: {error}")
            del contestants[name]


def _incrementals(
    contestants: Mapping[str, Contestant], source: Path, *, read_all: bool = False
) -> dict[str, Callable[[int], tuple[Cost, int]]]:
    def attempt(contestant: Contestant, _: int) -> tuple[Cost, int]:
        before = contestant.stored()
        cost = contestant.backup(source, read_all=read_all)
        return cost, contestant.stored() - before

    return {name: partial(attempt, contestant) for name, contestant in contestants.items()}


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _of(series: Mapping[str, Series], name: str) -> Series:
    return series.get(name) or Series()


def _best(series: Mapping[str, Series], what: str) -> float | None:
    """The smallest median of the peers."""
    values = [getattr(found, what) for name, found in series.items() if name != NAME]
    return min((value for value in values if value is not None), default=None)


def _at_most(value: float | None, reference: float | None, factor: float = 1.0) -> bool | None:
    return None if value is None or reference is None else value <= reference * factor


def _all(*judgements: bool | None) -> bool | None:
    """Whether all hold; None where one cannot be told. The first says whether to judge at all."""
    if not judgements[0] or None in judgements:
        return None
    return all(judgements)


def _time_and_size(series: Series, bytes_source: int | None = None) -> str:
    if not series.costs:
        return "failed" if series.failure else seconds(None)
    ratio = f" ({(series.bytes or 0) / bytes_source:.3f})" if bytes_source else ""
    return f"{seconds(series.seconds)}, {size(series.bytes)}{ratio}"


def _others(series: Mapping[str, Series], bytes_source: int | None = None, *, sizes: bool = True) -> str:
    return "; ".join(
        f"{name} {_time_and_size(found, bytes_source) if sizes else seconds(found.seconds)}"
        for name, found in series.items()
        if name != NAME
    )


def _times(value: float | None, reference: float | None, what: str) -> str:
    return f", {value / reference:.2f} times{what}" if value is not None and reference else ""


def _advantage(ours: Series, reference: float | None, smallest: float | None) -> str:
    if not ours.seconds or not ours.bytes or not reference or not smallest:
        return ""
    return f": {reference / ours.seconds:.1f} times faster, {smallest / ours.bytes:.0f} times smaller"


def _detail(series: Mapping[str, Series], **more: object) -> dict[str, object]:
    return {**more, "series": {name: found.as_json() for name, found in series.items()}}


def _is_linear(lines: Iterable[list[float]]) -> bool | None:
    """Whether 12 more units take at most 4.8 times as long as 3 more, where that can be measured."""
    steps = [(middle - first, last - middle) for first, middle, last in lines]
    told = [later <= 4.8 * earlier for earlier, later in steps if earlier > 0.1]
    return all(told) if told else None
