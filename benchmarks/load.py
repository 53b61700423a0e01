"""Scenarios that measure what `refbackup` costs an application and its machine. Each yields lines of the table."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from .bench import GIGABYTE, MEGABYTE, Bench, copy, every, touch
from .changes import change_rows, writing
from .contestants import NAME, Ours, report, start_up
from .data import prepare
from .measure import CommandFailed, Cost, in_child, median, percentile, progress, run, size_of
from .plot import Chart, svg
from .report import Row, milliseconds, seconds, size


def pace(bench: Bench) -> Iterator[Row]:
    """Incremental backups at a steady pace, 100 changed rows each, and their bookkeeping."""
    settings = bench.settings
    with bench.folder("pace") as folder:
        source = copy(bench.data.sqlite, folder)
        ours = Ours(folder / "ours")
        ours.create(source, kind="full")
        listing = ours.call("list").seconds
        stored = ours.stored()
        costs: list[Cost] = []
        bookkeeping: list[int] = []
        for number in range(settings.pace_count):
            started = time.monotonic()
            in_child(change_rows, source, 100, 300 + number)
            costs.append(ours.create(source))
            bookkeeping.append(ours.bookkeeping(report(costs[-1])["id"]))
            time.sleep(max(0.0, settings.pace_interval - (time.monotonic() - started)))
        stored = (ours.stored() - stored) // settings.pace_count
        listings = [ours.call("list").seconds for _ in range(3)]
        total = size_of(source)
    cpu = median(cost.cpu_seconds for cost in costs) or 0.0
    yield Row(
        name="pace",
        work=f"an incremental every 10 s, 100 changed rows each, {size(total)}: CPU of each, median of {len(costs)}",
        ours=f"{seconds(cpu)} ({seconds(start_up().cpu_seconds)} of it to start), {cpu / 10:.1%} of a core",
        goal="≤ 5 % of a core",
        met=every(settings.is_full_size, cpu / 10 <= 0.05),
        detail={
            "cpu_seconds": [cost.cpu_seconds for cost in costs],
            "seconds": [cost.seconds for cost in costs],
            "bookkeeping_bytes": bookkeeping,
            "stored_bytes": stored,
            "list_seconds": listings,
        },
    )
    usual = median(bookkeeping) or 0.0
    yield Row(
        name="pace",
        work="the same: bookkeeping of each",
        ours=f"{size(usual)}, at most {size(max(bookkeeping))}, of {size(stored)} stored",
        goal="≤ 20 kB",
        met=usual <= 20_000,
    )
    after = median(listings) or 0.0
    yield Row(
        name="pace",
        work=f"the same: listing the {len(costs) + 1} backups",
        ours=f"{seconds(after)}, {seconds(listing)} for one backup",
        goal="at most 0.1 s more",
        met=after <= listing + 0.1,
    )


@dataclass(kw_only=True, slots=True)
class _Pauses:
    """The pauses that backups reported for each store and the commits of the writers, in milliseconds."""

    reported: dict[str, list[float]] = field(default_factory=lambda: {"sqlite": [], "chroma": []})
    commits: dict[str, list[float]] = field(default_factory=dict)
    failures: int = 0


def pauses(bench: Bench) -> Iterator[Row]:
    """How long writers of both stores wait during incremental backups of both."""
    with bench.folder("pauses") as folder:
        sources = {"sqlite": copy(bench.data.sqlite, folder), "chroma": copy(bench.data.chroma, folder)}
        ours = Ours(folder / "ours")
        ours.create(*sources.values(), kind="full")
        with writing("sqlite", sources["sqlite"]) as alone:
            time.sleep(1)
        idle = _backups_under_load(bench, ours, sources, ["sqlite"])
        busy = _backups_under_load(bench, ours, sources, ["sqlite", "chroma"])
        gigabytes = size_of(sources["chroma"]) / GIGABYTE
    for name, store, measured, allowed in (
        ("Chroma idle", "sqlite", idle, 10.0),
        ("both written without pause", "sqlite", busy, 150.0),
        ("Chroma idle", "chroma", idle, 50.0),
        ("both written without pause", "chroma", busy, 150 + 300 * gigabytes),
    ):
        times, commits = measured.reported[store], measured.commits.get(store, [])
        ours_text = "no backup"
        if times:
            ours_text = f"p50 {milliseconds(percentile(times, 0.5))}, p99 {milliseconds(percentile(times, 0.99))}, "
            ours_text += f"most {milliseconds(max(times))}, {len(times)} backups"
        others = f"commits of the writer: {_spread(commits)}" if commits else ""
        if store == "sqlite":
            others += f" (without backups {milliseconds(max(alone))})"
        yield Row(
            name="pauses",
            work=f"pause of {'SQLite' if store == 'sqlite' else 'Chroma'}'s writers, {name}",
            ours=ours_text + (f", {measured.failures} failed" if measured.failures else ""),
            others=others,
            goal=f"p99 ≤ {milliseconds(allowed)}",
            met=percentile(times, 0.99) <= allowed and not measured.failures if times else None,
            detail={"pause_ms": times, "slowest_writes_ms": sorted(commits, reverse=True)[:20]},
        )


def _backups_under_load(bench: Bench, ours: Ours, sources: Mapping[str, Path], written: Iterable[str]) -> _Pauses:
    pauses = _Pauses()
    with ExitStack() as stack:
        pauses.commits = {store: stack.enter_context(writing(store, sources[store])) for store in written}
        for _ in range(bench.settings.pauses):
            try:
                pause = report(ours.create(*sources.values()))["pause_ms"]
            except CommandFailed as error:
                progress(f"{NAME} failed: {error}")
                pauses.failures += 1
            else:
                for store, times in pauses.reported.items():
                    times.append(float(pause[store] or 0.0))
    return pauses


def _spread(times: list[float]) -> str:
    slowest = f"slowest {milliseconds(max(times))} of {len(times)}"
    return f"median {milliseconds(percentile(times, 0.5))}, p99 {milliseconds(percentile(times, 0.99))}, {slowest}"


def memory(bench: Bench) -> Iterator[Row]:
    """Peak memory of each command with all its processes, above that of the interpreter."""
    with bench.folder("memory") as folder:
        sources = (copy(bench.data.sqlite, folder), copy(bench.data.chroma, folder))
        total = sum(map(size_of, sources))
        costs = _each_command(folder, sources, watch_memory=True)
    interpreter = run([sys.executable, "-c", "import time; time.sleep(0.2)"], watch_memory=True)
    base = interpreter.memory.own if interpreter.memory else 0
    own = {name: cost.memory.own - base for name, cost in costs.items() if cost.memory}
    mapped = {name: cost.memory.mapped for name, cost in costs.items() if cost.memory}
    yield Row(
        name="memory",
        work=f"memory above the interpreter, {size(total)}",
        ours=_sizes(own),
        others=f"with mapped files and the interpreter: {_sizes(mapped)}",
        goal="≤ 200 MB",
        met=max(own.values()) <= 200 * MEGABYTE if own else None,
        detail={"own_bytes": own, "with_mapped_bytes": mapped, "interpreter_bytes": base},
    )


def _sizes(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size(value)}" for name, value in values.items())


def growth(bench: Bench) -> Iterator[Row]:
    """Time and memory at 1, 4 and 16 times a small base, both stores together; draws `Settings.plot`."""
    megabytes: list[float] = []
    times: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    for factor in (1, 4, 16):
        data = prepare(replace(bench.data.shape, scale=bench.settings.growth * factor))
        with bench.folder("growth") as folder:
            sources = (copy(data.sqlite, folder), copy(data.chroma, folder))
            megabytes.append(sum(map(size_of, sources)) / MEGABYTE)
            rounds = [_each_command(folder, sources) for _ in range(bench.settings.growth_runs)]
            for name in rounds[0]:
                times.setdefault(name, []).append(median(costs[name].seconds for costs in rounds) or 0.0)
            for name, cost in _each_command(folder, sources, watch_memory=True).items():
                if cost.memory:
                    peaks.setdefault(name, []).append(max(cost.memory.own, 1) / MEGABYTE)
    charts = [Chart(title="time", unit="s", positions=megabytes, lines=times)]
    if peaks:
        charts.append(Chart(title="memory", unit="MB", positions=megabytes, lines=peaks))
    plot = bench.settings.plot
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text(
        svg(charts, "MB", "Source data of both stores; the dashed line grows in proportion to it."), encoding="utf-8"
    )
    progress(f"plot: {plot}")
    yield Row(
        name="growth",
        work=f"time at {' / '.join(size(value * MEGABYTE) for value in megabytes)}",
        ours="; ".join(f"{name} {' / '.join(map(seconds, line))}" for name, line in times.items()),
        goal="linear: 4 times the added data in ≤ 4.8 times the added time",
        met=_is_linear(times.values()),
        detail={"megabytes": megabytes, "seconds": times, "memory_megabytes": peaks},
    )
    yield Row(
        name="growth",
        work="memory at the same",
        ours="; ".join(f"{name} {' / '.join(size(value * MEGABYTE) for value in line)}" for name, line in peaks.items()),
        goal="flat: ≤ 50 MB more for 16 times the data",
        met=all(line[-1] - line[0] <= 50 for line in peaks.values()) if peaks else None,
    )


def _is_linear(lines: Iterable[list[float]]) -> bool | None:
    """Whether 12 more units take at most 4.8 times as long as 3 more; None if no difference is large enough to judge."""
    steps = [(middle - first, last - middle) for first, middle, last in lines]
    judged = [later <= 4.8 * earlier for earlier, later in steps if earlier > 0.1]
    return all(judged) if judged else None


def _each_command(folder: Path, sources: tuple[Path, ...], *, watch_memory: bool = False) -> dict[str, Cost]:
    """Run each command once on a new repository; the incremental reads all files, because their time stamps changed."""
    ours = Ours(folder / "each")
    ours.watch_memory = watch_memory
    costs = {"full": ours.create(*sources, kind="full")}
    for source in sources:
        touch(source)
    costs["incremental"] = ours.create(*sources)
    costs["verify"] = ours.verify()
    costs["restore"] = ours.restore(folder / "restored")
    shutil.rmtree(folder / "restored")
    return costs
