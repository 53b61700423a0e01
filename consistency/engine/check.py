"""The check: every row against every vector, on live stores or on a copy at rest.

The pass over everything (`compare`) passes over what is certainly fine. Of the rest, each id is looked at by itself
(`examine`). On a copy at rest that settles it. Live stores change meanwhile, so there an id is looked at again:

1. First look, right after the pass: what is wrong, and a fingerprint of what both sides say.
2. At least *settle* seconds later, while nobody can write to SQLite for some milliseconds: a transaction in which an
   application writes to Chroma is over by then. What is wrong as before, with the same fingerprint, is a finding.
3. What changed in between is looked at again, up to `LOOKS` times; after that it is in flight, and no finding.

Nothing is written to either store, and nothing outlives the check but what *report* was given: a crash leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Mapping as Names
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from backups.engine.chroma_files.records import count_records
from backups.engine.chroma_files.tables import DATABASE, check_supported, find_collection
from backups.engine.chroma_files.vectors import Vectors
from backups.engine.runtime.context import Phase

from .compare import attach, compare
from .context import Context
from .errors import Mistake, StoreBusy
from .examine import Facts, classify, gather
from .findings import Cause, Finding, FindingKind, Severity, State, Tally, finding
from .mapping import Description, Mapping, scalar
from .rows import BrokenKey, Rows, address, broken_keys, connect, held, reading

LOOKS = 4
_BATCH = 250
_OPERATION = "check"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Where the stores are: SQLite files and Chroma directories, by the names that the mappings use.

    *at_rest*: nobody writes to them. *instant*: when they were as they are; None on live stores: now. *settle*: seconds
    between two looks at live stores. *patience*: seconds to wait for writers of SQLite at a second look. *under_way*: the
    ids of a mapping that the application itself will put right. *renew*: brings records of a collection up to date in
    directories that are copies of what a server holds.
    """

    sqlite: Names[str, Path]
    chroma: Names[str, Path]
    at_rest: bool
    instant: datetime | None = None
    settle: float = 1.0
    patience: float = 20.0
    under_way: Callable[[str], Collection[str]] | None = None
    renew: Callable[[str, Sequence[str]], None] | None = None


