"""The check: every row against every vector, on live stores or on a copy at rest.

A pass over everything (`compare`) compares rows with vectors, and returns the ids that are not certainly equal. These are
examined one by one (`suspects`). Nothing is written to either store, and a crash leaves nothing behind but what *report* kept.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from backups.engine.chroma_files.records import count_records

from .broken_index import of_broken_index
from .compare import compare
from .context import Context
from .errors import IndexBroken, StoreBusy
from .findings import Finding, FindingKind, Severity, State, Tally, finding
from .mapping import Description, Mapping, scalar
from .rows import BrokenKey, broken_keys, connect, reading
from .stores import Stores, open_stores
from .suspects import Suspects

_OPERATION = "check"


@dataclass(slots=True, kw_only=True)
class Sums:
    """How much of one mapping was compared."""

    rows: int = 0
    records: int = 0
    vectors: int = 0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The sums of a check; its findings went to *report*."""

    tally: Tally
    mappings: dict[str, Sums] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def state(self) -> State:
        """What the findings add up to."""
        return self.tally.state

    @property
    def records(self) -> int:
        """Rows and records compared."""
        return sum(sums.rows + sums.records for sums in self.mappings.values())

    def as_json(self) -> dict[str, Any]:
        """Plain data: ``state, findings, kinds, severities, in_flight, records, mappings, seconds``."""
        return {
            "state": str(self.state),
            "findings": self.tally.findings,
            "kinds": dict(sorted(self.tally.kinds.items())),
            "severities": dict(sorted(self.tally.severities.items())),
            "in_flight": self.tally.severities[Severity.INFO],
            "records": self.records,
            "mappings": {key: asdict(sums) for key, sums in self.mappings.items()},
            "seconds": round(self.seconds, 3),
        }


def check(description: Description, stores: Stores, ctx: Context, report: Callable[[Finding], None]) -> Outcome:
    """Compare all that *description* maps, pass each finding to *report* as soon as it is certain, and return the sums.

    Run it in a process in which no Chroma client has *stores* open: when a process closes a file, it drops all its own locks
    on it. Raises `Cancelled`, `StoreUnreadable`, `StoreBusy` and `Mistake`.
    """
    began = time.monotonic()
    outcome = Outcome(tally=Tally())

    def add_and_report(item: Finding) -> None:
        outcome.tally.add(item)
        report(item)

    for mapping in description.mappings:
        outcome.mappings[mapping.name] = _check_mapping(mapping, stores, ctx, add_and_report)
    for item in _check_keys(description, stores, ctx):
        add_and_report(item)
    outcome.seconds = time.monotonic() - began
    return outcome


def _check_mapping(mapping: Mapping, stores: Stores, ctx: Context, report: Callable[[Finding], None]) -> Sums:
    sums = Sums()
    identity = stores.directory_identity(mapping)
    broken = None
    try:
        _compare_mapping(mapping, stores, ctx, report, sums)
    except IndexBroken as problem:
        broken = problem
    if stores.directory_identity(mapping) != identity:
        raise StoreBusy(f"The Chroma directory of {mapping.name} was exchanged during the check.")
    if broken is not None:
        report(of_broken_index(mapping, stores, ctx, broken))
    return sums


def _compare_mapping(mapping: Mapping, stores: Stores, ctx: Context, report: Callable[[Finding], None], sums: Sums) -> None:
    balance = _Balance(mapping)

    def count_and_report(item: Finding) -> None:
        balance.add(item)
        report(item)

    with open_stores(mapping, stores, ctx) as sides, closing(Suspects(count_and_report)) as suspects:
        sides.vectors.check_index()
        collection = sides.vectors.collection
        total = sides.rows.count() + (count_records(sides.records, collection) if collection else 0)
        with ctx.phase(_OPERATION, mapping.name, total) as phase:
            for window in compare(mapping, sides.rows, sides.records, sides.metadata, sides.vectors):
                sums.rows += window.rows
                sums.records += window.records
                sums.vectors += window.vectors
                suspects.add(window.suspects)
                phase.advance(window.rows + window.records)
        if number := len(suspects):
            with ctx.phase(_OPERATION, f"{mapping.name}: a closer look", number) as phase:
                if stores.at_rest:
                    suspects.examine_at_rest(sides, stores.instant, phase)
                else:
                    suspects.examine_live(sides, stores, ctx, phase)
        for item in balance.findings():
            report(item)


