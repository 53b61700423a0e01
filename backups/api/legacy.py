"""The addresses of legacy clients, with the permissions and errors of this interface. Include them before the pages.

=================================  ===============================
``POST /admin/backup/trigger``     ``POST /api/v1/backups``
``GET /admin/backup/status``       ``GET /api/v1/status``
``GET /admin/backup/history``      ``GET /api/v1/backups``
``POST /admin/backup/restore``     ``POST /api/v1/backups/ID/restore``
=================================  ===============================
"""

from django.urls import URLPattern, path
from rest_framework.request import Request

from backups.identity import four_eyes
from backups.jobs.arguments import BackupId
from backups.models import Job

from .backups import RestoreInPlace, RestoreRequest, create_backup, find_backup, list_backups, submit_restore
from .jobs import job_operation
from .operation import renamed
from .resource import resource
from .schemas import RequestModel
from .status import show_status

TAG = "Earlier clients"


class LegacyRestoreRequest(RequestModel, title="EarlierRestore"):
    """A restore as legacy clients send it: the backup's id and the target."""

    backup_id: BackupId
    restore: RestoreRequest


def _replaces(request: Request, *, body: LegacyRestoreRequest) -> bool:
    return isinstance(body.restore, RestoreInPlace)


@job_operation(
    "backups.restore_backup",
    name="earlier_restore",
    dangerous=_replaces,
    second=four_eyes.RESTORE,
    body=LegacyRestoreRequest,
    problems=(404, 409, 503),
)
def restore(request: Request, *, body: LegacyRestoreRequest) -> Job:
    """Restore a backup whose id is in the body."""
    return submit_restore(request, find_backup(body.backup_id), body.restore)


urlpatterns: list[URLPattern] = [
    path("trigger", resource(TAG, post=renamed(create_backup, "earlier_trigger"))),
    path("status", resource(TAG, get=renamed(show_status, "earlier_status"))),
    path("history", resource(TAG, get=renamed(list_backups, "earlier_history"))),
    path("restore", resource(TAG, post=restore)),
]
