"""Backups: list, make, verify, preview, restore, hold, download and delete them."""

from __future__ import annotations

from django.db.models import Q
from django.http import HttpResponseBase
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.catalog import downloads, holds
from backups.conf import configuration
from backups.engine.errors import EngineError, RestoreRefused
from backups.identity.sign_in import password_problem
from backups.jobs import submit
from backups.models import IndexedBackup, Job

from .authentication import actor, token_of
from .job_operation import job_operation
from .operation import Operation
from .paging import Page, page
from .problems import Refused
from .schemas.backups import (
    BackupDetails,
    BackupQuery,
    BackupSchema,
    HoldRequest,
    Lineage,
    NewBackup,
    PreviewRequest,
    RepositoryQuery,
    RestoreInPlace,
    RestoreRequest,
    RestoreToFolder,
    VerifyRequest,
    backup_details,
    backup_schema,
)

_LONGEST_CHAIN = 1000
_MOST_CHILDREN = 500


def find_backup(backup_id: str, repository: str = "") -> IndexedBackup:
    """The backup of an address. Raises `BackupNotFound`, or `NotFound` if there is no latest one."""
    if backup_id != "latest":
        return holds.indexed(backup_id, repository)
    config = configuration()
    rows = IndexedBackup.objects.filter(
        repository=repository or config.default_repository, set=config.default_set, safety=False
    )
    undamaged = rows.exclude(verification=IndexedBackup.Verification.DAMAGED).exclude(kind=IndexedBackup.Kind.SNAPSHOT)
    row = undamaged.order_by("-time", "-backup_id").first()
    if row is None:
        raise NotFound("The default set has no undamaged full or incremental backup.")
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
    return submit.back_up(
        actor(request),
        backup=body.kind,
        set=body.set,
        repository=body.repository,
        only=list(body.only),
        note=body.note,
        verify=body.verify,
    )


@Operation("backups.view_backup", query=RepositoryQuery, responses={200: BackupDetails}, problems=(503,))
def show_backup(request: Request, backup_id: str, *, query: RepositoryQuery) -> BackupDetails:
    """Show a backup with its manifest, proofs and lineage."""
    row = find_backup(backup_id, query.repository)
    lineage = _lineage(row)
    try:
        _, stored = holds.stored(row)
    except EngineError as problem:
        return backup_details(row, lineage, problem=problem.message)
    proofs = [proof.model_dump(mode="json") for proof in stored.proofs]
    return backup_details(row, lineage, manifest=stored.manifest.model_dump(mode="json"), proofs=proofs)


def _lineage(row: IndexedBackup) -> Lineage:
    rows = IndexedBackup.objects.filter(repository=row.repository)
    needs: list[str] = []
    parent = row.parent_id
    while parent and parent not in needs and len(needs) < _LONGEST_CHAIN:
        needs.append(parent)
        parent = rows.filter(backup_id=parent).values_list("parent_id", flat=True).first() or ""
    children = rows.filter(parent_id=row.backup_id).order_by("-time", "-backup_id")
    return Lineage(needs=needs, needed_by=list(children.values_list("backup_id", flat=True)[:_MOST_CHILDREN]))


@job_operation("backups.delete_backup", query=RepositoryQuery, problems=(409, 503), idempotency_key=False)
def delete_backup(request: Request, backup_id: str, *, query: RepositoryQuery) -> Job:
    """Delete a backup.

    A held backup is refused. If another backup needs this one, the job fails and nothing is deleted.
    """
    row = find_backup(backup_id, query.repository)
    return submit.delete(actor(request), [row.backup_id], repository=row.repository)


@job_operation("backups.verify_backup", query=RepositoryQuery, body=VerifyRequest)
def verify_backup(request: Request, backup_id: str, *, query: RepositoryQuery, body: VerifyRequest) -> Job:
    """Verify a backup.

    The depth is `hashes` (check every byte) or `restore` (restore it and open its stores).
    """
    row = find_backup(backup_id, query.repository)
    return submit.verify(actor(request), backup_ids=[row.backup_id], repository=row.repository, set=row.set, depth=body.depth)


