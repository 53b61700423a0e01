"""``GET /readyz``, without login: whether this process can respond, and a worker takes the jobs that it queues."""

from __future__ import annotations

from django.contrib.auth import get_user_model
from django.db import DatabaseError, connections, router
from django.http import HttpResponseBase
from django.utils import timezone
from django_q.brokers import get_broker
from rest_framework.request import Request

from backups.conf import configuration
from backups.models import Worker
from backups.monitoring.conditions.workers import is_silent

from .operation import Operation, reply
from .schemas.status import Check, Ready


@Operation(public=True, responses={200: Ready, 503: Ready})
def readyz(request: Request) -> HttpResponseBase:
    """Check the databases, the queue, and this host's worker."""
    checks = {"database": _check_databases(), "queue": _check_queue(), "worker": _check_worker()}
    ready = all(check.ok for check in checks.values())
    return reply(Ready(status="ready" if ready else "not_ready", checks=checks), 200 if ready else 503)


def _check_databases() -> Check:
    for alias in dict.fromkeys((configuration().database, router.db_for_read(get_user_model()) or "default")):
        try:
            with connections[alias].cursor() as cursor:
                cursor.execute("SELECT 1 FROM django_migrations LIMIT 1")
                cursor.fetchone()
        except DatabaseError:
            connections[alias].close_if_unusable_or_obsolete()
            return Check(ok=False, says=f"the database {alias} is not available")
    return Check(ok=True, says="available")


def _check_queue() -> Check:
    try:
        get_broker(configuration().host).ping()
    except Exception:  # noqa: BLE001  # the exception depends on the broker
        return Check(ok=False, says="not available")
    return Check(ok=True, says="available")


def _check_worker() -> Check:
    try:
        beat = Worker.objects.filter(host=configuration().host).values_list("beat", flat=True).first()
    except DatabaseError:
        return Check(ok=False, says="unknown")
    if beat is None:
        return Check(ok=False, says="not started yet")
    now = timezone.now()
    if is_silent(beat, now):
        return Check(ok=False, says=f"no heartbeat for {int((now - beat).total_seconds())} s")
    return Check(ok=True, says="running")
