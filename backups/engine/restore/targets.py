"""The live stores that a restore in place replaces."""

import contextlib
import os
import re
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from ..capture.owners import is_open_elsewhere, owners, sees_all_processes
from ..chroma_files.tables import DATABASE
from ..errors import RestoreRefused
from ..gate import Gate
from ..repository.folder import Repository
from ..runtime.context import Context
from ..runtime.sqlite import connect, is_locked
from ..types import Backup, Source, SourceKind, SourceRecord
from ..unfinished import STAGE
from .commands import Commands
from .to_folder import select


@dataclass(slots=True)
class Target:
    """A live store: its record in the backup, its path, and the folder beside it in which the replacement is staged.

    ``damaged``: the replacement is, as the store was when it was backed up. ``created`` and ``exchanged`` say what the exchange
    did. ``set_aside`` has pairs of old paths and where they were moved.
    """

    record: SourceRecord
    path: Path
    stage: Path
    damaged: bool = False
    created: bool = False
    exchanged: bool = False
    set_aside: list[tuple[Path, Path]] = field(default_factory=list)

    @property
    def staged(self) -> Path:
        """The replacement; after the exchange of a folder, the old store."""
        return self.stage / self.record.prefix

    @property
    def gate(self) -> Gate | None:
        """The gate of a Chroma directory, if an application uses one."""
        gate = Gate(self.path)
        return gate if self.record.kind is SourceKind.CHROMA and gate.exists() else None

    @property
    def as_file(self) -> bool:
        """Whether the replacement is the raw bytes of a database that SQLite cannot read."""
        return self.record.kind is SourceKind.SQLITE and self.record.method == "raw"

    def is_database(self) -> bool:
        """Whether SQLite's backup API can write into the file at ``path``: it is a readable or a locked database."""
        if not self.path.exists():
            return False
        try:
            with contextlib.closing(connect(self.path, timeout=10)) as database:
                database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.DatabaseError as problem:
            return is_locked(problem)
        return True

    def refuse_open(self, commands: Commands, *, stopped: bool, wait: float = 0.0) -> None:
        """Raise `RestoreRefused` if a process has open, or may have open, what is replaced as a file or a folder.

        Chroma under the gate may be open. Before the application is *stopped* by a command, it may be, too. What was stopped
        has *wait* seconds to end.
        """
        if self.record.kind is SourceKind.FILES or self.gate or commands.ignore_open or (commands.stops and not stopped):
            return
        file = self.path / DATABASE if self.record.kind is SourceKind.CHROMA else self.path
        deadline = time.monotonic() + (wait if commands.stops else 0.0)
        while why := _who_has_open(file):
            if time.monotonic() >= deadline:
                still = " still, after the application was stopped" if commands.stops else ""
                raise RestoreRefused(
                    f"{self.path} {why}{still}. Nothing was changed.",
                    hint="Stop the application, or give --stop-command and --start-command. If you know that nothing uses it, "
                    "give --ignore-open.",
                )
            time.sleep(0.05)


def _who_has_open(file: Path) -> str | None:
    """Which processes have *file* open, in words, or that nobody can say; None if none has."""
    if holders := owners(file, parent=True):
        return f"is open in {holders}, which does not use the gate" if file.name == DATABASE else f"is open in {holders}"
    elsewhere = is_open_elsewhere(file)
    if elsewhere:
        return "is open in a process that this user cannot see"
    if elsewhere is None and not sees_all_processes():
        return "may be open in a process of another user, which this user cannot see"
    return None


def logs_of(database: Path) -> list[Path]:
    """The files that SQLite may keep beside *database*."""
    return [database.with_name(database.name + suffix) for suffix in ("-wal", "-shm", "-journal")]


def old_in(stage: Path, old: Path) -> Path:
    """Where the exchange sets aside, in the staging folder *stage*, the file *old* of a database that it replaces as a file."""
    return stage / f"old-{old.name}"


