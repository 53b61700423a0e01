"""The two stores of a mapping: where they are, and both open for reading."""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from collections.abc import Mapping as Names
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from backups.engine.chroma_files.tables import DATABASE, check_supported, find_collection
from backups.engine.chroma_files.vectors import Vectors

from .context import Context
from .errors import Mistake
from .examine import Facts, classify, gather
from .findings import Finding
from .mapping import Mapping
from .rows import Rows, address, connect, literal, reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """SQLite files and Chroma directories, by the names that the mappings use.

    *at_rest*: nobody writes to them. *instant*: the time of their contents; None for live stores, whose time is now. *settle*:
    seconds between two examinations of live stores. *patience*: seconds to wait for writers of SQLite at the second.
    *under_way*: returns the ids of a mapping that the application itself will complete. *renew*: updates records of a
    collection in directories that are copies of what a server holds.
    """

    sqlite: Names[str, Path]
    chroma: Names[str, Path]
    at_rest: bool
    instant: datetime | None = None
    settle: float = 1.0
    patience: float = 20.0
    under_way: Callable[[str], Collection[str]] | None = None
    renew: Callable[[str, Sequence[str]], None] | None = None

    def directory_identity(self, mapping: Mapping) -> tuple[int, int] | None:
        """Device and inode of the mapping's Chroma database, which a restore replaces; None when there is none."""
        try:
            status = (self.chroma[mapping.chroma] / DATABASE).stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino


@dataclass(slots=True, kw_only=True)
class OpenStores:
    """Both stores of one mapping, open for reading."""

    mapping: Mapping
    database: Path
    rows: Rows
    metadata: sqlite3.Connection
    records: sqlite3.Connection
    vectors: Vectors
    stores: Stores

    def catch_up(self, ids: Sequence[str]) -> None:
        """Read what was written since, to *ids* at least."""
        if self.stores.renew is not None:
            self.stores.renew(self.mapping.collection, ids)
        self.vectors.refresh()

    def facts(self, ids: Sequence[str]) -> list[Facts]:
        """What both stores hold of *ids* as of the last `catch_up`."""
        under_way = self.stores.under_way
        return gather(self.rows, self.vectors, ids, under_way(self.mapping.name) if under_way else ())

    def examine(self, ids: Sequence[str], instant: datetime | None) -> Iterator[Finding]:
        """What is wrong with *ids*."""
        for facts in self.facts(ids):
            yield from self.wrong_with(facts, instant)

    def wrong_with(self, facts: Facts, instant: datetime | None) -> list[Finding]:
        """What is wrong according to *facts*."""
        return classify(self.mapping, self.vectors.collection, facts, instant)


@contextmanager
def open_tables(mapping: Mapping, stores: Stores, ctx: Context) -> Iterator[tuple[Rows, sqlite3.Connection]]:
    """Open the rows of *mapping* and Chroma's tables for reading, and no file of an index.

    Raises `Mistake`, `StoreUnreadable`, `StoreBusy` and `Cancelled`; the body's errors while reading become these too.
    """
    database = _find(stores.sqlite, mapping.sqlite, "SQLite file")
    directory = _find(stores.chroma, mapping.chroma, "Chroma directory")
    with ExitStack() as stack, reading(f"{database} or {directory / DATABASE}", ctx.check):
        if (directory / DATABASE).exists():
            chroma = stack.enter_context(closing(connect(directory / DATABASE, at_rest=stores.at_rest, check=ctx.check)))
            check_supported(directory, chroma)
        else:
            chroma = stack.enter_context(closing(_empty_database()))
        rows = stack.enter_context(closing(connect(database, at_rest=stores.at_rest, check=ctx.check)))
        yield Rows(rows, mapping), chroma


@contextmanager
def open_stores(mapping: Mapping, stores: Stores, ctx: Context) -> Iterator[OpenStores]:
    """Open both stores of *mapping* for reading, and load the places of its vectors. Raises as `open_tables` does."""
    with ExitStack() as stack:
        rows, chroma = stack.enter_context(open_tables(mapping, stores, ctx))
        database, directory = stores.sqlite[mapping.sqlite], stores.chroma[mapping.chroma]
        metadata = stack.enter_context(closing(connect(database, at_rest=stores.at_rest, check=ctx.check)))
        if (directory / DATABASE).exists():
            metadata.execute(f"ATTACH {literal(address(directory / DATABASE, at_rest=stores.at_rest))} AS chroma")
        find = partial(find_collection, chroma, mapping.collection)
        vectors = stack.enter_context(
            closing(Vectors(directory, chroma, find, at_rest=stores.at_rest, check=ctx.check, wait=ctx.wait))
        )
        yield OpenStores(
            mapping=mapping,
            database=database,
            rows=rows,
            metadata=metadata,
            records=chroma,
            vectors=vectors,
            stores=stores,
        )


def _find(places: Names[str, Path], name: str, what: str) -> Path:
    if name not in places:
        raise Mistake(f"No {what} is named {name!r}; there are {', '.join(sorted(places)) or 'none'}.")
    return places[name]


def _empty_database() -> sqlite3.Connection:
    """An empty database, for a Chroma directory that has never been written to."""
    database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    database.executescript(
        "CREATE TABLE collections (id, name, dimension, database_id); CREATE TABLE databases (id, name);"
        "CREATE TABLE collection_metadata (collection_id, key, str_value, int_value);"
        "CREATE TABLE segments (id, type, scope, collection); CREATE TABLE max_seq_id (segment_id, seq_id);"
    )
    return database
