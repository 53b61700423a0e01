"""Backups: what there is, a new one, and what can be done with one."""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.http import HttpResponseBase
from django.urls import reverse
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response

from backups.catalog import downloads, holds
from backups.conf import configuration
from backups.engine.errors import EngineError, RestoreRefused
from backups.identity.sign_in import password_problem
from backups.jobs import submit
from backups.models import IndexedBackup, Job

from . import schemas
from .authentication import actor, token_of
from .operation import AnyAccept, Resource, operation, reply
from .paging import Page, page
from .problems import Refused
from .schemas import (
    BackupQuery,
    BackupShape,
    Holding,
    InPlace,
    JobShape,
    NewBackup,
    Previewing,
    Proving,
    WhereQuery,
    WholeBackup,
)

_LONGEST_LINE = 1000
_MOST_CHILDREN = 500
_QUEUED = {202: ("Location",)}


def queued(request: Request, job: Job) -> Response:
    """202 for a job that was queued."""
    return reply(schemas.job(job), 202, Location=reverse("backups-api:job", args=[job.pk]))


def found(backup_id: str, repository: str) -> IndexedBackup:
    """The backup of an address. Raises `BackupNotFound`, and `NotFound` when there is no latest."""
    if backup_id != "latest":
        return holds.indexed(backup_id, repository)
    known = configuration()
    rows = IndexedBackup.objects.filter(repository=repository or known.default_repository, set=known.default_set, safety=False)
    good = rows.exclude(verification=IndexedBackup.Verification.DAMAGED).exclude(kind=IndexedBackup.Kind.SNAPSHOT)
    row = good.order_by("-time", "-backup_id").first()
    if row is None:
        raise NotFound("There is no undamaged full or incremental backup of the default set.")
    return row


def backup_page(request: Request, query: BackupQuery) -> Response:
    """Backups that fit *query*, newest first."""
    rows = IndexedBackup.objects.all()
    same = {
        "kind": query.kind,
        "verification": query.proof,
        "set": query.set,
        "repository": query.repository,
        "host": query.host,
    }
    rows = rows.filter(**{name: value for name, value in same.items() if value})
    if query.held is not None:
        rows = rows.filter(held=query.held)
    if query.since:
        rows = rows.filter(time__gte=query.since)
    if query.until:
        rows = rows.filter(time__lte=query.until)
    if query.text:
        rows = rows.filter(Q(note__icontains=query.text) | Q(backup_id__icontains=query.text))
    items, following = page(rows, ("time", "backup_id", "pk"), query, request.path)
    return reply(Page[BackupShape](items=[schemas.backup(row) for row in items], next=following))


class Backups(Resource):
    """All of them."""

    tag = "Backups"

    @operation("list_backups", "backups.view_backup", query=BackupQuery, answers={200: Page[BackupShape]})
    def get(self, request: Request, *, query: BackupQuery) -> HttpResponseBase:
        """List backups, newest first."""
        return backup_page(request, query)

    @operation(
        "create_backup",
        "backups.create_backup",
        body=NewBackup,
        answers={202: JobShape},
        problems=(409, 503),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, *, body: NewBackup) -> HttpResponseBase:
        """Make a backup.

        The job's `backup_id` names it when the job has succeeded.
        """
        return queued(request, create(request, body))


def create(request: Request, body: NewBackup) -> Job:
    """Queue a backup as *body* says."""
    return submit.back_up(
        actor(request),
        backup=body.kind,
        set=body.set,
        repository=body.repository,
        only=list(body.only),
        note=body.note,
        verify=body.verify,
    )