def _check_keys(description: Description, stores: Stores, ctx: Context) -> Iterator[Finding]:
    """Foreign keys without a target, except those to parents, which `classify` reports."""
    known = {
        (mapping.table, mapping.parent.column.name)
        for mapping in description.mappings
        if mapping.parent is not None and not mapping.where
    }
    for key in sorted({mapping.sqlite for mapping in description.mappings}):
        path = stores.sqlite[key]
        with reading(str(path), ctx.check), closing(connect(path, at_rest=stores.at_rest, check=ctx.check)) as database:
            with ctx.phase(_OPERATION, "foreign keys"):
                broken = list(broken_keys(database, known))
            if broken and not stores.at_rest:
                ctx.wait(stores.settle)
                tables = {item.table for item in broken}
                still = {item for table in tables for item in broken_keys(database, known, table)}
                broken = [item for item in broken if item in still]
            yield from (_of_key(item) for item in broken)


def _of_key(item: BrokenKey) -> Finding:
    if item.problem:
        return finding(
            FindingKind.BROKEN_FOREIGN_KEY,
            mapping="",
            record=item.table,
            severity=Severity.WARNING,
            message=f"The foreign keys of {item.table} cannot be checked: {item.problem}.",
            fingerprint=item.problem,
        )
    value = scalar(item.value)
    return finding(
        FindingKind.BROKEN_FOREIGN_KEY,
        mapping="",
        record=f"{item.table}:{item.rowid}",
        message=f"Row {item.rowid} of {item.table} names {value} by {item.column}, which {item.referred} does not hold.",
        sqlite={"table": item.table, "row": item.rowid, item.column: value},
        fingerprint=f"{item.column} {value}",
    )


class _Balance:
    """How many more rows than vectors a mapping has, in total and for each parent, according to its findings."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._of_parent: Counter[Any] = Counter()
        self._total = 0

    def add(self, item: Finding) -> None:
        if item.severity is Severity.INFO:
            return  # in flight
        if item.kind in (FindingKind.ORPHANED_SQLITE, FindingKind.ORPHANED_CHROMADB):
            if item.sqlite is None or item.chroma is None:  # only one side has it
                self._total += 1 if item.kind is FindingKind.ORPHANED_SQLITE else -1
            return
        more = {FindingKind.MISSING_IN_CHROMADB: 1, FindingKind.MISSING_IN_SQLITE: -1}.get(item.kind, 0)
        self._total += more
        parent = self._mapping.parent
        if more and parent is not None and parent.counted and item.parent is not None:
            self._of_parent[item.parent] += more

    def findings(self) -> Iterator[Finding]:
        parent = self._mapping.parent
        for key, more in sorted(self._of_parent.items(), key=lambda pair: str(pair[0])):
            if more and parent is not None:
                yield self._finding(f"{parent.name}:{key}", key, f"{_surplus(more)} of {parent.name} {key}.", more)
        if self._total:
            yield self._finding("", None, f"{_surplus(self._total)} in total.", self._total)

    def _finding(self, record: str, parent: Any, message: str, more: int) -> Finding:
        return finding(
            FindingKind.COUNT_MISMATCH,
            mapping=self._mapping.name,
            record=record,
            parent=parent,
            message=message,
            fingerprint=str(more),
            sqlite={"more": more} if more > 0 else None,
            chroma={"more": -more} if more < 0 else None,
        )


def _surplus(more: int) -> str:
    one, other = ("row", "vectors") if more > 0 else ("vector", "rows")
    return f"There is 1 more {one} than {other}" if abs(more) == 1 else f"There are {abs(more):,} more {one}s than {other}"
