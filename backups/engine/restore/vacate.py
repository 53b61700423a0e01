"""Moves aside stores that a restore in place made where there was nothing, when that restore is undone.

They become ``NAME.before-MOMENT``, as what no backup holds does (`keep`). A rename needs no space, and loses nothing that was
written since. Each store is moved in one step, after the databases' logs were written into them; what a crash left in place is
moved by the next attempt.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from ..chroma_files.tables import DATABASE
from ..errors import RestoreIncomplete, RestoreRefused
from ..gate import GateTimeout
from ..runtime import durable
from ..runtime.context import Context
from ..runtime.sqlite import connect
from ..types import Source, SourceKind, SourceRecord
from .commands import Commands
from .exchange import complete_swap
from .keep import free_name, keep_unsaved
from .targets import Target, logs_of, refuse_mounts_below


def vacated(sources: Iterable[Source]) -> list[Target]:
    """The stores *sources*, to be moved aside."""
    return [
        Target(
            SourceRecord(kind=source.kind, name=source.name, path=str(source.path), method="unchanged", bytes=0),
            Path(os.path.realpath(source.path)),
            source.path.parent,
        )
        for source in sources
    ]


def refuse_in_use(stores: Iterable[Target], commands: Commands, wait: float) -> None:
    """Raise `RestoreRefused` for a store that cannot be moved; the application is stopped."""
    for store in stores:
        store.refuse_open(commands, stopped=True, wait=wait)
        refuse_mounts_below(store.path)


def vacate(
    stores: Iterable[Target], folders: Iterable[Path], commands: Commands, wait: float, moment: datetime, ctx: Context
) -> dict[str, str]:
    """Move the *stores* aside. *folders* are the staging folders of the restore that made them.

    What that restore had replaced, of which there is no backup, is kept beside it. Returns where each path is now. Raises
    `RestoreIncomplete` if a store cannot be moved: then the ones already moved are back.
    """
    moved: list[tuple[Path, Path]] = []
    stores, folders = list(stores), list(folders)
    try:
        for store in stores:
            for folder in folders:
                if store.record.kind is not SourceKind.SQLITE and folder.parent == store.path.parent:
                    complete_swap(store, folder)
            store.refuse_open(commands, stopped=True, wait=wait)
            with _inside_gate(store, wait):
                for path, aside in _moves(store, moment):
                    path.rename(aside)
                    moved.append((path, aside))
                    durable.sync_folder(path.parent)
                    durable.reach("in-place-vacated")
    except (OSError, RestoreRefused, GateTimeout) as problem:
        for path, aside in reversed(moved):
            aside.rename(path)
        raise RestoreIncomplete(
            f"{store.path}, which did not exist before that restore, could not be moved aside: {problem}.", mixed=True
        ) from problem
    for path, aside in moved:
        ctx.log(f"{path}, which did not exist before that restore, is now {aside.name}")
    for store in stores:
        for folder in folders:
            if folder.parent == store.path.parent:
                keep_unsaved(store, folder, moment, ctx)
    return {str(path): str(aside) for path, aside in moved}


def _moves(store: Target, moment: datetime) -> Iterator[tuple[Path, Path]]:
    """What is renamed to what. An old Chroma directory without its database, which was not replaced yet, stays."""
    if not (store.path / DATABASE if store.record.kind is SourceKind.CHROMA else store.path).exists():
        return
    aside = free_name(store.path.with_name(f"{store.path.name}.before-{moment:%Y%m%dT%H%M%SZ}"))
    if store.record.kind is SourceKind.SQLITE:
        with contextlib.suppress(sqlite3.DatabaseError), contextlib.closing(connect(store.path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        for log in logs_of(store.path):  # of a database that SQLite cannot open
            if log.exists():
                yield log, aside.with_name(f"{aside.name}{log.name.removeprefix(store.path.name)}")
    yield store.path, aside


@contextlib.contextmanager
def _inside_gate(store: Target, wait: float) -> Iterator[None]:
    if store.gate is None:
        yield
        return
    with store.gate.exclusive(wait) as held:
        held.advance()
        yield
