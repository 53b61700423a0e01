"""``python -m benchmarks``: makes the data, measures, writes the table. See README.md here."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

from . import peers
from .data import CACHE, Shape, prepare
from .measure import progress, size_of
from .ours import NAME, start_up
from .report import Row, seconds, size, table
from .scenarios import SCENARIOS, Bench, Settings

_SHORT_SCALE = 0.05
_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure the engine and its peers on the same data, in turn. No figure is an error."""
    arguments = _parser().parse_args()
    CACHE.mkdir(exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=arguments.scratch or CACHE.parent / "data") as scratch:
        settings = _settings(arguments, Path(scratch))
        data = prepare(Shape(scale=settings.scale, seed=settings.seed))
        idle = start_up()
        if idle is None:
            progress(f"{NAME} does not run here: only the peers are measured")
        bench = Bench(settings=settings, data=data, ours=idle is not None)
        heading = _heading(bench, idle.seconds if idle else None)
        progress(heading)
        rows: list[Row] = []
        for name in arguments.only or SCENARIOS:
            progress(f"{time.monotonic() - started:6.0f} s  {name} ...")
            rows += SCENARIOS[name](bench)
    print(heading, table(rows), sep="\n")
    progress(f"{time.monotonic() - started:.0f} s in all")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(_as_json(bench, rows), indent=1) + "\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--short", action="store_true", help=f"about a minute, at scale {_SHORT_SCALE}")
    parser.add_argument("--scale", type=float, metavar="X", help="1 is 1.2 GB of SQLite and 50,000 vectors")
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--runs", type=int, metavar="N", help="runs of each, the median counts (5; short: 3, peers 1)")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--no-peers", action="store_true", help="measure only refbackup, and zstd as its limit")
    parser.add_argument("--pace-count", type=int, metavar="N", help="incrementals of `pace` (60, short: 5)")
    parser.add_argument("--pace-interval", type=float, metavar="S", help="seconds between them (10, short: 0)")
    parser.add_argument("--pauses", type=int, metavar="N", help="backups beside writers (40, short: 4)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="where copies and repositories go for the time")
    return parser


def _settings(arguments: argparse.Namespace, scratch: Path) -> Settings:
    short = bool(arguments.short)

    def chosen(given: float | None, usual: float, if_short: float) -> float:
        return given if given is not None else if_short if short else usual

    return Settings(
        scale=chosen(arguments.scale, 1.0, _SHORT_SCALE),
        seed=arguments.seed,
        runs=int(chosen(arguments.runs, 5, 3)),
        peer_runs=int(chosen(arguments.runs, 5, 1)),
        pace_count=int(chosen(arguments.pace_count, 60, 5)),
        pace_interval=chosen(arguments.pace_interval, 10.0, 0.0),
        pauses=int(chosen(arguments.pauses, 40, 4)),
        growth=0.005 if short else 0.0625,
        growth_runs=1 if short else 3,
        with_peers=not arguments.no_peers,
        all_peers=not short,
        scratch=scratch,
        plot=_RESULTS / "growth.svg",
    )


def _heading(bench: Bench, idle: float | None) -> str:
    settings, data = bench.settings, bench.data
    versions = [f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    versions += [f"{program} {version}" for program, version in peers.installed().items()]
    lines = [
        f"Scale {settings.scale:g}, seed {settings.seed}: {size(size_of(data.sqlite))} of SQLite, "
        f"{size(size_of(data.chroma))} of Chroma. Median of {settings.runs}, {os.cpu_count()} cores.",
        "; ".join(versions) + ".",
    ]
    if idle is not None:
        lines.append(f"Each figure of {NAME} includes {seconds(idle)} to start the interpreter and load the code.")
    if not settings.is_full_size:
        lines.append("Goals that hold for 1.2 GB are not judged on less data.")
    return "\n".join(lines) + "\n"


def _as_json(bench: Bench, rows: list[Row]) -> dict[str, object]:
    return {
        "scale": bench.settings.scale,
        "seed": bench.settings.seed,
        "runs": bench.settings.runs,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "peers": peers.installed(),
        "rows": [row.as_json() for row in rows],
    }


if __name__ == "__main__":
    if shutil.which("cp") is None:
        sys.exit("the benchmarks need a Unix system")
    sys.exit(main())
