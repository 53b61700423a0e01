"""The vocabulary: what is backed up, under which names, and what a backup is.

The classes that are stored as JSON are pydantic models, so that a manifest from a hostile or damaged repository is checked
field by field before anything believes it. Unknown fields are ignored; a version that may not do that raises ``format``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from .names import BACKUP_ID, NAME, printable

Name = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]
Id = Annotated[str, StringConstraints(pattern=rf"^{BACKUP_ID.pattern}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=1 << 62)]
LONGEST_NOTE = 4096
Printable = Annotated[str, BeforeValidator(lambda text: printable(text) if isinstance(text, str) else text)]
Short = Annotated[str, StringConstraints(max_length=LONGEST_NOTE)]


class BackupKind(StrEnum):
    """What a backup holds and what it needs (archives.md, "Kinds")."""

    FULL = "full"
    INCREMENTAL = "incremental"
    SNAPSHOT = "snapshot"


class SourceKind(StrEnum):
    """The stores that can be captured; also the first folder of their names in an archive."""

    SQLITE = "sqlite"
    CHROMA = "chroma"
    FILES = "files"


class Depth(StrEnum):
    """How far a verification goes: every byte, or a whole restore with the stores opened."""

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
        """Where it lies in an archive: ``sqlite/NAME.sqlite3``, ``chroma/NAME`` or ``files/NAME``."""
        suffix = ".sqlite3" if self.kind is SourceKind.SQLITE else ""
        return f"{self.kind}/{self.name}{suffix}"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(_Stored):
    """Something wrong, with its place: which source, which file, which byte, and which other backups share it."""

    code: str
    source: Printable | None = None
    file: Printable | None = None
    offset: int | None = None
    message: Printable
    also_in: tuple[str, ...] = ()


class Digest(_Stored):
    """What a Chroma collection held at the cut: the three digests that ``capture/records.py`` defines, and how many records
    the last and the first of them cover."""

    count: Size
    indexed_count: Size | None = None
    indexed: Hex
    recent: Hex
    records: Hex


class Collection(_Stored):
    """A Chroma collection; the positions are those of its metadata and vector segment in Chroma's log."""

    id: str
    name: str
    dimension: int | None
    space: str
    metadata_at: Size
    vector_at: Size
    digest: Digest


class SourceRecord(_Stored):
    """A source as it was captured.

    ``method``: ``pinned`` (read in place while it could not change), ``online`` (SQLite's online backup API), ``cut``
    (Chroma, copied under its lock), ``walked`` (files), ``raw`` (bytes of a broken store), ``unchanged`` (not read).
    ``same_instant`` is false for a large database in rollback-journal mode that was written to: it is copied after the cut.
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
    collections: tuple[Collection, ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def prefix(self) -> str:
        return Source(kind=self.kind, name=self.name, path=Path(self.path)).prefix


class DataFile(_Stored):
    """``data.tar.zst`` and the table at its end.

    ``whole_bytes`` is the size of the last whole table, ``partial_bytes`` that of all partial ones since, this included: when
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
    """How long writers were held up, in milliseconds."""

    sqlite: float = 0.0
    chroma: float = 0.0


class Manifest(_Stored):
    """``manifest.json``: all about a backup but its table.

    ``time`` is the instant of the cut. ``safety`` marks a backup that a restore in place made of what it was about to replace.
    ``job`` is what whoever asked for it calls the run, so that a run whose end was never told is found again.
    """

    format: Literal[1] = 1
    id: Id
    set: Name
    kind: BackupKind
    parent: Id | None = None
    time: AwareDatetime
    finished: AwareDatetime
    host: Short = ""
    engine: Short = ""
    note: Short = ""
    sources: tuple[SourceRecord, ...]
    bytes_source: Size
    bytes_stored: Size
    pause_ms: Pause = Pause()
    data: DataFile
    encryption: None = None
    safety: bool = False
    job: Short = ""
    replaces: tuple[Id, ...] = ()
    log: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was wrong with the sources when they were captured; a backup with any is damaged."""
        return tuple(problem for source in self.sources for problem in source.problems)


class Proof(_Stored):
    """The result of a verification, kept in the repository beside the backup.

    ``scope``: whether all that the backup needs was read, its ancestors' blocks included, or what its own archive stores.
    """

    id: Id
    time: AwareDatetime
    ok: bool
    depth: Depth
    seconds: float
    bytes: Size
    problems: tuple[Problem, ...] = ()
    checks: dict[str, Any] = {}
    drill: bool = False
    scope: Literal["needed", "written"] = "needed"

    @property
    def reach(self) -> int:
        """How deep it looked: 1 for what was written, 2 for every byte that is needed, 3 for a restore."""
        if self.depth is Depth.RESTORE:
            return 3
        return 2 if self.scope == "needed" else 1

    @property
    def blames_source(self) -> bool:
        """Whether every problem lies in what was backed up, and none in the repository."""
        return bool(self.problems) and all(problem.code in SOURCE_PROBLEMS for problem in self.problems)


SOURCE_PROBLEMS = frozenset({"sqlite_integrity", "chroma_structure", "source_unreadable"})
"""Codes of problems that the source had; the backup holds it faithfully."""


class Hold(_Stored):
    """A person's wish that a backup stay, whatever retention says."""

    time: AwareDatetime
    note: Short = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A published backup: its manifest and what was recorded about it since."""

    manifest: Manifest
    proofs: tuple[Proof, ...] = ()
    hold: Hold | None = None

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def proof(self) -> Proof | None:
        """The newest proof."""
        return self.proofs[-1] if self.proofs else None

    @property
    def failure(self) -> Proof | None:
        """The newest failed proof that stands: only a later success that looked at least as deep lifts a failure."""
        lifted = 0
        for proof in reversed(self.proofs):
            if proof.ok:
                lifted = max(lifted, proof.reach)
            elif proof.reach > lifted:
                return proof
        return None

    @property
    def damaged(self) -> bool:
        """Whether the source was broken when it was captured, or a failed proof stands."""
        return bool(self.manifest.problems) or self.failure is not None

    @property
    def verified_at(self) -> datetime | None:
        """When it was last proven, by any depth."""
        return next((proof.time for proof in reversed(self.proofs) if proof.ok), None)

    @property
    def verification(self) -> str:
        """``none``, ``hashes``, ``restore`` or ``damaged``."""
        if self.damaged:
            return "damaged"
        depths = {proof.depth for proof in self.proofs if proof.ok}
        return "restore" if Depth.RESTORE in depths else "hashes" if depths else "none"
