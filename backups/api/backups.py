"""Backups: list, make, verify, preview, restore, hold, download and delete them."""

from datetime import datetime
from typing import Annotated, Any, Literal

from django.db.models import Q
from django.http import HttpResponseBase
from pydantic import Field
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.catalog import downloads, holds
from backups.catalog.last_proven import PROVEN, sets_left_unproven
from backups.conf import configuration
from backups.engine.errors import BackupInUse, EngineError, RestoreRefused
from backups.engine.repository.soundness import results
from backups.identity import four_eyes
from backups.identity.step_up import always
from backups.jobs import submit
from backups.jobs.arguments import Name, Only
from backups.models import IndexedBackup, Job

from .authentication import actor
from .jobs import job_operation
from .operation import Operation
from .paging import Page, PageQuery, page
from .problems import Refused
from .restored_code import Acknowledged, require_acknowledged
from .schemas import Moment, Note, RequestModel, ResponseModel, Text

Kind = Literal["full", "incremental", "snapshot"]
Proof = Literal["none", "hashes", "restore", "damaged", "missing"]

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
    """Selects a repository, and a set, when several hold the same backup."""

    repository: Annotated[Text, Field(description="Repository name; by default the first that holds the backup.")] = ""
    set: Annotated[Text, Field(description="Set name; required if several sets of the repository hold the id.")] = ""


class SourceSchema(ResponseModel, title="Source"):
    """A store in a backup."""

    kind: str
    name: str
    bytes: int
    files: int
    method: str
    missing: Annotated[int, Field(description="Files and folders that belong into the backup and are missing from it.")] = 0


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
    check_failed_at: Annotated[
        datetime | None,
        Field(description="When the last verification ended without a result; null if a later one did not, or none ever did."),
    ] = None
    check_failed: Annotated[str, Field(description="Why it did.")] = ""
    job: str | None
    not_signed: Annotated[str, Field(description="In the answer to holding or releasing it: why nothing vouches for that.")] = (
        ""
    )


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


class RestoreInPlace(Acknowledged, title="InPlace"):
    """Restore over the live stores, after a safety backup of them."""

    to: Literal["in_place"]
    confirm: Annotated[Text, Field(description="The full id of the backup.")]
    only: Annotated[Only | None, Field(description=_ONE_STORE)] = None


RestoreRequest = Annotated[RestoreToFolder | RestoreInPlace, Field(discriminator="to")]


def backup_schema(row: IndexedBackup, not_signed: str = "") -> BackupSchema:
    """A backup of the index."""
    return BackupSchema.of(row, **_values(row), not_signed=not_signed)


def _values(row: IndexedBackup) -> dict[str, Any]:
    return {
        "parent": row.parent_id or None,
        "pause_ms": {"sqlite": row.pause_sqlite, "chroma": row.pause_chroma},
        "proof": row.verification,
        "job": row.job or None,
    }


_LONGEST_CHAIN, _MOST_CHILDREN = 1000, 500


def find_backup(backup_id: str, repository: str = "", set_name: str = "") -> IndexedBackup:
    """The backup of an address. Raises as `holds.indexed`, or `NotFound` if there is no latest one."""
    if backup_id != "latest":
        return holds.indexed(backup_id, repository, set_name)
    config = configuration()
    rows = IndexedBackup.objects.filter(
        repository=repository or config.default_repository, set=set_name or config.default_set, safety=False
    )
    undamaged = rows.exclude(verification__in=IndexedBackup.UNUSABLE).exclude(kind=IndexedBackup.Kind.SNAPSHOT)
    row = undamaged.order_by("-time", "-backup_id").first()
    if row is None:
        raise NotFound(f"The set {set_name or config.default_set} has no undamaged full or incremental backup.")
    return row


def _reachable(row: IndexedBackup) -> IndexedBackup:
    """The same backup. Raises `RepositoryMissing` while its repository is not available, because a job would only fail."""
    configuration().open(row.repository)
    return row


@Operation("backups.view_backup", query=BackupQuery, responses={200: Page[BackupSchema]})
def list_backups(request: Request, *, query: BackupQuery) -> Page[BackupSchema]:
    """List backups, newest first."""
    rows = query.matching(IndexedBackup.objects.all())
    if query.text:
        rows = rows.filter(Q(note__icontains=query.text) | Q(backup_id__icontains=query.text))
    return page(request, query, rows, ("time", "backup_id", "pk"), backup_schema)


