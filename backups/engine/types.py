"""Sources, backups, manifests, proofs and holds.

What is stored as JSON is a pydantic model: every field from a hostile or damaged repository is checked. Unknown fields are
ignored; a change that older versions must not ignore raises ``format``. The models refer to each other, hence one module."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from .left_out import LONGEST_PATTERN, MOST_LEFT_OUT, MOST_PATTERNS, Absence
from .names import BACKUP_ID, DATA, NAME, SEALED_DATA, in_one_line, printable

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]
Id = Annotated[str, StringConstraints(pattern=rf"^{BACKUP_ID.pattern}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=1 << 62)]
LONGEST_NOTE = 4096
Printable = Annotated[str, BeforeValidator(lambda text: printable(text) if isinstance(text, str) else text)]
Short = Annotated[str, StringConstraints(max_length=LONGEST_NOTE), AfterValidator(in_one_line)]
Pattern = Annotated[str, StringConstraints(max_length=LONGEST_PATTERN)]
T = TypeVar("T")


def _bounded(rows: Any) -> Any:
    if isinstance(rows, dict) and len(rows) > MOST_ROWS:  # pydantic would look at all of them first
        raise ValueError(f"there are more than {MOST_ROWS:,}")
    return rows


Items = Annotated[tuple[T, ...], Field(fail_fast=True)]  # a description of each of a million errors takes gigabytes


class BackupKind(StrEnum):
    """What a backup holds and what it needs (``docs/reference/cli.md``, "create")."""

    FULL = "full"
    INCREMENTAL = "incremental"
    SNAPSHOT = "snapshot"


class SourceKind(StrEnum):
    """The kinds of stores; also the folders of an archive."""

    SQLITE = "sqlite"
    CHROMA = "chroma"
    FILES = "files"


class Depth(StrEnum):
    """How a verification works: read every byte, or restore and open the stores."""

    HASHES = "hashes"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A store to back up: a SQLite file, a Chroma directory or a folder of files."""

    kind: SourceKind
    name: str
    path: Path

    @property
    def prefix(self) -> str:
        """Its path in an archive: ``sqlite/NAME.sqlite3``, ``chroma/NAME`` or ``files/NAME``."""
        suffix = ".sqlite3" if self.kind is SourceKind.SQLITE else ""
        return f"{self.kind}/{self.name}{suffix}"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(_Stored):
    """Damage: the source, file and byte offset, and the other backups that share it.

    ``lies_in`` is the backup whose files are damaged, which may be an ancestor; None in older proofs.
    """

    code: str
    source: Printable | None = None
    file: Printable | None = None
    offset: int | None = None
    message: Printable
    also_in: Items[str] = ()
    lies_in: str | None = None


class Digest(_Stored):
    """Digests of a Chroma collection (`chroma_files.digests`): ``count`` in ``records``, ``indexed_count`` in ``indexed``."""

    count: Size
    indexed_count: Size | None = None
    indexed: Hex
    recent: Hex
    records: Hex


class Collection(_Stored):
    """A Chroma collection at the cut; ``metadata_at`` and ``vector_at`` are its segments' positions in Chroma's log."""

    id: str
    name: str
    dimension: int | None
    space: str
    metadata_at: Size
    vector_at: Size
    digest: Digest


class LeftOut(_Stored):
    """Something in a folder that its backup does not hold, with everything below it.

    ``path`` is relative to the folder, for people; if it is not UTF-8, ``raw`` has its bytes as hexadecimal digits. With a
    ``count`` above 0, ``path`` is a folder, and ``count`` entries in it are left out; others may be in the backup.
    """

    path: str
    raw: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$")] = ""
    reason: Absence
    detail: str = ""
    count: Size = 0

    @property
    def name(self) -> str:
        """The path as the operating system takes it; "" is the folder itself."""
        return os.fsdecode(bytes.fromhex(self.raw)) if self.raw else self.path

    @property
    def message(self) -> str:
        """A sentence for people, without its full stop."""
        why = self.reason.words + (f": {self.detail}" if self.detail else "")
        if self.count:
            return f"{self.count:,} of what is in {self.path or 'the folder'} is left out, the first because {why}"
        return f"{self.path or '.'} is left out: {why}"


class Peak(_Stored):
    """The most rows of a table, records of a collection, files or bytes of a folder (no ``name``), and the backup with it."""

    unit: str
    name: Printable = ""
    count: Size
    backup: Id


MOST_PEAKS, MOST_ROWS = 1_000, 10_000
"""Peaks that a manifest keeps for a source, the highest, and tables whose rows are read from it."""


