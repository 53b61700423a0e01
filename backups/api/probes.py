"""``GET /readyz``: whether this process can answer, and a worker takes what it queues. Needs no login, and tells no more."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth import get_user_model
from django.db import DatabaseError, connections, router
from django.http import HttpResponseBase
from django.utils import timezone
from django_q.brokers import get_broker
from rest_framework.request import Request

from backups.conf import configuration
from backups.models import Worker

from .operation import Resource, operation, reply
from .schemas import Check, Ready

SILENT_FOR = timedelta(minutes=3)
"""A worker gives a sign of life every minute, and while it works more often."""


class Readyz(Resource):
    """For load balancers and supervisors."""

    tag = "Status"

    @operation("readyz", public=True, answers={200: Ready, 503: Ready})
    def get(self, request: Request) -> HttpResponseBase:
        """Whether this process is ready: its databases answer, the queue can be reached, and this host's worker lives."""
        checks = {"database": _database(), "queue": _queue(), "worker": _worker()}
        ready = all(check.ok for check in checks.values())
        return reply(Ready(status="ready" if ready else "not_ready", checks=checks), 200 if ready else 503)


def _database() -> Check:
    for alias in dict.fromkeys((configuration().database, router.db_for_read(get_user_model()) or "default")):
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")
                cursor.fetchone()
        except DatabaseError:
            connections[alias].close_if_unusable_or_obsolete()
            return Check(ok=False, says=f"the database {alias} does not answer")
    return Check(ok=True, says="answers")


def _queue() -> Check:
    try:
        get_broker(configuration().host).ping()
    except Exception:  # noqa: BLE001  # what a broker raises depends on which one it is
        return Check(ok=False, says="cannot be reached")
    return Check(ok=True, says="can be reached")


def _worker() -> Check:
    try:
        beat = Worker.objects.filter(host=configuration().host).values_list("beat", flat=True).first()
    except DatabaseError:
        return Check(ok=False, says="is not known")
    if beat is None:
        return Check(ok=False, says="has not started yet")
    silent = timezone.now() - beat
    if silent > SILENT_FOR:
        return Check(ok=False, says=f"has been silent for {int(silent.total_seconds())} s")
    return Check(ok=True, says="lives")
