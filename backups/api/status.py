"""Status and readiness."""

from __future__ import annotations

from django.http import HttpResponseBase
from rest_framework.request import Request

from backups.monitoring import readiness, verdict

from .operation import Resource, operation, reply
from .schemas import Readiness, Status


class Safe(Resource):
    """Are we safe?"""

    tag = "Status"

    @operation("show_status", "backups.view_backup", answers={200: Status})
    def get(self, request: Request) -> HttpResponseBase:
        """Are we safe? The verdict of the overview, and what it rests on."""
        return reply(Status.model_validate(verdict.now().as_json()))


class ReadinessOf(Resource):
    """Would a recovery work today?"""

    tag = "Status"

    @operation("show_readiness", "backups.view_backup", answers={200: Readiness})
    def get(self, request: Request) -> HttpResponseBase:
        """Would a recovery work today? A score from what was tested, and what to do about each gap."""
        return reply(Readiness.model_validate(readiness.now().as_json()))
