"""Backups: filters, requests to make, verify, restore and hold one, and how it is shown."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from backups.api.paging import PageQuery
from backups.jobs.arguments import BackupId, Name, Only
from backups.models import IndexedBackup

from .base import Moment, Note, RequestModel, ResponseModel, Text

Kind = Literal["full", "incremental", "snapshot"]
Proof = Literal["none", "hashes", "restore", "damaged"]

_ONE_STORE = "One store: `sqlite`, `chroma`, `files`, or `KIND:NAME`."


class BackupQuery(PageQuery):
    """Filters of the list of backups."""

    lookups = {"proof": "verification", "since": "time__gte", "until": "time__lte", "text": ""}  # noqa: RUF012

    kind: Annotated[Kind | None, Field(description="Backups of one kind.")] = None
    proof: Annotated[Proof | None, Field(description="Backups with this verification; `restore` is the strongest.")] = None
    set: Annotated[Text, Field(description="Backups of one set.")] = ""
    repository: Annotated[Text, Field(description="Backups in one repository.")] = ""
    host: Annotated[Text, Field(description="Backups made on one host.")] = ""
    held: Annotated[bool | None, Field(description="Held backups, or backups that are not held.")] = None
    since: Annotated[Moment | None, Field(description="Cut at this time or later.")] = None
    until: Annotated[Moment | None, Field(description="Cut at this time or earlier.")] = None
    text: Annotated[Text, Field(description="Contained in the note or the id, ignoring case.")] = ""


class RepositoryQuery(RequestModel):
    """Selects a repository when several hold the same backup."""

    repository: Annotated[Text, Field(description="Repository name; by default the first that holds the backup.")] = ""


class SourceSchema(ResponseModel, title="Source"):
    """A store in a backup."""

    kind: str
    name: str
    bytes: int
    files: int
    method: str


class BackupSchema(ResponseModel, title="Backup"):
    """A backup as recorded in the index."""

    id: Annotated[str, Field(validation_alias="backup_id")]
    repository: str
    set: str
    kind: str
    parent: str | None
    time: datetime
    finished: datetime
    host: str
    note: str
    bytes_source: int
    bytes_stored: int
    seconds: float
    pause_ms: dict[str, float]
    proof: Proof
    verified_at: datetime | None
    proofs: int
    restore_seconds: float | None
    held: bool
    hold_note: str
    safety: bool
    sources: list[SourceSchema]
    problem: str
    job: str | None


class Lineage(ResponseModel):
    """The backups that a restore of this one needs, nearest first, and its direct children, newest first."""

    needs: list[str]
    needed_by: list[str]


class BackupDetails(BackupSchema, title="WholeBackup"):
    """A backup with its manifest, proofs and lineage. If the manifest cannot be read, it is null and `problem` says why."""

    manifest: dict[str, Any] | None
    proof_history: list[dict[str, Any]]
    lineage: Lineage


class NewBackup(RequestModel):
    """A backup to make."""

    kind: Annotated[Kind, Field(description="`snapshot` holds SQLite only.")] = "full"
    set: Annotated[Name | Literal[""], Field(description="The set to back up; by default the default set.")] = ""
    repository: Annotated[Text, Field(description="The target; by default the default repository.")] = ""
    only: Annotated[
        tuple[Only, ...], Field(max_length=20, description="Only these stores: `sqlite`, `chroma`, `files`, or `KIND:NAME`.")
    ] = ()
    note: Note = ""
    verify: Annotated[
        Literal["none", "hashes", "restore"] | None,
        Field(description="How to verify the backup; by default the strongest way that fits."),
    ] = None


class VerifyRequest(RequestModel, title="Proving"):
    """Depth of a verification: check every byte, or restore the backup and open its stores."""

    depth: Literal["hashes", "restore"] = "hashes"


class HoldRequest(RequestModel, title="Holding"):
    """The reason for a hold."""

    note: Note = ""


class PreviewRequest(RequestModel, title="Previewing"):
    """The part of a backup whose restore to preview."""

    only: Only | None = None


class RestoreToFolder(RequestModel, title="ToFolder"):
    """Restore into a new folder below `RESTORE_FOLDER`, which the operator has set."""

    to: Literal["folder"]
    folder: Annotated[Name, Field(description="Name of the new folder.")]
    only: Annotated[Only | None, Field(description=_ONE_STORE)] = None
    check: Annotated[bool, Field(description="Open and check the restored stores.")] = True


class RestoreInPlace(RequestModel, title="InPlace"):
    """Restore over the live stores, after a safety backup of them."""

    to: Literal["in_place"]
    confirm: Annotated[Text, Field(description="The full id of the backup.")]
    password: Annotated[
        str | None,
        StringConstraints(max_length=4096),
        Field(description="Password of the account; required with a session, not with a token."),
    ] = None
    only: Annotated[Only | None, Field(description=_ONE_STORE)] = None


RestoreRequest = Annotated[RestoreToFolder | RestoreInPlace, Field(discriminator="to")]


class LegacyRestoreRequest(RequestModel, title="EarlierRestore"):
    """A restore as legacy clients send it: the backup's id and the target."""

    backup_id: BackupId
    restore: RestoreRequest


def backup_schema(row: IndexedBackup) -> BackupSchema:
    """A backup of the index."""
    return BackupSchema.model_validate(_values(row))


def backup_details(
    row: IndexedBackup,
    lineage: Lineage,
    *,
    manifest: dict[str, Any] | None = None,
    proofs: list[dict[str, Any]] | None = None,
    problem: str = "",
) -> BackupDetails:
    """A backup with its manifest and *proofs*, or with the *problem* that kept them from being read."""
    values = _values(row) | {"manifest": manifest, "proof_history": proofs or [], "lineage": lineage}
    return BackupDetails.model_validate(values | ({"problem": problem} if problem else {}))


def _values(row: IndexedBackup) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _SAME_NAMES},
        "parent": row.parent_id or None,
        "pause_ms": {"sqlite": row.pause_sqlite, "chroma": row.pause_chroma},
        "proof": row.verification,
        "job": row.job or None,
    }


_SAME_NAMES = (
    *("backup_id", "repository", "set", "kind", "time", "finished", "host", "note", "bytes_source", "bytes_stored", "seconds"),
    *("verified_at", "proofs", "restore_seconds", "held", "hold_note", "safety", "sources", "problem"),
)