def databases_of(targets: list[Target]) -> list[Target]:
    """The SQLite databases among *targets*."""
    return [target for target in targets if target.record.kind is SourceKind.SQLITE]


def folders_of(targets: list[Target]) -> list[Target]:
    """The Chroma directories and folders of files among *targets*."""
    return [target for target in targets if target.record.kind is not SourceKind.SQLITE]


def find_targets(backup: Backup, only: str | None, sources: tuple[Source, ...], ctx: Context) -> list[Target]:
    """The live store of each record of *backup* that *only* selects, and what replaces it.

    That is the source of its kind and name, or, without *sources*, the path it was captured from. Raises `RestoreRefused` for a
    store that cannot be exchanged, for the raw bytes of a broken store unless they are in a safety backup, and, without *only*,
    for a source that no record matches.
    """
    records = select(backup, only)
    given = {(source.kind, source.name): source.path for source in sources}
    unmatched = sorted(f"{kind}:{name}" for kind, name in given.keys() - {(record.kind, record.name) for record in records})
    if unmatched and only is None:
        raise RestoreRefused(
            f"The backup does not hold {', '.join(unmatched)}. Restoring the rest would leave stores of different times.",
            hint="Choose a backup that holds them all, or say --only KIND[:NAME]. Nothing was changed.",
        )
    targets: list[Target] = []
    stages: dict[Path, Path] = {}
    for record in records:
        path = given.get((record.kind, record.name)) if given else Path(record.path)
        if path is None:
            offered = ", ".join(f"{kind}:{name}" for kind, name in given)
            raise RestoreRefused(
                f"The backup holds {record.kind}:{record.name}, but no target of that name is given ({offered}).",
                hint=f"Name it: --{record.kind} {record.name}=PATH, or leave it out with --only.",
            )
        path = Path(os.path.realpath(path))
        if path.is_mount():
            raise RestoreRefused(f"{path} is a mount point, which cannot be exchanged. Restore into a folder instead.")
        if record.kind is not SourceKind.SQLITE:
            refuse_mounts_below(path)
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise RestoreRefused(f"{path.parent} does not exist or is not writable.")
        if record.method == "raw" and not backup.manifest.safety:
            raise RestoreRefused(
                f"The backup holds {record.prefix} only as the raw bytes of a broken store.",
                hint="Restore it into a folder and repair it there, or choose another backup.",
            )
        stage = stages.setdefault(path.parent, path.parent / f"{STAGE}{ctx.token()}")
        targets.append(Target(record, path, stage))
    return targets


def refuse_mounts_below(folder: Path) -> None:
    """Raise `RestoreRefused` if a file system is mounted in *folder* (proc(5), ``mountinfo``): it would be moved away, too."""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        mount = Path(os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), line.split(b" ")[4])))
        if folder in mount.parents:
            raise RestoreRefused(
                f"A file system is mounted on {mount}, inside {folder}, and would be moved away with it. Nothing was changed.",
                hint="Unmount it for the restore, or restore into a folder.",
            )


def refuse_nested(targets: list[Target], repository: Repository, backup: Backup, sources: tuple[Source, ...]) -> None:
    """Raise `RestoreRefused` if two targets are the same, or if a folder to be exchanged contains another store."""
    paths = [target.path for target in targets]
    for path in paths:
        if paths.count(path) > 1:
            raise RestoreRefused(f"{path} is the target of two stores. Nothing was changed.")
    others = [source.path for source in sources] or [Path(record.path) for record in backup.manifest.sources]
    within = [repository.folder.resolve(), *paths, *(Path(os.path.realpath(path)) for path in others)]
    for target in folders_of(targets):
        for inner in within:
            if inner != target.path and inner.is_relative_to(target.path):
                raise RestoreRefused(
                    f"{inner} lies inside {target.path} and would be exchanged with it.",
                    hint=f"Restore {target.record.kind}:{target.record.name} into a folder, or leave it out with --only.",
                )
