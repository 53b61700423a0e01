"""After an exchange: checks the live stores, and puts the old ones back."""

import contextlib
import errno
import sqlite3
from collections.abc import Iterator

from ..chroma_files.tables import DATABASE, list_collections
from ..errors import EngineError, RestoreIncomplete
from ..gate import GateTimeout
from ..runtime import durable
from ..runtime.sqlite import connect
from ..runtime.sqlite_check import check_pages
from ..types import SourceKind
from .exchange import OpenStores, copy_database, swap
from .targets import Target, databases_of, folders_of, logs_of


def quick_check(targets: list[Target]) -> str | None:
    """None if the live stores are readable, or were damaged when they were backed up; else which is not, and why."""
    for target in targets:
        if target.damaged:
            continue
        if target.record.kind is SourceKind.SQLITE:
            try:
                with contextlib.closing(connect(target.path, timeout=10)) as live:
                    damage = check_pages(live, thorough=False).damage
            except sqlite3.DatabaseError as problem:
                damage = [str(problem)]
            if damage:
                return f"{target.path} fails its check after the exchange: {damage[0]}."
        elif not target.path.is_dir():
            return f"{target.path} is missing after the exchange."
    return None


def chroma_positions(targets: list[Target]) -> list[object]:
    """Of each Chroma directory, a value that changes with every write to it."""
    return [_chroma_position(target) for target in targets if target.record.kind is SourceKind.CHROMA]


def _chroma_position(target: Target) -> object:
    try:
        with contextlib.closing(connect(target.path / DATABASE, mode="ro", timeout=5)) as database:
            listed = list_collections(database)  # first: it refuses views, which may be endless
            newest = database.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()
            return newest, sorted(database.execute("SELECT segment_id, seq_id FROM max_seq_id")), listed
    except (sqlite3.DatabaseError, EngineError) as problem:
        return str(problem)


def roll_back(targets: list[Target], opened: OpenStores, wait: float) -> None:
    """Put back every target that was exchanged. Raises `RestoreIncomplete`, which names the rest."""
    failures = []
    for target in [*databases_of(targets), *folders_of(targets)]:
        if not target.exchanged:
            continue
        try:
            if target.record.kind is SourceKind.SQLITE:
                _put_database_back(target, opened, wait)
            else:
                _put_folder_back(target, opened, wait)
            target.exchanged = False
        except (OSError, sqlite3.Error, GateTimeout) as problem:
            failures.append(f"{target.path} ({problem})")
    if failures:
        raise RestoreIncomplete(
            f"The exchange failed, and these stores could not be put back: {'; '.join(failures)}. "
            "The stores may be of different times.",
            mixed=True,
        )


def _put_database_back(target: Target, opened: OpenStores, wait: float) -> None:
    name = target.record.name
    before = opened.before.get(name)
    if target.created:
        if name in opened.live:
            opened.live[name].close()
        if not target.staged.exists():
            for new, staged in zip(logs_of(target.path), logs_of(target.staged), strict=True):
                if target.as_file and new.exists():
                    new.rename(staged)
                new.unlink(missing_ok=True)
            target.path.rename(target.staged)
        for old, aside in target.set_aside:
            aside.rename(old)
        target.set_aside.clear()
        target.created = False
        durable.sync_folder(target.path.parent)
        return
    if before is None:
        raise OSError(errno.EBUSY, "it is in rollback-journal mode: restore its safety backup")

    def refuse_overwriting() -> None:
        if opened.written(name):
            raise OSError(errno.EBUSY, "the application has written to it since")

    def give_up(holders: str) -> Exception:
        return OSError(errno.EBUSY, f"it stayed locked by {holders}")

    with contextlib.closing(connect(target.path)) as live:
        copy_database(before, live, target.path, wait, once_locked=refuse_overwriting, stayed_locked=give_up)


def _put_folder_back(target: Target, opened: OpenStores, wait: float) -> None:
    with _inside_gate(target, opened, wait):
        if target.created:
            target.path.rename(target.staged)
            target.created = False
        else:
            swap(target.path, target.staged)


@contextlib.contextmanager
def _inside_gate(target: Target, opened: OpenStores, wait: float) -> Iterator[None]:
    """Hold the gate of a Chroma directory unless it is held already; clients must reopen what they opened meanwhile."""
    if target.gate is None or target.path in opened.gates_held:
        yield
        return
    with target.gate.exclusive(wait) as held:
        held.advance()
        yield
