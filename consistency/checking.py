"""Runs checks and keeps their findings, for pages, commands and plans.

Rows of this app live in a database that no restore replaces; the stores that are checked are the project's. Run a long check in
a process of its own (`manage.py consistency_check`), for the reason that `consistency.engine.check.check` gives.
"""

import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet

from backups import moments
from backups.engine.runtime.context import Progress
from consistency.declaration import option
from consistency.engine import check as engine
from consistency.engine.context import Context
from consistency.engine.errors import Cancelled, ConsistencyError
from consistency.engine.findings import Finding as EngineFinding
from consistency.engine.findings import Severity
from consistency.live import live_stores
from consistency.models import Check, Finding, Repair
from consistency.reconcile import reconcile
from consistency.resolution import description

SILENT = timedelta(minutes=5)
"""A running check whose heartbeat is older than this has died."""

_BATCH = 500
_HEARTBEAT_SECONDS = 2.0


def run_check(*, actor: str = "", ctx: Context | None = None) -> Check:
    """Check the live stores, and return the check with its findings kept.

    1. Mark checks that died as failed.
    2. Create a row in state ``running``.
    3. Keep findings as they become certain, the first of each kind.
    4. Write verdict, counts and time into the row.
    5. Open or close the findings of earlier checks accordingly (`reconcile`), unless a repair ran meanwhile.

    A crash leaves a row in state ``running`` with the findings so far; step 1 of a later check marks it as failed. Raises
    `ConsistencyError`, including `Cancelled`; the row then records it.
    """
    fail_silent_checks()
    mappings = description()
    check = Check.objects.create(actor=actor)
    keeper = _FindingKeeper(check)
    try:
        watched = keeper.with_heartbeat(ctx or Context())
        with live_stores(watched) as stores:
            outcome = engine.check(mappings, stores, watched, keeper.keep)
        keeper.flush()
    except ConsistencyError as problem:
        keeper.flush()
        state = Check.State.CANCELLED if isinstance(problem, Cancelled) else Check.State.FAILED
        _end(check, state, error=problem.as_json())
        raise
    except BaseException as problem:
        _end(check, Check.State.FAILED, error={"code": "failed", "message": f"{type(problem).__name__}: {problem}", "hint": ""})
        raise
    sums = outcome.as_json()
    copied = ("seconds", "records", "in_flight", "kinds", "severities", "mappings")
    values = {name: sums[name] for name in copied}
    _end(check, Check.State.DONE, verdict=sums["state"], findings_count=sums["findings"], **values)
    if not changed_since(check):
        reconcile(check)
    return check


def fail_silent_checks() -> int:
    """Mark running checks without a heartbeat for `SILENT` as failed. Returns how many."""
    silent = Check.objects.filter(state=Check.State.RUNNING, heard__lt=moments.now() - SILENT)
    error = {"code": "interrupted", "message": "The check was interrupted.", "hint": "Run it again. Nothing was changed."}
    return silent.update(state=Check.State.FAILED, ended=moments.now(), error=error)


def latest_live_check() -> Check | None:
    """The newest finished check of the live stores."""
    return Check.objects.filter(source=Check.LIVE, state=Check.State.DONE).order_by("-started", "-pk").first()


def changed_since(check: Check) -> bool:
    """Whether a repair changed the live stores, or was undone, after *check* began: its result is not theirs any more."""
    if check.source != Check.LIVE:
        return False
    newer = Q(ended__gt=check.started) | Q(undone__gt=check.started) | Q(state__in=(Repair.State.RUNNING, Repair.State.UNDOING))
    return check == latest_live_check() and Repair.objects.filter(newer).exists()


def previous_check(check: Check) -> Check | None:
    """The finished check of the same source before *check*."""
    return Check.objects.filter(source=check.source, state=Check.State.DONE, pk__lt=check.pk).order_by("-pk").first()


def new_findings(check: Check) -> QuerySet[Finding]:
    """Findings that the previous check did not have; all of them if there is none. Findings in flight are left out."""
    findings = check.findings.exclude(severity=Severity.INFO)
    previous = previous_check(check)
    if previous is None:
        return findings
    same = Finding.objects.filter(
        belongs_to=previous, kind=OuterRef("kind"), mapping=OuterRef("mapping"), record=OuterRef("record")
    ).exclude(severity=Severity.INFO)
    return findings.exclude(Exists(same))


class _FindingKeeper:
    """Writes findings in batches, and a heartbeat every two seconds."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._kept: Counter[str] = Counter()
        self._waiting: list[Finding] = []
        self._last_beat = time.monotonic()

    def with_heartbeat(self, ctx: Context) -> Context:
        """*ctx*, with a heartbeat written whenever progress is reported."""

        def on_progress(event: Progress) -> None:
            ctx.on_progress(event)
            if time.monotonic() - self._last_beat > _HEARTBEAT_SECONDS:
                self._last_beat = time.monotonic()
                Check.objects.filter(pk=self._check.pk).update(heard=moments.now(), records=event.done)

        return replace(ctx, on_progress=on_progress)

    def keep(self, finding: EngineFinding) -> None:
        self._kept[finding.kind] += 1
        if self._kept[finding.kind] > option("LISTED"):
            return
        values = finding.as_json()
        values["parent"] = "" if finding.parent is None else str(finding.parent)
        self._waiting.append(Finding(belongs_to=self._check, **values))
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        Finding.objects.bulk_create(self._waiting)
        self._waiting = []


def _end(check: Check, state: str, **values: Any) -> None:
    check.state, check.ended = state, moments.now()
    for key, value in values.items():
        setattr(check, key, value)
    check.save()