@job_operation("backups.create_backup", body=NewBackup, problems=(409, 503))
def create_backup(request: Request, *, body: NewBackup) -> Job:
    """Queue a backup.

    When the job has succeeded, its `backup_id` names the backup.
    """
    configuration().open(body.repository or configuration().default_repository)
    values = body.model_dump()
    return submit.back_up(actor(request), backup=values.pop("kind"), **values)


@Operation("backups.view_backup", query=RepositoryQuery, responses={200: BackupDetails}, problems=(503,))
def show_backup(request: Request, backup_id: str, *, query: RepositoryQuery) -> BackupDetails:
    """Show a backup with its manifest, proofs and lineage."""
    row = find_backup(backup_id, query.repository, query.set)
    values = _values(row) | {"lineage": _lineage(row), "manifest": None, "proof_history": [], "not_signed": ""}
    try:
        _, stored = holds.stored(row)
    except EngineError as problem:
        return BackupDetails.of(row, **values, problem=problem.message or row.problem)
    values |= {"manifest": stored.manifest.model_dump(mode="json")}
    values |= {"proof_history": [proof.model_dump(mode="json") for proof in results(stored)]}
    return BackupDetails.of(row, **values)


def _lineage(row: IndexedBackup) -> Lineage:
    rows = IndexedBackup.objects.filter(**row.home)
    needs: list[str] = []
    parent = row.parent_id
    while parent and parent not in needs and len(needs) < _LONGEST_CHAIN:
        needs.append(parent)
        parent = rows.filter(backup_id=parent).values_list("parent_id", flat=True).first() or ""
    children = rows.filter(parent_id=row.backup_id).order_by("-time", "-backup_id")
    return Lineage(needs=needs, needed_by=list(children.values_list("backup_id", flat=True)[:_MOST_CHILDREN]))


class DeletionQuery(RepositoryQuery):
    """Selects a repository and a set, and confirms the deletion of the last proven backup."""

    last_proven: Annotated[bool, Field(description="Delete it also if its set has no other proven backup.")] = False


_DELETES: dict[str, Any] = {"dangerous": always, "second": four_eyes.DELETE, "idempotency_key": False}


@job_operation("backups.delete_backup", query=DeletionQuery, problems=(409, 503), **_DELETES)
def delete_backup(request: Request, backup_id: str, *, query: DeletionQuery) -> Job:
    """Delete a backup.

    A held backup is refused, and so is the last proven backup of a set unless `last_proven` is true. If another backup needs
    this one, the job fails and nothing is deleted.
    """
    row = _reachable(find_backup(backup_id, query.repository, query.set))
    if not query.last_proven and row.verification in PROVEN and (sets := sets_left_unproven([row])):
        raise BackupInUse(
            f"Without {row.backup_id}, the set {sets[0]} has no proven backup.",
            hint="Make and verify another one first, or send last_proven=true. Nothing was deleted.",
        )
    return submit.delete(actor(request), [row.backup_id], **row.home)


@job_operation("backups.verify_backup", query=RepositoryQuery, body=VerifyRequest)
def verify_backup(request: Request, backup_id: str, *, query: RepositoryQuery, body: VerifyRequest) -> Job:
    """Verify a backup.

    The depth is `hashes` (check every byte) or `restore` (restore it and open its stores).
    """
    row = _reachable(find_backup(backup_id, query.repository, query.set))
    return submit.verify(actor(request), backup_ids=[row.backup_id], **row.home, depth=body.depth)


@job_operation("backups.verify_backup", query=RepositoryQuery)
def drill_backup(request: Request, backup_id: str, *, query: RepositoryQuery) -> Job:
    """Run a drill.

    Restores the backup to a temporary folder, checks and times it, and removes it.
    """
    row = _reachable(find_backup(backup_id, query.repository, query.set))
    return submit.drill(actor(request), backup_id=row.backup_id, **row.home)


@job_operation("backups.restore_backup", query=RepositoryQuery, body=PreviewRequest)
def preview_restore(request: Request, backup_id: str, *, query: RepositoryQuery, body: PreviewRequest) -> Job:
    """Preview a restore in place.

    Changes nothing. The job's `result` lists the rows of each table, the vectors of each collection, and the accounts and
    permissions that the restore would change.
    """
    row = _reachable(find_backup(backup_id, query.repository, query.set))
    return submit.preview_restore(actor(request), backup_id=row.backup_id, **row.home, only=body.only)