@dataclass(slots=True, kw_only=True)
class Sums:
    """How much of one mapping was compared."""

    rows: int = 0
    records: int = 0
    vectors: int = 0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a check came to. Findings themselves went to *report*."""

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
            "mappings": {
                key: {"rows": sums.rows, "records": sums.records, "vectors": sums.vectors}
                for key, sums in self.mappings.items()
            },
            "seconds": round(self.seconds, 3),
        }


def check(description: Description, stores: Stores, ctx: Context, report: Callable[[Finding], None]) -> Outcome:
    """Compare all that *description* maps, give each finding to *report* as soon as it is certain, and return the sums.

    Run it in a process that has no Chroma client of *stores* open in another thread: closing a file drops that process's
    locks on it. Raises `Cancelled`, `StoreUnreadable`, `StoreBusy` and `Mistake`.
    """
    began = time.monotonic()
    outcome = Outcome(tally=Tally())

    def tell(item: Finding) -> None:
        outcome.tally.add(item)
        report(item)

    for mapping in description.mappings:
        outcome.mappings[mapping.name] = _check_mapping(mapping, stores, ctx, tell)
    for item in _check_keys(description, stores, ctx):
        tell(item)
    outcome.seconds = time.monotonic() - began
    return outcome


@dataclass(slots=True, kw_only=True)
class Opened:
    """The connections for one mapping."""

    mapping: Mapping
    database: Path
    rows: Rows
    metadata: sqlite3.Connection
    records: sqlite3.Connection
    vectors: Vectors
    under_way: Callable[[str], Collection[str]] | None
    renew: Callable[[str, Sequence[str]], None] | None

    def catch_up(self, ids: Sequence[str]) -> None:
        """See what was written since, to *ids* at least."""
        if self.renew is not None:
            self.renew(self.mapping.collection, ids)
        self.vectors.refresh()

    def facts(self, ids: Sequence[str]) -> list[Facts]:
        """What both sides say of *ids* now, as far as it is known; `catch_up` makes it known."""
        return gather(self.rows, self.vectors, ids, self.under_way(self.mapping.name) if self.under_way else ())

    def look(self, ids: Sequence[str], instant: datetime | None) -> Iterator[Finding]:
        """What is wrong with *ids* now."""
        for facts in self.facts(ids):
            yield from self.wrong_with(facts, instant)

    def wrong_with(self, facts: Facts, instant: datetime | None) -> list[Finding]:
        """What is wrong, by *facts*."""
        return classify(self.mapping, self.vectors.collection, facts, instant)


@contextmanager
def opened(mapping: Mapping, stores: Stores, ctx: Context) -> Iterator[Opened]:
    """Open both stores of *mapping* for reading, and load the places of its vectors."""
    database = _place(stores.sqlite, mapping.sqlite, "SQLite file")
    directory = _place(stores.chroma, mapping.chroma, "Chroma directory")
    with ExitStack() as stack, reading(f"{database} or {directory / DATABASE}", ctx.check):
        if (directory / DATABASE).exists():
            chroma = stack.enter_context(closing(connect(directory / DATABASE, at_rest=stores.at_rest, check=ctx.check)))
            check_supported(directory, chroma)
            uri = address(directory / DATABASE, at_rest=stores.at_rest)
        else:
            chroma, uri = stack.enter_context(closing(_nothing())), ""
        rows = stack.enter_context(closing(connect(database, at_rest=stores.at_rest, check=ctx.check)))
        metadata = stack.enter_context(closing(connect(database, at_rest=stores.at_rest, check=ctx.check)))
        if uri:
            attach(metadata, uri)
        find = partial(find_collection, chroma, mapping.collection)
        vectors = stack.enter_context(
            closing(Vectors(directory, chroma, find, at_rest=stores.at_rest, check=ctx.check, wait=ctx.wait))
        )
        yield Opened(
            mapping=mapping,
            database=database,
            rows=Rows(rows, mapping),
            metadata=metadata,
            records=chroma,
            vectors=vectors,
            under_way=stores.under_way,
            renew=stores.renew,
        )


def _place(places: Names[str, Path], wanted: str, what: str) -> Path:
    if wanted not in places:
        raise Mistake(f"No {what} is named {wanted!r}; there are {', '.join(sorted(places)) or 'none'}.")
    return places[wanted]


def _nothing() -> sqlite3.Connection:
    """Stands for a Chroma directory that nobody has written to yet."""
    database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    database.executescript(
        "CREATE TABLE collections (id, name, dimension, database_id); CREATE TABLE databases (id, name, tenant_id);"
        "CREATE TABLE segments (id, type, scope, collection);"
    )
    return database


def _check_mapping(mapping: Mapping, stores: Stores, ctx: Context, tell: Callable[[Finding], None]) -> Sums:
    """One mapping, as the module tells."""
    sums = Sums()
    with opened(mapping, stores, ctx) as sides, closing(_suspects()) as suspects:
        identity = _identity(stores, mapping)
        collection = sides.vectors.collection
        total = sides.rows.count() + (count_records(sides.records, collection) if collection else 0)
        with ctx.phase(_OPERATION, mapping.name, total) as phase:
            for window in compare(mapping, sides.rows, sides.records, sides.metadata, sides.vectors):
                sums.rows += window.rows
                sums.records += window.records
                sums.vectors += window.vectors
                suspects.executemany("INSERT OR IGNORE INTO suspect (id) VALUES (?)", [(item,) for item in window.suspects])
                phase.advance(window.rows + window.records)
        number = int(suspects.execute("SELECT count(*) FROM suspect").fetchone()[0])
        balance = _Balance(mapping, sums)

        def certain(item: Finding) -> None:
            balance.add(item)
            tell(item)

        if number:
            with ctx.phase(_OPERATION, f"{mapping.name}: a closer look", number) as phase:
                if stores.at_rest:
                    for ids in _batches(suspects):
                        for item in sides.look(ids, stores.instant):
                            certain(item)
                        phase.advance(len(ids))
                else:
                    _settle(sides, suspects, stores, ctx, phase, certain)
        if _identity(stores, mapping) != identity:
            raise StoreBusy(f"The Chroma directory of {mapping.name} was exchanged during the check.")
        for item in balance.findings():
            tell(item)
    return sums


def _suspects() -> sqlite3.Connection:
    """A table of ids and what was seen of them, in a temporary file."""
    database = sqlite3.connect("", isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -4096"):
        database.execute(f"PRAGMA {pragma}")
    database.execute("CREATE TABLE suspect (number INTEGER PRIMARY KEY, id TEXT UNIQUE, seen TEXT)")
    return database


def _batches(suspects: sqlite3.Connection) -> Iterator[list[str]]:
    last = 0
    while page := suspects.execute("SELECT number, id FROM suspect WHERE number > ? LIMIT ?", (last, _BATCH)).fetchall():
        last = page[-1][0]
        yield [identifier for _, identifier in page]


def _settle(
    sides: Opened,
    suspects: sqlite3.Connection,
    stores: Stores,
    ctx: Context,
    phase: Phase,
    certain: Callable[[Finding], None],
) -> None:
    """Look at the suspects of live stores until each is fine, certain, or given up as in flight."""
    for look in range(LOOKS):
        if look:
            ctx.wait(stores.settle * look)
        sides.vectors.refresh()
        for ids in _batches(suspects):
            with _quiet(sides, stores, ctx) if look else _as_it_is() as quiet:
                if look and stores.renew is not None:
                    sides.catch_up(ids)
                found: dict[str, list[Finding]] = {identifier: [] for identifier in ids}
                for item in sides.look(ids, stores.instant or datetime.now(UTC)):
                    found[item.record].append(item)
            seen = dict(
                suspects.execute("SELECT s.id, s.seen FROM json_each(?) j JOIN suspect s ON s.id = j.value", (json.dumps(ids),))
            )
            settled = []
            for identifier, items in found.items():
                now = _seen(items)
                if not items:
                    settled.append(identifier)
                elif now == seen[identifier] and quiet:
                    settled.append(identifier)
                    for item in items:
                        certain(item)
                else:
                    suspects.execute("UPDATE suspect SET seen = ? WHERE id = ?", (now, identifier))
            suspects.executemany("DELETE FROM suspect WHERE id = ?", [(identifier,) for identifier in settled])
            phase.advance(len(settled))
        if not suspects.execute("SELECT 1 FROM suspect LIMIT 1").fetchone():
            return
    for ids in _batches(suspects):
        for item in sides.look(ids, None):
            certain(_as_in_flight(item))


def _seen(items: Sequence[Finding]) -> str:
    return "|".join(sorted(f"{item.kind} {item.cause} {item.fingerprint}" for item in items))


def _as_in_flight(item: Finding) -> Finding:
    return finding(
        item.kind,
        mapping=item.mapping,
        record=item.record,
        message=f"{item.message} It kept changing during the check.",
        parent=item.parent,
        sqlite=item.sqlite,
        chroma=item.chroma,
        differences=item.differences,
        cause=Cause.IN_FLIGHT,
        fingerprint=item.fingerprint,
    )


@contextmanager
def _as_it_is() -> Iterator[bool]:
    yield False


@contextmanager
def _quiet(sides: Opened, stores: Stores, ctx: Context) -> Iterator[bool]:
    """Keep writers of SQLite out, with Chroma's vectors known up to now. False where they could not be kept out in time."""
    for attempt in range(LOOKS):
        ctx.check()
        with held(sides.database, stores.patience) as got:
            if not got:
                ctx.on_log(f"{sides.database} stayed locked for {stores.patience:g} s; what it hides is taken as in flight.")
                yield False
                return
            if sides.vectors.is_current() or attempt == LOOKS - 1:
                sides.vectors.refresh()  # the log alone, which takes milliseconds
                yield True
                return
        sides.vectors.refresh()  # the index was written anew; reading it takes longer than anyone should wait