class Backup(Resource):
    """One of them."""

    tag = "Backups"

    @operation("show_backup", "backups.view_backup", query=WhereQuery, answers={200: WholeBackup}, problems=(503,))
    def get(self, request: Request, backup_id: str, *, query: WhereQuery) -> HttpResponseBase:
        """Show a backup, with its manifest, proofs and lineage."""
        row = found(backup_id, query.repository)
        try:
            _, stored = holds.stored(row)
        except EngineError as problem:
            return reply(schemas.whole_backup(row, None, [], _lineage(row), problem.message))
        manifest = stored.manifest.model_dump(mode="json")
        proofs = [proof.model_dump(mode="json") for proof in stored.proofs]
        return reply(schemas.whole_backup(row, manifest, proofs, _lineage(row)))

    @operation(
        "delete_backup",
        "backups.delete_backup",
        query=WhereQuery,
        answers={202: JobShape},
        problems=(409, 503),
        headers=_QUEUED,
    )
    def delete(self, request: Request, backup_id: str, *, query: WhereQuery) -> HttpResponseBase:
        """Delete a backup that is not held and that no other needs.

        The job fails, and nothing is deleted, when another backup needs it.
        """
        row = found(backup_id, query.repository)
        return queued(request, submit.delete(actor(request), [row.backup_id], repository=row.repository))


class Verify(Resource):
    """Prove it."""

    tag = "Backups"

    @operation(
        "verify_backup",
        "backups.verify_backup",
        query=WhereQuery,
        body=Proving,
        answers={202: JobShape},
        problems=(503,),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, backup_id: str, *, query: WhereQuery, body: Proving) -> HttpResponseBase:
        """Verify a backup: read every byte, or restore it and open its stores."""
        row = found(backup_id, query.repository)
        arguments = {"backup_ids": [row.backup_id], "repository": row.repository, "set": row.set, "depth": body.depth}
        return queued(request, submit.verify(actor(request), **arguments))


class Drill(Resource):
    """Rehearse it."""

    tag = "Backups"

    @operation(
        "drill_backup",
        "backups.verify_backup",
        query=WhereQuery,
        answers={202: JobShape},
        problems=(503,),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, backup_id: str, *, query: WhereQuery) -> HttpResponseBase:
        """Restore a backup as a test, with checks and timings, and remove what was restored."""
        row = found(backup_id, query.repository)
        arguments = {"backup_id": row.backup_id, "repository": row.repository, "set": row.set}
        return queued(request, submit.drill(actor(request), **arguments))


class Preview(Resource):
    """See what a restore changes."""

    tag = "Backups"

    @operation(
        "preview_restore",
        "backups.restore_backup",
        query=WhereQuery,
        body=Previewing,
        answers={202: JobShape},
        problems=(503,),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, backup_id: str, *, query: WhereQuery, body: Previewing) -> HttpResponseBase:
        """Find out what a restore in place would change, without changing anything.

        The job's `result` tells: rows of each table, vectors of each collection, accounts and rights that come back.
        """
        row = found(backup_id, query.repository)
        arguments = {"backup_id": row.backup_id, "repository": row.repository, "only": body.only}
        return queued(request, submit.preview_restore(actor(request), **arguments))


class Restore(Resource):
    """Bring it back."""

    tag = "Backups"

    @operation(
        "restore_backup",
        "backups.restore_backup",
        query=WhereQuery,
        body=schemas.Restoring,
        answers={202: JobShape},
        problems=(409, 503),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, backup_id: str, *, query: WhereQuery, body: Any) -> HttpResponseBase:
        """Restore a backup into a folder of its own, or over the live stores.

        In place it first makes a safety backup of what is there, and puts that back by itself when a check fails. `confirm` is
        the backup's id, also where the address says `latest`. With a session, `password` is the account's own, once more.
        """
        return queued(request, restore(request, found(backup_id, query.repository), body))


def restore(request: Request, row: IndexedBackup, body: Any) -> Job:
    """Queue a restore as *body* (`shapes.Restoring`) says. Raises `Refused` when the password is wanted, or wrong."""
    arguments: dict[str, Any] = {"backup_id": row.backup_id, "repository": row.repository, "only": body.only}
    if not isinstance(body, InPlace):
        if (configuration().restore_folder / body.folder).exists():
            raise Refused(
                409, "target_occupied", f"There is a folder {body.folder} already. Nothing was done.", "Choose another name."
            )
        return submit.restore_to_folder(actor(request), folder=body.folder, check=body.check, **arguments)
    if body.confirm != row.backup_id:
        raise RestoreRefused("`confirm` is not the id of the backup. Nothing was changed.", hint="Give it in full.")
    if token_of(request) is None:
        _ask_password(request, body.password)
    return submit.restore_in_place(actor(request), typed=body.confirm, **arguments)


