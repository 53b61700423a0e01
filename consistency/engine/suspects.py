"""The closer look at the ids that the pass over everything did not find equal.

On a copy at rest one look decides. Live stores change meanwhile, so there an id is examined again:

1. First look, right after the pass: what is wrong, and a fingerprint of what both stores hold.
2. At least *settle* seconds later, while writers of SQLite are held up for some milliseconds, so that no transaction in which
   the application writes to Chroma is open. What is still wrong, with the same fingerprint, is a finding.
3. What changed in between is examined again, up to `LOOKS` times; after that it is in flight, and not a finding.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime

from backups.engine.runtime.context import Phase

from .context import Context
from .findings import Cause, Finding, Severity
from .rows import held
from .stores import OpenStores, Stores

LOOKS = 4
_BATCH = 250


class Suspects:
    """Ids that are not certainly equal, and what was seen of each, in a temporary file. *report* gets each finding."""

    def __init__(self, report: Callable[[Finding], None]) -> None:
        self._report = report
        self._database = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -4096"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE suspect (number INTEGER PRIMARY KEY, id TEXT UNIQUE, seen TEXT)")

    def close(self) -> None:
        """Remove the temporary file."""
        self._database.close()

    def add(self, ids: Sequence[str]) -> None:
        """Remember *ids*, each once."""
        self._database.executemany("INSERT OR IGNORE INTO suspect (id) VALUES (?)", [(item,) for item in ids])

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM suspect").fetchone()[0])

    def examine_at_rest(self, sides: OpenStores, instant: datetime | None, phase: Phase) -> None:
        """Examine each id once."""
        for ids in self.batches():
            for item in sides.examine(ids, instant):
                self._report(item)
            phase.advance(len(ids))

    def examine_live(self, sides: OpenStores, stores: Stores, ctx: Context, phase: Phase) -> None:
        """Examine ids until each is fine, certain, or reported as in flight."""
        for look in range(LOOKS):
            if look:
                ctx.wait(stores.settle * look)
            sides.vectors.refresh()
            for ids in self.batches():
                phase.advance(self._look(ids, sides, stores, ctx, first=not look))
            if not len(self):
                return
        for ids in self.batches():
            for item in sides.examine(ids, None):
                message = f"{item.message} It kept changing during the check."
                self._report(replace(item, message=message, cause=Cause.IN_FLIGHT, severity=Severity.INFO))

    def _look(self, ids: Sequence[str], sides: OpenStores, stores: Stores, ctx: Context, *, first: bool) -> int:
        """Examine *ids* once more and forget the ones decided; return how many."""
        found: dict[str, list[Finding]] = {identifier: [] for identifier in ids}
        with nullcontext(False) if first else _writers_held(sides, stores, ctx) as quiet:
            if not first and stores.renew is not None:
                sides.catch_up(ids)
            for item in sides.examine(ids, stores.instant or datetime.now(UTC)):
                found[item.record].append(item)
        before = dict(
            self._database.execute(
                "SELECT s.id, s.seen FROM json_each(?) j JOIN suspect s ON s.id = j.value", (json.dumps(ids),)
            )
        )
        decided = []
        for identifier, items in found.items():
            seen = "|".join(sorted(f"{item.kind} {item.cause} {item.fingerprint}" for item in items))
            if not items:
                decided.append(identifier)
            elif seen == before[identifier] and quiet:
                decided.append(identifier)
                for item in items:
                    self._report(item)
            else:
                self._database.execute("UPDATE suspect SET seen = ? WHERE id = ?", (seen, identifier))
        self._database.executemany("DELETE FROM suspect WHERE id = ?", [(identifier,) for identifier in decided])
        return len(decided)

    def batches(self) -> Iterator[list[str]]:
        """The ids, some at a time."""
        last = 0
        while page := self._database.execute(
            "SELECT number, id FROM suspect WHERE number > ? LIMIT ?", (last, _BATCH)
        ).fetchall():
            last = page[-1][0]
            yield [identifier for _, identifier in page]


@contextmanager
def _writers_held(sides: OpenStores, stores: Stores, ctx: Context) -> Iterator[bool]:
    """Hold up writers of SQLite, with Chroma's vectors read up to now. False if the lock stayed taken."""
    for attempt in range(LOOKS):
        ctx.check()
        with held(sides.database, stores.patience) as locked:
            if not locked:
                ctx.on_log(f"{sides.database} stayed locked for {stores.patience:g} s; ids that it hides count as in flight.")
                yield False
                return
            if sides.vectors.is_current() or attempt == LOOKS - 1:
                sides.vectors.refresh()  # reads the log alone, which takes milliseconds
                yield True
                return
        sides.vectors.refresh()  # the index was rewritten; writers should not wait while it is read