class SourceRecord(_Stored):
    """A source as it was captured.

    ``method``: ``pinned`` (read in place while it could not change), ``online`` (SQLite's online backup API), ``cut``
    (Chroma, copied under its lock), ``walked`` (files), ``raw`` (bytes of a broken store), ``unchanged`` (not read).
    ``same_instant`` is false for a large database in rollback-journal mode that was written to: it is copied after the cut.
    ``left_out`` has what a folder of files contains and the backup does not, ``exclude`` the patterns it was captured with;
    `left_out.Outside` combines the two. ``rows`` are those of the tables of a database that were counted; ``uncounted`` has the
    other tables, and "" if there may be more. ``peaks`` has what earlier backups hold more of (`shrinkage`).
    """

    kind: SourceKind
    name: Name
    path: str
    method: Literal["pinned", "online", "cut", "walked", "raw", "unchanged"]
    bytes: Size
    files: Size = 1
    pause_ms: float = 0.0
    same_instant: bool = True
    version: str | None = None
    collections: Items[Collection] = ()
    rows: Annotated[dict[str, Size], BeforeValidator(_bounded)] = {}
    uncounted: Items[str] = ()
    peaks: Annotated[Items[Peak], Field(max_length=MOST_PEAKS)] = ()
    problems: Items[Problem] = ()
    left_out: Annotated[Items[LeftOut], Field(max_length=MOST_LEFT_OUT)] = ()
    exclude: Annotated[Items[Pattern], Field(max_length=MOST_PATTERNS)] = ()

    @property
    def missing(self) -> tuple[LeftOut, ...]:
        """What belongs into the backup and is not in it."""
        return tuple(item for item in self.left_out if item.reason.is_loss)

    @property
    def prefix(self) -> str:
        return Source(kind=self.kind, name=self.name, path=Path(self.path)).prefix


class DataFile(_Stored):
    """``data.tar.zst`` and the table at its end.

    ``whole_bytes`` is the size of the last whole table, ``partial_bytes`` that of all partial ones since, with this one: when
    they outgrow it, the next table is whole again.
    """

    bytes: Size
    sha256: Hex
    table_offset: Size
    table_bytes: Size
    table_blake3: Hex
    table_whole: bool
    partial_bytes: Size = 0
    whole_bytes: Size = 0


class Pause(_Stored):
    """How long writers were paused, in milliseconds."""

    sqlite: float = 0.0
    chroma: float = 0.0


STORES = "stores"
"""The unit of a source that is missing as a whole."""


class Shrunk(_Stored):
    """A table, collection or folder, or with an empty ``name`` a whole source, that lost all or most of its content.

    With the unit `STORES`, the source is not in the backup at all.
    ``backup`` is the earlier backup that held ``before``: null for the backup before, empty if it was removed since.
    """

    source: Printable
    name: Printable = ""
    unit: str
    before: Size
    after: Size
    backup: str | None = None

    @property
    def message(self) -> str:
        """A sentence for people, without its full stop."""
        what = f"{self.name} in {self.source}" if self.name else self.source
        if self.unit == STORES:
            return f"{what} was not backed up, as it was in the backup before"
        where = "the backup before" if self.backup is None else self.backup or "an earlier backup, which was removed since"
        return f"{what} has {self.after:,} {self.unit}, {self.before:,} in {where}"


class Encryption(_Stored):
    """The chain of an encrypted backup: the id of its full backup, and the commitment to its key (`encryption.chain`)."""

    chain: Id
    commitment: Hex


class Manifest(_Stored):
    """``manifest.json``: everything about a backup except its table.

    ``time`` is the instant of the cut. ``safety`` marks the safety backup of a restore in place; ``mixed``, that stores may be
    of different times. ``job`` is the caller's name for the run, by which it finds the backup if it missed the end of the run.
    ``read_all`` is when every file was last read, by this backup or an ancestor; others trust the times of files.
    Of one that is ``locked`` (encrypted, and no key at hand opens it) only ids, times and sizes are known.
    """

    format: Literal[1, 2] = 1
    id: Id
    set: Name
    kind: BackupKind
    parent: Id | None = None
    time: AwareDatetime
    read_all: AwareDatetime | None = None
    finished: AwareDatetime
    host: Short = ""
    engine: Short = ""
    note: Short = ""
    sources: Items[SourceRecord]
    bytes_source: Size
    bytes_stored: Size
    pause_ms: Pause = Pause()
    data: DataFile
    encryption: Encryption | None = None
    locked: bool = Field(default=False, exclude=True)
    safety: bool = False
    mixed: bool = False
    job: Short = ""
    replaces: Items[Id] = ()
    shrunk: Items[Shrunk] = ()
    log: Items[str] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Damage of the sources found at capture; a backup with any is damaged."""
        return tuple(problem for source in self.sources for problem in source.problems)

    @property
    def archive(self) -> str:
        """The name of the archive's file."""
        return DATA if self.encryption is None else SEALED_DATA

    @property
    def incomplete(self) -> bool:
        """Whether something that belongs into the backup is missing from it (`SourceRecord.missing`)."""
        return any(source.missing for source in self.sources)


