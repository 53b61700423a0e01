"""The four addresses that earlier clients know, with the rights and errors of this interface. Mounted before the pages.

=================================  ===============================
``POST /admin/backup/trigger``     ``POST /api/v1/backups``
``GET /admin/backup/status``       ``GET /api/v1/status``
``GET /admin/backup/history``      ``GET /api/v1/backups``
``POST /admin/backup/restore``     ``POST /api/v1/backups/ID/restore``
=================================  ===============================
"""

from __future__ import annotations

from django.http import HttpResponseBase
from django.urls import URLPattern, path
from rest_framework.request import Request

from backups.monitoring import verdict

from .backups import backup_page, create, found, queued, restore
from .operation import Resource, operation, reply
from .paging import Page
from .schemas import BackupQuery, BackupShape, EarlierRestore, JobShape, NewBackup, Status


class Trigger(Resource):
    """Make a backup."""

    tag = "Earlier clients"

    @operation(
        "earlier_trigger",
        "backups.create_backup",
        body=NewBackup,
        answers={202: JobShape},
        problems=(409, 503),
        once=True,
        headers={202: ("Location",)},
    )
    def post(self, request: Request, *, body: NewBackup) -> HttpResponseBase:
        """Make a backup."""
        return queued(request, create(request, body))


class StatusOf(Resource):
    """Are we safe?"""

    tag = "Earlier clients"

    @operation("earlier_status", "backups.view_backup", answers={200: Status})
    def get(self, request: Request) -> HttpResponseBase:
        """Are we safe? The verdict of the overview."""
        return reply(Status.model_validate(verdict.now().as_json()))


class History(Resource):
    """What there is."""

    tag = "Earlier clients"

    @operation("earlier_history", "backups.view_backup", query=BackupQuery, answers={200: Page[BackupShape]})
    def get(self, request: Request, *, query: BackupQuery) -> HttpResponseBase:
        """List backups, newest first."""
        return backup_page(request, query)


class RestoreOf(Resource):
    """Bring one back."""

    tag = "Earlier clients"

    @operation(
        "earlier_restore",
        "backups.restore_backup",
        body=EarlierRestore,
        answers={202: JobShape},
        problems=(404, 409, 503),
        once=True,
        headers={202: ("Location",)},
    )
    def post(self, request: Request, *, body: EarlierRestore) -> HttpResponseBase:
        """Restore a backup, whose id is in the body."""
        return queued(request, restore(request, found(body.backup_id, ""), body.restore))


urlpatterns: list[URLPattern] = [
    path("trigger", Trigger.as_view()),
    path("status", StatusOf.as_view()),
    path("history", History.as_view()),
    path("restore", RestoreOf.as_view()),
]