@job_operation("backups.verify_backup", query=RepositoryQuery)
def drill_backup(request: Request, backup_id: str, *, query: RepositoryQuery) -> Job:
    """Run a drill.

    Restores the backup to a temporary folder, checks and times it, and removes it.
    """
    row = find_backup(backup_id, query.repository)
    return submit.drill(actor(request), backup_id=row.backup_id, repository=row.repository, set=row.set)


@job_operation("backups.restore_backup", query=RepositoryQuery, body=PreviewRequest)
def preview_restore(request: Request, backup_id: str, *, query: RepositoryQuery, body: PreviewRequest) -> Job:
    """Preview a restore in place.

    Changes nothing. The job's `result` lists the rows of each table, the vectors of each collection, and the accounts and
    permissions that the restore would change.
    """
    row = find_backup(backup_id, query.repository)
    return submit.preview_restore(actor(request), backup_id=row.backup_id, repository=row.repository, only=body.only)


@job_operation("backups.restore_backup", query=RepositoryQuery, body=RestoreRequest, problems=(409, 503))
def restore_backup(request: Request, backup_id: str, *, query: RepositoryQuery, body: RestoreToFolder | RestoreInPlace) -> Job:
    """Restore a backup to a new folder, or over the live stores.

    A restore in place first makes a safety backup of the live stores, and rolls back if a check fails. `confirm` is the
    backup's id, even if the address says `latest`. With a session, `password` is the password of the account.
    """
    return submit_restore(request, find_backup(backup_id, query.repository), body)


def submit_restore(request: Request, row: IndexedBackup, body: RestoreToFolder | RestoreInPlace) -> Job:
    """Queue a restore. Raises `Refused` if the password is missing or wrong, or the folder exists."""
    if isinstance(body, RestoreToFolder):
        if (configuration().restore_folder / body.folder).exists():
            raise Refused(
                409, "target_occupied", f"The folder {body.folder} already exists. Nothing was done.", "Choose another name."
            )
        return submit.restore_to_folder(
            actor(request),
            backup_id=row.backup_id,
            repository=row.repository,
            only=body.only,
            folder=body.folder,
            check=body.check,
        )
    if body.confirm != row.backup_id:
        raise RestoreRefused("`confirm` is not the id of the backup. Nothing was changed.", hint="Send the full id.")
    if token_of(request) is None:
        _check_password(request, body.password)
    return submit.restore_in_place(
        actor(request), typed=body.confirm, backup_id=row.backup_id, repository=row.repository, only=body.only
    )


def _check_password(request: Request, password: str | None) -> None:
    if password is None:
        raise Refused(
            403,
            "password",
            "With a session, a restore in place requires the password. Nothing was done.",
            "Send the password of your account as `password`.",
        )
    problem = password_problem(request._request, password)
    if problem:
        raise Refused(403, "password", problem, "Nothing was changed.")


@Operation("backups.hold_backup", query=RepositoryQuery, body=HoldRequest, responses={200: BackupSchema}, problems=(409, 503))
def hold_backup(request: Request, backup_id: str, *, query: RepositoryQuery, body: HoldRequest) -> BackupSchema:
    """Hold a backup.

    Neither retention nor a request deletes a held backup until it is released.
    """
    row = find_backup(backup_id, query.repository)
    return backup_schema(holds.hold(actor(request), row.backup_id, body.note, repository=row.repository))


@Operation("backups.hold_backup", query=RepositoryQuery, responses={200: BackupSchema}, problems=(409, 503))
def release_backup(request: Request, backup_id: str, *, query: RepositoryQuery) -> BackupSchema:
    """Release a held backup."""
    row = find_backup(backup_id, query.repository)
    return backup_schema(holds.release(actor(request), row.backup_id, repository=row.repository))


_FILE = {"application/zstd": {"type": "string", "format": "binary"}, "application/json": {}, "text/plain": {"type": "string"}}


@Operation(
    "backups.download_backup",
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
    row = find_backup(backup_id, query.repository)
    response = downloads.answer(request._request, row, file_name, actor(request))
    headers = {name: response.headers[name] for name in ("ETag", "Content-Range") if name in response.headers}
    if response.status_code == 412:
        raise Refused(412, "precondition", "The file does not match If-Match or If-Unmodified-Since.", headers=headers)
    if response.status_code == 416:
        raise Refused(416, "range", "The range begins after the end of the file.", headers=headers)
    return response