def _identity(stores: Stores, mapping: Mapping) -> tuple[int, int] | None:
    """Which directory it is: a restore puts another one in its place."""
    try:
        found = os.stat(stores.chroma[mapping.chroma] / DATABASE)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class _Balance:
    """How many more rows than vectors each parent has, and the mapping as a whole, by what was found."""

    def __init__(self, mapping: Mapping, sums: Sums) -> None:
        self._mapping = mapping
        self._sums = sums
        self._rows: dict[Any, int] = {}
        self._total = 0
        self._seen: set[str] = set()

    def add(self, item: Finding) -> None:
        """Count a finding; one in flight does not count."""
        if item.severity is Severity.INFO:
            return
        more = {FindingKind.MISSING_IN_CHROMADB: 1, FindingKind.MISSING_IN_SQLITE: -1}.get(item.kind, 0)
        alone = item.kind in (FindingKind.ORPHANED_SQLITE, FindingKind.ORPHANED_CHROMADB) and (
            item.sqlite is None or item.chroma is None
        )
        if alone and item.kind is FindingKind.ORPHANED_SQLITE:
            self._total += 1
        elif alone:
            self._total -= 1
        self._total += more
        parent = self._mapping.parent
        if more and parent is not None and parent.counted and item.parent is not None:
            self._rows[item.parent] = self._rows.get(item.parent, 0) + more

    def findings(self) -> Iterator[Finding]:
        """A finding for each parent whose numbers differ, and one for the totals."""
        mapping = self._mapping
        for key, more in sorted(self._rows.items(), key=lambda pair: str(pair[0])):
            if more and mapping.parent is not None:
                record = f"{mapping.parent.name}:{key}"
                yield self._finding(record, key, f"{_surplus(more)} of {mapping.parent.name} {key}.", more)
        if self._total:
            yield self._finding("", None, f"{_surplus(self._total)} in all.", self._total)

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
    side = "rows than vectors" if more > 0 else "vectors than rows"
    return f"There are {abs(more)} more {side}"


def _check_keys(description: Description, stores: Stores, ctx: Context) -> Iterator[Finding]:
    """Foreign keys that lead nowhere, but for those to parents: `classify` tells of them."""
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
    value = scalar(item.value)
    return finding(
        FindingKind.BROKEN_FOREIGN_KEY,
        mapping="",
        record=f"{item.table}:{item.rowid}",
        message=f"Row {item.rowid} of {item.table} names {value} by {item.column}, which {item.referred} does not hold.",
        sqlite={"table": item.table, "row": item.rowid, item.column: value},
        fingerprint=f"{item.column} {value}",
    )