class Proof(_Stored):
    """A stored result of a verification; ``scope`` is ``written`` if only the archive of the backup itself was read.

    ``unrecorded`` says why it could not be stored, on a full disk."""

    id: Id
    time: AwareDatetime
    ok: bool
    depth: Depth
    seconds: float
    bytes: Size
    problems: Items[Problem] = ()
    checks: dict[str, Any] = {}
    drill: bool = False
    scope: Literal["needed", "written"] = "needed"
    unrecorded: str = Field(default="", exclude=True)

    @property
    def reach(self) -> int:
        """How deep it went: 1 for its own archive, 2 for every byte needed, 3 for a restore."""
        if self.depth is Depth.RESTORE:
            return 3
        return 2 if self.scope == "needed" else 1

    @property
    def blames_source(self) -> bool:
        """Whether all problems were in the source, and none is in the repository."""
        return bool(self.problems) and all(problem.code in SOURCE_PROBLEMS for problem in self.problems)


SOURCE_PROBLEMS = frozenset({"sqlite_integrity", "chroma_structure", "source_unreadable"})
"""Codes of problems of the source, which the backup reproduces faithfully."""


class Hold(_Stored):
    """Protects a backup from retention and deletion; also one that nobody ``signed``.

    ``shrunk`` lists what a later backup no longer holds, in sentences. Releasing the hold confirms that loss. A
    hold that a person set before (not ``automatic``) stays afterwards.
    """

    time: AwareDatetime
    note: Short = ""
    shrunk: Items[Printable] = ()
    automatic: bool = False
    signed: bool = Field(default=True, exclude=True)

    @property
    def reason(self) -> str:
        """The note, and whether nobody signed the hold."""
        return self.note if self.signed else f"{self.note or 'no reason given'} (nobody signed this hold)"

    @property
    def confirmed(self) -> Hold | None:
        """What remains of it when a person releases it."""
        return self.model_copy(update={"shrunk": ()}) if self.shrunk and self.signed and not self.automatic else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A published backup: its manifest, its proofs (oldest first) and its hold.

    ``inherited`` has problems that neither tells (`repository.soundness`), such as that files which it needs are gone,
    ``skipped`` each newer, damaged backup that ``latest`` or ``@TIME`` passed over to find it."""

    manifest: Manifest
    proofs: tuple[Proof, ...] = ()
    hold: Hold | None = None
    inherited: tuple[Problem, ...] = ()
    skipped: tuple[tuple[str, Problem], ...] = ()

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def proof(self) -> Proof | None:
        """The newest proof."""
        return self.proofs[-1] if self.proofs else None

    @property
    def failure(self) -> Proof | None:
        """The newest failed proof that no later success of at least the same depth refutes."""
        lifted = 0
        for proof in reversed(self.proofs):
            if proof.ok:
                lifted = max(lifted, proof.reach)
            elif proof.reach > lifted:
                return proof
        return None

    @property
    def damaged(self) -> bool:
        """Whether the source was damaged at capture, or there is a `failure` or an inherited problem."""
        return bool(self.manifest.problems or self.inherited) or self.failure is not None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why it is damaged: the problems found at capture, those of the `failure`, and the inherited ones."""
        failed = self.failure.problems if self.failure is not None else ()  # they repeat those of the capture
        found = (*self.manifest.problems, *failed, *self.inherited)
        return tuple({one.model_copy(update={"lies_in": None}): one for one in found}.values())

    @property
    def verified_at(self) -> datetime | None:
        """The time of the newest successful proof of any depth."""
        return next((proof.time for proof in reversed(self.proofs) if proof.ok), None)

    @property
    def verification(self) -> str:
        """``none``, ``hashes``, ``restore`` or ``damaged``."""
        if self.damaged:
            return "damaged"
        depths = {proof.depth for proof in self.proofs if proof.ok}
        return "restore" if Depth.RESTORE in depths else "hashes" if depths else "none"
