"""Restores in place that have not ended: their records beside the stores, the lock of a running one, and what a crash left.

A restore in place stages what it writes into hidden folders beside the stores, ``.refbackup-restore.TOKEN``. Each has a journal
from before the first change of a store until all are checked. If no process holds the lock of the staging folder meanwhile,
that restore was interrupted, and the stores may be of different times: nothing should use them or back them up until it is
finished or undone (``refbackup restore --finish``, ``--undo``).
"""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from .errors import ExchangeUnfinished, RepositoryLocked
from .runtime import durable, locks
from .types import Manifest, Source, SourceKind

STAGE = ".refbackup-restore."
"""How names of staging folders begin."""

JOURNAL = "journal.json"
_LOCK_WAIT = 2.0


class JournalStore(BaseModel):
    """A store that is replaced, and whether it existed before."""

    model_config = ConfigDict(frozen=True)

    kind: SourceKind
    name: str
    path: Path
    existed: bool = True


class Journal(BaseModel):
    """``journal.json``: an exchange of stores, the same in each of its staging folders.

    ``backup`` of ``set`` in ``repository`` is being restored, with ``only`` as given; ``safety_backup`` holds the stores as
    they were before ("" if there were none).
    """

    model_config = ConfigDict(frozen=True)

    token: str
    began: AwareDatetime
    repository: Path
    set: str
    backup: str
    safety_backup: str = ""
    only: str | None = None
    targets: tuple[JournalStore, ...]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A staging folder.

    Without a ``journal``, its restore was staging or has ended, unless ``unreadable`` says why the journal cannot be read.
    """

    folder: Path
    journal: Journal | None = None
    unreadable: str = ""

    @property
    def exchanging(self) -> bool:
        """Whether stores may have been changed; true if nobody can know."""
        return bool(self.unreadable) or self.journal is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedExchange:
    """A restore in place that was interrupted while it exchanged the stores.

    ``folders`` are its staging folders and those of interrupted attempts to finish or undo it. ``journal`` is None if it cannot
    be read.
    """

    journal: Journal | None
    folders: tuple[Path, ...]

    @property
    def message(self) -> str:
        """One sentence that says what happened."""
        if self.journal is None:
            return f"A restore was interrupted, and its record in {self.folders[0]} cannot be read: the stores may be mixed."
        stores = ", ".join(str(store.path) for store in self.journal.targets)
        return (
            f"The restore of {self.journal.backup} was interrupted while it exchanged the stores: {stores} may be of different "
            "times."
        )

    @property
    def sources(self) -> tuple[Source, ...]:
        """The stores that may be of different times."""
        stores = self.journal.targets if self.journal is not None else ()
        return tuple(Source(kind=store.kind, name=store.name, path=store.path) for store in stores)

    @property
    def created(self) -> tuple[Source, ...]:
        """Those of them that did not exist before."""
        stores = self.journal.targets if self.journal is not None else ()
        existed = {store.path for store in stores if store.existed}
        return tuple(source for source in self.sources if source.path not in existed)

    def as_error(self, left: str) -> ExchangeUnfinished:
        """The error that refuses to go on; *left* says what was left unchanged. Its hint has the commands in full."""
        hint = None
        if self.journal is not None:
            hint = f"Complete that restore with `{self._command('--finish')}`, or bring the old data back with --undo instead."
        folders = [str(folder) for folder in self.folders]
        return ExchangeUnfinished(f"{self.message} {left}".rstrip(), hint=hint, folders=folders)

    def _command(self, action: str) -> str:
        assert self.journal is not None
        stores = [f"--{store.kind}={store.name}={store.path}" for store in self.journal.targets]
        return shlex.join(["refbackup", "restore", f"--repo={self.journal.repository}", *stores, action])


def mixture(manifest: Manifest) -> str:
    """A sentence if the stores in a backup may be of different times; else ""."""
    if not manifest.mixed:
        return ""
    return f"The stores in {manifest.id} may be of different times: an interrupted restore had left them so."


def unfinished_exchange(sources: Iterable[Source]) -> UnfinishedExchange | None:
    """The interrupted restore in place that left *sources* in an unknown state, or None.

    None also while a restore of these stores is running.
    """
    found = interrupted([source.path for source in sources])
    if found is not None and any(_in_use(folder) for folder in found.folders):
        return None
    return found


def leftovers(paths: Iterable[Path]) -> list[Leftover]:
    """The staging folders beside *paths*, that of a running restore included."""
    return [_read(left) for folder in _around(paths) for left in sorted(folder.glob(f"{STAGE}*"))]


def abandoned(paths: Iterable[Path]) -> list[Path]:
    """The staging folders beside *paths* of restores that were killed before the exchange or after its end.

    No process holds them, and no unfinished exchange needs them.
    """
    return [left.folder for left in leftovers(paths) if not left.exchanging and not _in_use(left.folder)]


def remove_abandoned(paths: Iterable[Path], log: Callable[[str], None]) -> None:
    """Remove what `abandoned` names, as far as possible. The caller holds the lock `exclusive_restore` of *paths*."""
    for folder in abandoned(paths):
        try:
            durable.remove_tree(folder)
        except OSError as problem:
            log(f"{folder}, which a killed restore left, cannot be removed: {problem.strerror or problem}")
        else:
            log(f"Removed {folder}, which a killed restore left.")


def interrupted(paths: Sequence[Path]) -> UnfinishedExchange | None:
    """Like `unfinished_exchange`, for one who holds the lock `exclusive_restore`, or knows that no restore is running."""
    stores = {Path(os.path.realpath(path)) for path in paths}
    exchanging = [
        one
        for one in leftovers(paths)
        if one.exchanging and (one.journal is None or any(store.path in stores for store in one.journal.targets))
    ]
    if not exchanging:
        return None
    journals = [one.journal for one in exchanging if one.journal is not None]
    newest = max(journals, key=lambda journal: journal.began, default=None)
    return UnfinishedExchange(journal=newest, folders=tuple(one.folder for one in exchanging))


@contextmanager
def exclusive_restore(paths: Iterable[Path]) -> Iterator[Callable[[Iterable[Path]], None]]:
    """Keep other restores in place away from the folders around *paths*. Raises `RepositoryLocked`.

    Yields a function that locks staging folders until the end: while one is locked, it is that of a running restore.

    The folders themselves are locked, so that no lock file is left beside the stores; the kernel drops the locks of a process
    that dies.
    """
    with ExitStack() as held:

        def lock(folder: Path) -> bool:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, descriptor)
            return _lock(descriptor, shared=False)

        def own(folders: Iterable[Path]) -> None:
            for folder in folders:
                lock(folder)

        for folder in _around(paths):
            if not lock(folder):
                raise RepositoryLocked(
                    f"Another restore in place is replacing stores in {folder}. Nothing was changed by this one.",
                    hint="Wait until it has ended, and look at the data before you restore again.",
                )
        yield own


def write_journal(folders: Iterable[Path], journal: Journal) -> None:
    """Record *journal* durably in each staging folder. Under root it belongs to the owner of the folder around."""
    for folder in folders:
        durable.write_file(folder / JOURNAL, journal.model_dump_json(indent=1).encode())
        if os.geteuid() == 0:
            around = folder.parent.stat()
            for place in (folder, folder / JOURNAL):
                os.chown(place, around.st_uid, around.st_gid)
        durable.sync_folder(folder.parent)


def end_journals(folders: Iterable[Path]) -> None:
    """Record durably that the restore with these staging folders has ended: all its stores are old, or all are new."""
    for folder in folders:
        if (folder / JOURNAL).exists():
            (folder / JOURNAL).unlink()
            durable.sync_folder(folder)


def _around(paths: Iterable[Path]) -> list[Path]:
    return sorted({Path(os.path.realpath(path)).parent for path in paths})


def _read(folder: Path) -> Leftover:
    try:
        return Leftover(folder, Journal.model_validate_json((folder / JOURNAL).read_bytes()))
    except FileNotFoundError:
        return Leftover(folder)
    except (OSError, ValidationError) as problem:
        return Leftover(folder, unreadable=str(problem))


def _in_use(folder: Path) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, *, shared: bool) -> bool:
    return locks.acquire_folder(descriptor, shared=shared, wait=0.0 if shared else _LOCK_WAIT) is not False
