"""``python -m benchmarks``: makes the data, measures, prints the table. See README.md here."""

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

from . import comparisons, load
from .bench import SHORT, Bench, Settings
from .contestants import NAME, installed, start_up
from .data import CACHE, Shape, prepare
from .measure import progress, size_of
from .report import Row, seconds, size, table

_SCENARIOS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "full": comparisons.full,
    "unchanged": comparisons.unchanged,
    "rows": comparisons.rows,
    "vectors": comparisons.vectors,
    "pace": load.pace,
    "restore": comparisons.restore,
    "verify": comparisons.verify,
    "pauses": load.pauses,
    "memory": load.memory,
    "growth": load.growth,
}


def main() -> int:
    """Measure refbackup and its peers on the same data, in turn. Timings never fail the run."""
    arguments = _parser().parse_args()
    settings = _settings(arguments)
    CACHE.mkdir(exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=arguments.scratch or CACHE) as scratch:
        data = prepare(Shape(scale=settings.scale, seed=settings.seed))
        bench = Bench(settings=settings, data=data, scratch=Path(scratch))
        heading = _heading(bench)
        progress(heading)
        rows: list[Row] = []
        for name in arguments.only or _SCENARIOS:
            progress(f"{time.monotonic() - started:6.0f} s  {name} ...")
            rows += _SCENARIOS[name](bench)
    print(heading, table(rows), sep="\n")
    progress(f"{time.monotonic() - started:.0f} s in total")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(_as_json(settings, rows), indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--short", action="store_true", help=f"about a minute, at scale {SHORT.scale:g}")
    parser.add_argument("--scale", type=float, metavar="X", help="1 is 1.2 GB of SQLite and 50,000 vectors")
    parser.add_argument("--only", nargs="+", choices=list(_SCENARIOS), metavar="NAME", help=", ".join(_SCENARIOS))
    parser.add_argument("--runs", type=int, metavar="N", help="rounds; the median counts (5; short: 3, peers 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the data (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    parser.add_argument("--no-peers", action="store_true", help="measure only refbackup and zstd, its limit")
    parser.add_argument("--pace-count", type=int, metavar="N", help="incrementals of `pace` (60, short: 5)")
    parser.add_argument("--pace-interval", type=float, metavar="S", help="seconds between their starts (10, short: 0)")
    parser.add_argument("--pauses", type=int, metavar="N", help="backups under load in `pauses` (40, short: 4)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="folder for copies and repositories while it runs")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    names = {field.name for field in fields(Settings)}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    if arguments.runs is not None:
        given["peer_runs"] = arguments.runs
    return replace(SHORT if arguments.short else Settings(), **given, with_peers=not arguments.no_peers)


def _heading(bench: Bench) -> str:
    settings, data = bench.settings, bench.data
    versions = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    versions += [f"{program} {version}" for program, version in installed().items()]
    lines = [
        f"Scale {settings.scale:g}, seed {settings.seed}: {size(size_of(data.sqlite))} of SQLite, "
        f"{size(size_of(data.chroma))} of Chroma. Median of {settings.runs}, {os.cpu_count()} cores.",
        "; ".join(versions) + ".",
        f"All times of {NAME} include {seconds(start_up().seconds)} to start the interpreter and load the code.",
    ]
    if not settings.is_full_size:
        lines.append("Goals for 1.2 GB are not judged on less data.")
    return "\n".join(lines) + "\n"


def _as_json(settings: Settings, rows: list[Row]) -> dict[str, object]:
    return {
        "scale": settings.scale,
        "seed": settings.seed,
        "runs": settings.runs,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "peers": installed(),
        "rows": [row.as_json() for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