def _replaces(request: Request, *, body: RestoreToFolder | RestoreInPlace, **_: Any) -> bool:
    return isinstance(body, RestoreInPlace)


@job_operation(
    "backups.restore_backup",
    query=RepositoryQuery,
    body=RestoreRequest,
    problems=(409, 503),
    dangerous=_replaces,
    second=four_eyes.RESTORE,
)
def restore_backup(request: Request, backup_id: str, *, query: RepositoryQuery, body: RestoreToFolder | RestoreInPlace) -> Job:
    """Restore a backup to a new folder, or over the live stores.

    A restore in place first makes a safety backup of the live stores, and rolls back if a check fails. `confirm` is the
    backup's id, even if the address says `latest`. Triggers, views and embedding functions that the live stores do not have
    must be named, or all accepted: 409, `code_unconfirmed`.
    """
    return submit_restore(request, find_backup(backup_id, query.repository, query.set), body)


def submit_restore(request: Request, row: IndexedBackup, body: RestoreToFolder | RestoreInPlace) -> Job:
    """Queue a restore. Raises `Refused` if the folder exists; `RepositoryMissing`."""
    _reachable(row)
    if isinstance(body, RestoreToFolder):
        if (configuration().restore_folder / body.folder).exists():
            raise Refused(
                409, "target_occupied", f"The folder {body.folder} already exists. Nothing was done.", "Choose another name."
            )
        values = body.model_dump(exclude={"to"}) | {"backup_id": row.backup_id, **row.home}
        return submit.restore_to_folder(actor(request), **values)
    if body.confirm != row.backup_id:
        raise RestoreRefused("`confirm` is not the id of the backup. Nothing was changed.", hint="Send the full id.")
    require_acknowledged(row, body.only, body)
    values = {"backup_id": row.backup_id, **row.home, "only": body.only}
    return submit.restore_in_place(actor(request), typed=body.confirm, **values)


@Operation("backups.hold_backup", query=RepositoryQuery, body=HoldRequest, responses={200: BackupSchema}, problems=(409, 503))
def hold_backup(request: Request, backup_id: str, *, query: RepositoryQuery, body: HoldRequest) -> BackupSchema:
    """Hold a backup.

    Neither retention nor a request deletes a held backup until it is released.
    """
    return backup_schema(*holds.hold(actor(request), find_backup(backup_id, query.repository, query.set), body.note))


@Operation(
    "backups.hold_backup",
    query=RepositoryQuery,
    responses={200: BackupSchema},
    problems=(409, 503),
    dangerous=always,
    second=four_eyes.RELEASE,
)
def release_backup(request: Request, backup_id: str, *, query: RepositoryQuery) -> BackupSchema:
    """Release a held backup."""
    return backup_schema(*holds.release(actor(request), find_backup(backup_id, query.repository, query.set)))


_FILE = {"application/zstd": {"type": "string", "format": "binary"}, "application/json": {}, "text/plain": {"type": "string"}}


@Operation(
    "backups.download_backup",
    dangerous=always,
    query=RepositoryQuery,
    responses={200: _FILE, 206: _FILE, 304: None},
    problems=(412, 416, 503),
    headers={200: ("ETag",), 206: ("ETag", "Content-Range"), 304: ("ETag",)},
)
def download_backup(request: Request, backup_id: str, file_name: str, *, query: RepositoryQuery) -> HttpResponseBase:
    """Download a file of a backup, or a part of it.

    To resume a download, send `Range: bytes=N-` with the `ETag` of the first part as `If-Range`: the response is the rest of
    the same file, or the whole file if it has changed. One range per request. `SHA256SUMS` holds the checksums.
    """
    row = find_backup(backup_id, query.repository, query.set)
    response = downloads.answer(request._request, row, file_name, actor(request))
    headers = {name: response.headers[name] for name in ("ETag", "Content-Range") if name in response.headers}
    if response.status_code == 412:
        raise Refused(412, "precondition", "The file does not match If-Match or If-Unmodified-Since.", headers=headers)
    if response.status_code == 416:
        raise Refused(416, "range", "The range begins after the end of the file.", headers=headers)
    return response