def _ask_password(request: Request, password: str | None) -> None:
    if password is None:
        hint = "Give the password of your account, as at signing in."
        raise Refused(403, "password", "A restore in place from a session takes the password again. Nothing was done.", hint)
    told = password_problem(request._request, password)
    if told:
        raise Refused(403, "password", told, "Nothing was changed.")


class Hold(Resource):
    """Keep it."""

    tag = "Backups"

    @operation(
        "hold_backup", "backups.hold_backup", query=WhereQuery, body=Holding, answers={200: BackupShape}, problems=(409, 503)
    )
    def post(self, request: Request, backup_id: str, *, query: WhereQuery, body: Holding) -> HttpResponseBase:
        """Hold a backup: no retention and nobody deletes it until it is released."""
        row = found(backup_id, query.repository)
        held = holds.hold(actor(request), row.backup_id, body.note, repository=row.repository)
        return reply(schemas.backup(held))


class Release(Resource):
    """Keep it no longer."""

    tag = "Backups"

    @operation("release_backup", "backups.hold_backup", query=WhereQuery, answers={200: BackupShape}, problems=(409, 503))
    def post(self, request: Request, backup_id: str, *, query: WhereQuery) -> HttpResponseBase:
        """End a hold."""
        row = found(backup_id, query.repository)
        return reply(schemas.backup(holds.release(actor(request), row.backup_id, repository=row.repository)))


_BINARY = {"type": "string", "format": "binary"}
_FILE = {"application/zstd": _BINARY, "application/json": {}, "text/plain": {"type": "string"}}


class Download(Resource):
    """Its files."""

    tag = "Backups"
    content_negotiation_class = AnyAccept

    @operation(
        "download_backup",
        "backups.download_backup",
        query=WhereQuery,
        answers={200: _FILE, 206: _FILE, 304: None},
        problems=(412, 416, 503),
        headers={200: ("ETag",), 206: ("ETag", "Content-Range"), 304: ("ETag",)},
    )
    def get(self, request: Request, backup_id: str, file_name: str, *, query: WhereQuery) -> HttpResponseBase:
        """Download a file of a backup, or a part of it.

        One range is answered (`Range: bytes=N-`), so that a download that was cut off goes on: send `If-Range` with the `ETag`
        of the first part, and what comes back is the rest of the same file, or the whole of another. `SHA256SUMS` has the
        checksums.
        """
        row = found(backup_id, query.repository)
        response = downloads.answer(request._request, row, file_name, actor(request))
        if response.status_code == 412:
            raise Refused(
                412, "precondition", "It is not the file that If-Match or If-Unmodified-Since names.", headers=_tags(response)
            )
        if response.status_code == 416:
            raise Refused(416, "range", "The range begins after the end of the file.", headers=_tags(response))
        return response


def _tags(response: HttpResponseBase) -> dict[str, str]:
    return {name: response.headers[name] for name in ("ETag", "Content-Range") if name in response.headers}


def _lineage(row: IndexedBackup) -> schemas.Lineage:
    there = IndexedBackup.objects.filter(repository=row.repository)
    needs: list[str] = []
    parent = row.parent_id
    while parent and parent not in needs and len(needs) < _LONGEST_LINE:
        needs.append(parent)
        parent = there.filter(backup_id=parent).values_list("parent_id", flat=True).first() or ""
    children = there.filter(parent_id=row.backup_id).order_by("-time", "-backup_id")
    return schemas.Lineage(needs=needs, needed_by=list(children.values_list("backup_id", flat=True)[:_MOST_CHILDREN]))
