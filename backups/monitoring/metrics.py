"""Metrics for Prometheus, read at each request from the control database: there are no counters that a restart would reset.

Names and units follow https://prometheus.io/docs/practices/naming/; the list is in ``docs/reference/metrics.md``.
"""

import ipaddress
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import Count, Max, Min, Sum
from django.http import HttpRequest, HttpResponse
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from backups import __version__, moments
from backups.conf import configuration
from backups.identity import tokens
from backups.identity.sign_in import address_of
from backups.models import IndexedBackup, Job, Plan, Worker

from .conditions import present
from .facts import Facts
from .gathering import gather

_PREFIX = "refbackup"


class Collector:
    """Reads everything at each `collect`. A project adds metrics with ``BACKUPS["METRICS"]``, import paths of generators."""

    def collect(self) -> Iterator[Metric]:
        """The metrics, one family after another."""
        yield InfoMetricFamily(f"{_PREFIX}_engine", "Version of the engine", {"version": __version__})
        yield from _backups()
        yield from _jobs()
        yield from _plans()
        yield from _workers()
        facts = gather(moments.now())
        yield from _repositories(facts)
        yield _conditions(facts)
        for path in configuration().metrics:
            more: Callable[[], Iterator[Metric]] = import_string(path)
            yield from more()


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", text, labels=labels)


def _backups() -> Iterator[Metric]:
    count = _gauge("backups", "Backups in the repository", ("repository", "set", "kind", "proof"))
    stored = _gauge("backup_stored_bytes", "Bytes that backups take in the repository", ("repository", "set", "kind"))
    sums: dict[tuple[str, str, str], int] = {}
    rows = IndexedBackup.objects.order_by().values_list("repository", "set", "kind", "verification")
    for repository, name, kind, proof, number, size in rows.annotate(Count("id"), Sum("bytes_stored")):
        count.add_metric((repository, name, kind, proof), number)
        sums[repository, name, kind] = sums.get((repository, name, kind), 0) + (size or 0)
    for key, size in sums.items():
        stored.add_metric(key, size)
    yield count
    yield stored
    families = {
        "last_backup_timestamp_seconds": "Instant of the newest backup",
        "last_backup_duration_seconds": "From its cut to its publication",
        "last_backup_source_bytes": "Bytes of its sources",
        "last_backup_stored_bytes": "Bytes that it takes in the repository",
        "last_backup_pause_sqlite_seconds": "How long it blocked writers of SQLite",
        "last_backup_pause_chroma_seconds": "How long it blocked writers of Chroma",
    }
    made = {name: _gauge(name, text, ("repository", "set", "kind")) for name, text in families.items()}
    proven = _gauge("last_proven_timestamp_seconds", "Instant of the newest proven backup", ("repository", "set"))
    restore = _gauge("last_restore_proof_seconds", "How long the newest verification by restore took", ("repository", "set"))
    for repository, name, kind in sums:
        rows_of = IndexedBackup.objects.filter(repository=repository, set=name, kind=kind, safety=False)
        rows_of = rows_of.exclude(verification=IndexedBackup.Verification.MISSING)
        newest = rows_of.order_by("-time").first()
        if newest is None:
            continue
        values = (
            newest.time.timestamp(),
            newest.seconds,
            newest.bytes_source,
            newest.bytes_stored,
            newest.pause_sqlite / 1000,
            newest.pause_chroma / 1000,
        )
        for family, value in zip(made.values(), values, strict=True):
            family.add_metric((repository, name, kind), value)
    for repository, name in sorted({key[:2] for key in sums}):
        of_set = IndexedBackup.objects.filter(repository=repository, set=name, safety=False).order_by("-time")
        good = of_set.filter(verification__in=("hashes", "restore")).first()
        if good is not None:
            proven.add_metric((repository, name), good.time.timestamp())
        took = of_set.filter(restore_seconds__isnull=False).values_list("restore_seconds", flat=True).first()
        if took is not None:
            restore.add_metric((repository, name), took)
    yield from made.values()
    yield proven
    yield restore


