"""Scenarios that compare `refbackup` with its peers on one source. Each yields lines of the table and can run alone."""

import shutil
import time
from collections.abc import Iterator

from . import contestants
from .bench import GIGABYTE, MEGABYTE, Bench, at_most, copy, every, restored, touch
from .changes import add_records, change_rows
from .contestants import DEDUPLICATING, LIMIT, SYNCED, start_up
from .measure import Cost, Series, in_child, median, size_of
from .report import Row, seconds, size

_SETTLING_SECONDS = 3
"""How old a change must be for its time stamp to be trusted (git's racy rule)."""
_FULL_SIZE = 1.2e9
"""The bytes of SQLite that goals in seconds are stated for."""


def full(bench: Bench) -> Iterator[Row]:
    """A full backup of SQLite into an empty repository."""
    with bench.folder("full") as folder:
        source = copy(bench.data.sqlite, folder)
        total = size_of(source)

        def work(name: str) -> tuple[Cost, int]:
            contestant = contestants.make(name, folder / "contestant")
            cost, stored = contestant.backup(source), contestant.stored()
            shutil.rmtree(folder / "contestant")
            return cost, stored

        results = bench.in_turn(bench.names(contestants.available()[1:]), work)
    ours, limit = results.ours, results.limit
    yield results.row(
        "full",
        f"full backup, {size(total)} of SQLite",
        "≤ 1.25 times `zstd -1 -T0`, ratio no worse (within 1 %)",
        every(
            bench.settings.is_full_size,
            at_most(ours.seconds, limit.seconds, 1.25),
            at_most(ours.bytes, limit.bytes, 1.01),
        ),
        note=_times_the_limit(ours, limit),
        source=total,
        bytes_as="ratio",
    )


def unchanged(bench: Bench) -> Iterator[Row]:
    """Incremental backups of an unchanged file: first with its old mtime, then with a new one."""
    with bench.folder("unchanged") as folder:
        source = copy(bench.data.sqlite, folder)
        time.sleep(_SETTLING_SECONDS)
        total = size_of(source)
        ready = bench.ready(folder, source, DEDUPLICATING, compared=False)
        for contestant in ready.values():
            contestant.backup(source)
        same = bench.incrementals(ready, source)
        touched = bench.incrementals(ready, source, lambda number: touch(source, number + 1), read_all=True)
    allowed = 0.3 * total / GIGABYTE
    yield touched.row(
        "unchanged",
        f"incremental, nothing changed but the mtime, {size(total)} of SQLite",
        f"≤ 0.3 s per GB: {seconds(allowed)}",
        every(bench.settings.is_full_size, at_most(touched.ours.seconds, allowed)),
        source=total,
    )
    read = median(cost.read for cost in same.ours.costs if cost.read is not None)
    extra = None if read is None else max(0.0, read - (start_up().read or 0))
    yield same.row(
        "unchanged",
        "the same with the old mtime",
        "the file is not read (≤ 5 % of it, code included)",
        every(bench.settings.is_full_size, at_most(extra, total, 0.05)),
        note="" if extra is None else f", {size(extra)} read",
        source=total,
    )


def rows(bench: Bench) -> Iterator[Row]:
    """Incremental backups, each after random rows changed."""
    count = max(20, round(600 * bench.settings.scale))
    with bench.folder("rows") as folder:
        source = copy(bench.data.sqlite, folder)
        ready = bench.ready(folder, source, DEDUPLICATING)
        results = bench.incrementals(ready, source, lambda number: in_child(change_rows, source, count, 100 + number, True))
        total = size_of(source)
    ours, fastest, smallest = results.ours, results.best("seconds"), results.best("bytes")
    yield results.row(
        "rows",
        f"incremental, {count} random rows changed in {size(total)}",
        "≥ 4 times faster and ≥ 50 times smaller than the best peer",
        every(
            bench.settings.is_full_size,
            at_most(ours.seconds, fastest, 1 / 4),
            at_most(ours.bytes, smallest, 1 / 50),
        ),
        note=_advantage(ours, fastest, smallest),
        source=total,
    )


def vectors(bench: Bench) -> Iterator[Row]:
    """Incremental backups of a Chroma directory, each after 2 % new records, which rewrite the index once."""
    shape = bench.data.shape
    count = shape.sync_threshold
    with bench.folder("vectors") as folder:
        source = copy(bench.data.chroma, folder)
        ready = bench.ready(folder, source, DEDUPLICATING)
        results = bench.incrementals(ready, source, lambda number: in_child(add_records, source, count, 200 + number))
        total = size_of(source)
    ours, borg, smallest = results.ours, results.of("borg"), results.best("bytes")
    allowed = 3.5 * MEGABYTE * count / 1_000
    yield results.row(
        "vectors",
        f"incremental, {count} new vectors in Chroma ({shape.vectors} before, {size(total)})",
        f"≤ {size(allowed)}, ≥ 25 times smaller than the best peer, no slower than borg",
        every(
            bench.settings.is_full_size,
            at_most(ours.bytes, allowed),
            at_most(ours.bytes, smallest, 1 / 25),
            at_most(ours.seconds, borg.seconds),
        ),
        note=_advantage(ours, borg.seconds, smallest),
        source=total,
    )


def restore(bench: Bench) -> Iterator[Row]:
    """A restore of SQLite from a full backup."""
    with bench.folder("restore") as folder:
        source = copy(bench.data.sqlite, folder)
        total = size_of(source)
        ready = bench.ready(folder, source, [LIMIT, SYNCED, *DEDUPLICATING], compared=False)
        results = bench.in_turn(ready, lambda name: restored(ready[name], folder / "restored", total))
    ours, limit = results.ours, results.limit
    yield results.row(
        "restore",
        f"restore, {size(total)} of SQLite",
        "≤ 1.1 times `zstd -d`",
        every(bench.settings.is_full_size, at_most(ours.seconds, limit.seconds, 1.1)),
        note=_times_the_limit(ours, limit),
        source=total,
        bytes_as="none",
        limit_options="-d",
    )


def verify(bench: Bench) -> Iterator[Row]:
    """Verification of every byte of a full backup."""
    with bench.folder("verify") as folder:
        source = copy(bench.data.sqlite, folder)
        total = size_of(source)
        ready = bench.ready(folder, source, [LIMIT, *DEDUPLICATING], compared=False)
        results = bench.in_turn(ready, lambda name: (ready[name].verify(), ready[name].stored()))
    allowed = 1.5 * total / _FULL_SIZE
    yield results.row(
        "verify",
        f"verify every byte, {size(total)} of SQLite",
        f"≤ 1.5 s for 1.2 GB: {seconds(allowed)}",
        every(bench.settings.is_full_size, at_most(results.ours.seconds, allowed)),
        source=total,
        bytes_as="none",
        limit_options="-t",
    )


def _times_the_limit(ours: Series, limit: Series) -> str:
    return f", {ours.seconds / limit.seconds:.2f} times the limit" if ours.seconds and limit.seconds else ""


def _advantage(ours: Series, reference: float | None, smallest: float | None) -> str:
    if not ours.seconds or not ours.bytes or not reference or not smallest:
        return ""
    return f": {reference / ours.seconds:.1f} times faster, {smallest / ours.bytes:.0f} times smaller"
