"""Status and readiness."""

from __future__ import annotations

from rest_framework.request import Request

from backups.monitoring import readiness, verdict

from .operation import Operation
from .schemas.status import Readiness, Status


@Operation("backups.view_backup", responses={200: Status})
def show_status(request: Request) -> Status:
    """Show whether the data is protected, and why."""
    return Status.model_validate(verdict.now().as_json())


@Operation("backups.view_backup", responses={200: Readiness})
def show_readiness(request: Request) -> Readiness:
    """Show the readiness score, and how to fix each gap."""
    return Readiness.model_validate(readiness.now().as_json())