def _jobs() -> Iterator[Metric]:
    count = _gauge("jobs", "Jobs, by type and state", ("kind", "state"))
    last = _gauge("last_job_timestamp_seconds", "When the newest job of a type ended in a state", ("kind", "state"))
    for kind, state, number, newest in (
        Job.objects.order_by().values_list("kind", "state").annotate(Count("id"), Max("finished"))
    ):
        count.add_metric((kind, state), number)
        if newest is not None:
            last.add_metric((kind, state), newest.timestamp())
    yield count
    yield last
    waiting = _gauge("oldest_waiting_job_seconds", "How long the oldest job that could run has waited")
    oldest = Job.objects.filter(state=Job.State.QUEUED, not_before__lte=moments.now()).aggregate(Min("created"))
    waiting.add_metric((), _age(oldest["created__min"]))
    yield waiting
    running = _gauge("running_job_seconds", "How long a job has been running", ("kind", "host"))
    beat = _gauge("running_job_silent_seconds", "Seconds since the last heartbeat of a running job", ("kind", "host"))
    for kind, host, started, heartbeat in Job.objects.filter(state=Job.State.RUNNING).values_list(
        "kind", "host", "started", "heartbeat"
    ):
        running.add_metric((kind, host), _age(started))
        beat.add_metric((kind, host), _age(heartbeat))
    yield running
    yield beat


def _plans() -> Iterator[Metric]:
    enabled = _gauge("plan_enabled", "1 for an active plan, 0 for a paused one", ("plan",))
    success = _gauge("plan_last_success_timestamp_seconds", "When a job of the plan last succeeded", ("plan",))
    for plan in Plan.objects.all():
        enabled.add_metric((plan.name,), float(plan.enabled))
        good = plan.jobs.filter(state=Job.State.SUCCEEDED).order_by("-created").values_list("finished", flat=True).first()
        if good is not None:
            success.add_metric((plan.name,), good.timestamp())
    yield enabled
    yield success


def _workers() -> Iterator[Metric]:
    beat = _gauge("worker_last_beat_timestamp_seconds", "Last heartbeat of a host's workers", ("host",))
    for worker in Worker.objects.all():
        beat.add_metric((worker.host,), worker.beat.timestamp())
    yield beat


def _repositories(facts: Facts) -> Iterator[Metric]:
    reachable = _gauge("repository_reachable", "1 if the repository is available", ("repository",))
    free = _gauge("repository_free_bytes", "Bytes free on its disk", ("repository",))
    size = _gauge("repository_disk_bytes", "Size of its disk", ("repository",))
    for one in facts.repositories:
        reachable.add_metric((one.name,), float(one.there))
        if one.there and one.size:
            free.add_metric((one.name,), one.free)
            size.add_metric((one.name,), one.size)
    yield reachable
    yield free
    yield size


def _conditions(facts: Facts) -> Metric:
    condition = _gauge("condition", "1 while the condition holds", ("code", "severity"))
    for code, severity in sorted({(one.code, str(one.severity)) for one in present(facts)}):
        condition.add_metric((code, severity), 1)
    return condition


def _age(moment: datetime | None) -> float:
    return max(0.0, (moments.now() - moment).total_seconds()) if moment is not None else 0.0


@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """The metrics as text, for a token with the scope ``metrics`` or a client on this machine; 401 for others."""
    if not _is_local(request) and not _has_token(request):
        answer = HttpResponse("A token with the scope metrics is needed.\n", status=401, content_type="text/plain")
        answer.headers["WWW-Authenticate"] = 'Bearer realm="metrics"'
        return answer
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def _is_local(request: HttpRequest) -> bool:
    """Whether the client is on this machine. Behind a proxy every request seems to be, so none counts."""
    if settings.SECURE_PROXY_SSL_HEADER or any(
        name.startswith(("HTTP_X_FORWARDED", "HTTP_FORWARDED")) for name in request.META
    ):
        return False
    try:
        return ipaddress.ip_address(address_of(request)).is_loopback
    except ValueError:
        return False


def _has_token(request: HttpRequest) -> bool:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    owner: Any = tokens.owner_of(secret.strip(), address_of(request)) if scheme.lower() == "bearer" else None
    return owner is not None and "metrics" in owner[1].scopes
