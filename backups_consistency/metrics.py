"""Metrics (``BACKUPS["METRICS"]``): the last consistency check and its findings."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from consistency.engine.findings import FindingKind, State
from consistency.models import Check
from consistency.repairs.plan import unfinished


def consistency() -> Iterator[Metric]:
    """Findings of the last completed check of the live stores, and when it ended. No samples before the first one."""
    findings = GaugeMetricFamily("refbackup_consistency_findings", "Findings of the last check, by kind", labels=("kind",))
    state = GaugeMetricFamily("refbackup_consistency_state", "1 for the state that the last check found", labels=("state",))
    records = GaugeMetricFamily("refbackup_consistency_records", "Rows and records that the last check compared")
    ended = GaugeMetricFamily("refbackup_last_consistency_check_timestamp_seconds", "When the last check ended")
    took = GaugeMetricFamily("refbackup_last_consistency_check_duration_seconds", "How long the last check took")
    open_repairs = GaugeMetricFamily("refbackup_consistency_unfinished_repairs", "Unfinished repairs")
    last = Check.objects.filter(source=Check.LIVE, state=Check.State.DONE).order_by("-started", "-pk").first()
    if last is not None and last.ended is not None:
        for kind in FindingKind:
            findings.add_metric((kind,), last.kinds.get(kind, 0))
        for one in State:
            state.add_metric((one,), float(last.verdict == one))
        records.add_metric((), last.records)
        ended.add_metric((), last.ended.timestamp())
        took.add_metric((), last.seconds)
    open_repairs.add_metric((), unfinished().count())
    yield from (findings, state, records, ended, took, open_repairs)
