"""Checking, repairing and undoing: what pages, commands and schedules call. Each function tells what a crash leaves.

Rows of this app live in a database that no restore replaces; the stores that are checked are the project's. Run long ones in a
process of their own (`manage.py check_consistency`), for the reason that `consistency.engine.check.check` gives.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import connections, transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from consistency import journal
from consistency.declaration import (
    VectorRecord,
    Writer,
    alias_of,
    database_files,
    declared,
    description,
    live_stores,
    option,
    taker,
)
from consistency.engine import check as engine
from consistency.engine.check import Opened, Outcome, Stores
from consistency.engine.compare import tolerance_of
from consistency.engine.context import Context, Phase, Progress
from consistency.engine.errors import Cancelled, ConsistencyError, RepairRefused
from consistency.engine.examine import Facts
from consistency.engine.findings import Finding as Found
from consistency.engine.findings import Repair as Action
from consistency.engine.findings import Severity
from consistency.engine.rows import name, reading
from consistency.models import Check, Finding, Repair, Step

SILENT = timedelta(minutes=5)
"""A running check that gave no sign of life for so long is over."""

_BATCH = 100
_PULSE = 2.0


# --- Checking ---------------------------------------------------------------------------------------------------


def run_check(*, source: str = Check.LIVE, stores: Stores | None = None, actor: str = "", ctx: Context | None = None) -> Check:
    """Check the live stores, or those of a copy at rest, and keep what was found.

    1. Checks that ended without a word are marked as failed.
    2. A row says that this one runs.
    3. Findings are kept as they become certain, the first of each kind.
    4. The row gets verdict, counts and time.

    A crash leaves a row that says ``running``, with the findings so far; step 1 of a later check settles it. Raises
    `ConsistencyError`, of which `Cancelled` is one; the row then says so too.
    """
    ctx = ctx or Context()
    settle_silent_checks()
    wanted = description()
    check = Check.objects.create(source=source, actor=actor)
    keeper = _Keeper(check)
    try:
        listening = keeper.listening(ctx)
        with nullcontext(stores) if stores is not None else live_stores(listening) as places:
            outcome = engine.check(wanted, places, listening, keeper.keep)
        keeper.flush()
    except ConsistencyError as problem:
        keeper.flush()
        state = Check.State.CANCELLED if isinstance(problem, Cancelled) else Check.State.FAILED
        _end(check, state, error=problem.as_json())
        raise
    except BaseException as problem:
        _end(check, Check.State.FAILED, error={"code": "failed", "message": f"{type(problem).__name__}: {problem}", "hint": ""})
        raise
    _conclude(check, outcome.as_json())
    return check


def record_answer(source: str, answer: dict[str, Any], *, actor: str = "") -> Check:
    """Keep what `consistency.probe` answered about a backup named *source*, as if it had been checked here.

    All in one transaction: a crash leaves nothing.
    """
    with transaction.atomic(using=_control()):
        check = Check.objects.create(source=source, actor=actor)
        if "error" in answer:
            _end(check, Check.State.FAILED, error=answer["error"])
            return check
        known = {one.name for one in Finding._meta.concrete_fields}
        Finding.objects.bulk_create(
            Finding(belongs_to=check, **{key: _text(key, value) for key, value in item.items() if key in known and key != "id"})
            for item in answer["listed"]
        )
        _conclude(check, answer)
    return check


def settle_silent_checks() -> int:
    """Mark checks as failed that say ``running`` and gave no sign of life for minutes. Returns how many."""
    return Check.objects.filter(state=Check.State.RUNNING, heard__lt=timezone.now() - SILENT).update(
        state=Check.State.FAILED,
        ended=timezone.now(),
        error={
            "code": "interrupted",
            "message": "The check ended without a word.",
            "hint": "Run it again. Nothing was changed.",
        },
    )


def previous(check: Check) -> Check | None:
    """The check of the same source that was finished before this one."""
    return Check.objects.filter(source=check.source, state=Check.State.DONE, pk__lt=check.pk).order_by("-pk").first()


def new_findings(check: Check) -> QuerySet[Finding]:
    """Findings that the check before did not have; all of them where there is none. Those in flight are left out."""
    found = check.findings.exclude(severity=Severity.INFO)
    before = previous(check)
    if before is None:
        return found
    same = Finding.objects.filter(
        belongs_to=before, kind=OuterRef("kind"), mapping=OuterRef("mapping"), record=OuterRef("record")
    ).exclude(severity=Severity.INFO)
    return found.exclude(Exists(same))


class _Keeper:
    """Writes findings in batches, and a sign of life every other second."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._kept: Counter[str] = Counter()
        self._waiting: list[Finding] = []
        self._told = time.monotonic()

    def listening(self, ctx: Context) -> Context:
        """*ctx*, with the sign of life added."""

        def on_progress(event: Progress) -> None:
            ctx.on_progress(event)
            if time.monotonic() - self._told > _PULSE:
                self._told = time.monotonic()
                Check.objects.filter(pk=self._check.pk).update(heard=timezone.now(), records=event.done)

        return replace(ctx, on_progress=on_progress)

    def keep(self, item: Found) -> None:
        self._kept[item.kind] += 1
        if self._kept[item.kind] > option("LISTED"):
            return
        values = {key: _text(key, value) for key, value in item.as_json().items()}
        self._waiting.append(Finding(belongs_to=self._check, **values))
        if len(self._waiting) >= 500:
            self.flush()

    def flush(self) -> None:
        Finding.objects.bulk_create(self._waiting)
        self._waiting = []


def _text(key: str, value: Any) -> Any:
    return "" if key == "parent" and value is None else str(value) if key == "parent" else value


def _conclude(check: Check, sums: dict[str, Any]) -> None:
    _end(
        check,
        Check.State.DONE,
        verdict=sums["state"],
        seconds=sums["seconds"],
        records=sums["records"],
        findings_count=sums["findings"],
        in_flight=sums["in_flight"],
        kinds=sums["kinds"],
        severities=sums["severities"],
        mappings=sums["mappings"],
    )


def _end(check: Check, state: str, **values: Any) -> None:
    check.state, check.ended = state, timezone.now()
    for key, value in values.items():
        setattr(check, key, value)
    check.save()


def _control() -> str:
    return Check.objects.db


# --- Repairing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a repair would do. *asks* are findings whose repair deletes a vector, *left* those that no repair mends."""

    check: Check
    findings: tuple[int, ...]
    actions: dict[str, int]
    kinds: dict[str, int]
    asks: int
    left: int
    critical: int
    snapshot: bool

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "check": self.check.pk,
            "repairs": len(self.findings),
            "actions": self.actions,
            "kinds": self.kinds,
            "asks": self.asks,
            "left": self.left,
            "critical": self.critical,
            "snapshot": self.snapshot,
        }


def plan_repair(check: Check, *, only_safe: bool = True, kinds: Collection[str] = (), findings: Collection[int] = ()) -> Plan:
    """Say what a repair of *check*'s open findings would do: safe ones, or all; of some *kinds*; or those named.

    Changes nothing.
    """
    opened = check.findings.filter(state=Finding.State.OPEN).exclude(severity=Severity.INFO)
    mendable = opened.exclude(repair__in=[Action.NONE, Action.FOLLOWS])
    chosen = mendable.filter(safe=True) if only_safe else mendable
    if kinds:
        chosen = chosen.filter(kind__in=kinds)
    if findings:
        chosen = chosen.filter(pk__in=findings)
    rows = list(chosen.values_list("pk", "repair", "kind"))
    return Plan(
        check=check,
        findings=tuple(pk for pk, _, _ in rows),
        actions=dict(sorted(Counter(action for _, action, _ in rows).items())),
        kinds=dict(sorted(Counter(kind for _, _, kind in rows).items())),
        asks=mendable.filter(safe=False).count(),
        left=opened.filter(repair=Action.NONE).count(),
        critical=opened.filter(severity=Severity.CRITICAL).count(),
        snapshot=taker() is not None,
    )


def unfinished() -> QuerySet[Repair]:
    """Repairs that were begun or undone half-way, whether somebody is at them now or not."""
    return Repair.objects.filter(state__in=[Repair.State.RUNNING, Repair.State.UNDOING]).order_by("pk")


def repair(plan: Plan, *, actor: str = "", attended: bool = True, ctx: Context | None = None) -> Repair:
    """Carry out *plan*.

    1. Refuse what may not begin: nothing to do, no writer, a check of a backup, another repair unfinished, or, when nobody
       attends, a check that found something critical.
    2. Make a snapshot, where the project says how.
    3. Write the whole plan down: a repair and its steps.
    4. For some steps at a time, with all other writers kept out: look at each record again, and pass over what is no longer
       wrong; write down what each holds and will hold; change the stores; note that it is done.
    5. Note that the repair is done.

    A crash, or cancelling, before 3 leaves nothing; afterwards a repair in state ``running``, each of whose steps is planned,
    done, or begun with what it replaced in the journal. `resume` goes on with it and `undo` takes it back. Raises
    `RepairRefused` and `ConsistencyError`.
    """
    ctx = ctx or Context()
    with _alone():
        _refuse(plan, attended=attended)
        writer = _writer()
        snapshot = _snapshot(plan, ctx)
        with transaction.atomic(using=_control()):
            made = Repair.objects.create(of_check=plan.check, actor=actor, snapshot=snapshot)
            found = Finding.objects.filter(pk__in=plan.findings).order_by("pk")
            Step.objects.bulk_create(
                Step(of_repair=made, finding=item, action=item.repair, mapping=item.mapping, record=item.record)
                for item in found
            )
        _go_on(made, writer, ctx)
    return made


def resume(made: Repair, *, ctx: Context | None = None) -> Repair:
    """Go on with a repair, or with undoing one, that was cut short, from where it stopped.

    As `repair` from its step 4, or `undo` from its step 3; a crash leaves the same.
    """
    with _alone():
        made.refresh_from_db()
        if made.state == Repair.State.RUNNING:
            _go_on(made, _writer(), ctx or Context())
        elif made.state == Repair.State.UNDOING:
            _take_back(made, _writer(), ctx or Context())
    return made


def undo(made: Repair, *, actor: str = "", ctx: Context | None = None) -> Repair:
    """Put back all that a repair replaced, whether it came to its end or not.

    1. Refuse a repair that is undone.
    2. Note that it is being undone; what was planned and not begun is dropped.
    3. For some steps at a time, the last ones first, with all other writers kept out: what still holds what the repair
       wrote gets back what it held before; what somebody changed since is kept as it is, and the step says so.
    4. Note that it is undone.

    A crash, or cancelling, leaves a repair in state ``undoing`` whose journal still has all; `resume` or `undo` goes on. Raises
    `RepairRefused` and `ConsistencyError`.
    """
    with _alone():
        made.refresh_from_db()
        if made.state == Repair.State.UNDONE:
            raise RepairRefused(f"Repair {made.pk} is undone already.")
        others = unfinished().exclude(pk=made.pk).first()
        if others is not None:
            raise _busy_with(others)
        made.state, made.undone_by = Repair.State.UNDOING, actor or made.undone_by
        made.save()
        made.steps.filter(state=Step.State.PLANNED).update(
            state=Step.State.SKIPPED, note="The repair was undone before it came to this.", changed=timezone.now()
        )
        _take_back(made, _writer(), ctx or Context())
    return made


def _refuse(plan: Plan, *, attended: bool) -> None:
    """Step 1 of `repair`."""
    if plan.check.source != Check.LIVE:
        raise RepairRefused("A backup is never changed.", hint="Check the live stores, and repair what that finds.")
    if plan.check.state != Check.State.DONE:
        raise RepairRefused(f"Check {plan.check.pk} is not done.", hint="Run a check to its end first.")
    other = unfinished().first()
    if other is not None:
        raise _busy_with(other)
    if not attended and plan.critical:
        raise RepairRefused(
            f"The check found {plan.critical} critical findings; nothing is repaired by itself then.",
            hint="Look at them, then repair what you choose.",
        )
    if not plan.findings:
        raise RepairRefused("There is nothing to repair.")


def _busy_with(other: Repair) -> RepairRefused:
    return RepairRefused(
        f"Repair {other.pk} is unfinished ({other.state}).",
        hint=f"Go on with it: `manage.py check_consistency --resume`; or take it back: `--undo {other.pk}`.",
    )


def _writer() -> Writer:
    make = declared().writer
    if make is None:
        raise RepairRefused("The project declares no writer.", hint="Give its Declaration one; `manage.py check` tells.")
    return make()


def _snapshot(plan: Plan, ctx: Context) -> str:
    take = taker()
    if take is None:
        return ""
    with ctx.phase("repair", "snapshot"):
        return take(f"before the repair of {len(plan.findings)} findings of check {plan.check.pk}")


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other repairs out, by a lock that ends with its process. Raises `RepairRefused`."""
    database = Path(os.path.realpath(database_files()[0]))
    place = database.with_name(f"{database.name}.repair")
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepairRefused("Another process repairs or undoes right now.", hint="Wait for it to end.") from None
        yield
    finally:
        os.close(descriptor)


def _go_on(made: Repair, writer: Writer, ctx: Context) -> None:
    """Steps 4 and 5 of `repair`."""
    waiting = made.steps.filter(state__in=[Step.State.PLANNED, Step.State.BEGUN]).order_by("mapping", "pk")
    with ctx.phase("repair", f"repair {made.pk}", waiting.count()) as phase:
        for sides, steps in _by_mapping(waiting, ctx, phase):
            with writer.changing():
                _apply(sides, steps, writer)
            _settle_steps(steps)
    made.state, made.ended = Repair.State.DONE, timezone.now()
    made.save()


def _by_mapping(steps: QuerySet[Step], ctx: Context, phase: Phase) -> Iterator[tuple[Opened, list[Step]]]:
    """Some steps at a time with both stores of their mapping open; one's own findings of one record stay together."""
    mappings = {mapping.name: mapping for mapping in description().mappings}
    for key in list(steps.order_by("mapping").values_list("mapping", flat=True).distinct()):
        ours = list(steps.filter(mapping=key).select_related("finding"))
        with live_stores(ctx, whole=False) as stores, engine.opened(mappings[key], stores, ctx) as sides:
            for start in range(0, len(ours), _BATCH):
                yield sides, ours[start : start + _BATCH]
                phase.advance(len(ours[start : start + _BATCH]))


def _apply(sides: Opened, steps: Sequence[Step], writer: Writer) -> None:
    """Look, write down, change. The caller keeps other writers out, and notes afterwards that it is done."""
    facts = _look(sides, steps)
    delete: list[str] = []
    write: dict[str, VectorRecord] = {}
    rows: list[int] = []
    for step in steps:
        seen = facts[step.record]
        wrong = sides.wrong_with(seen, None)
        if step.state == Step.State.BEGUN:  # a record may be deleted and not written yet, and so be wrong in another way
            if step.action not in {item.repair for item in wrong}:
                step.move(Step.State.APPLIED)
                continue
        elif step.finding.kind not in {item.kind for item in wrong}:
            step.move(Step.State.SKIPPED, "It is not wrong any more.")
            continue
        _plan_step(sides, step, seen, delete, write, rows)
    Step.objects.bulk_update(steps, ["state", "note", "before", "after", "changed"])
    if delete or write:
        writer.apply(sides.mapping.collection, delete=delete, write=list(write.values()))
    database = connections[alias_of(sides.mapping.name)]
    with database.cursor() as cursor:
        for rowid in rows:
            cursor.execute(f"DELETE FROM {name(sides.mapping.table)} WHERE rowid = %s", [rowid])


def _look(sides: Opened, steps: Sequence[Step]) -> dict[str, Facts]:
    ids = [step.record for step in steps]
    with reading(str(sides.database)):
        sides.catch_up(ids)
        return {facts.id: facts for facts in sides.facts(ids)}


def _plan_step(
    sides: Opened, step: Step, seen: Facts, delete: list[str], write: dict[str, VectorRecord], rows: list[int]
) -> None:
    """Write into *step* what it replaces and with what, and add that to what is going to be done."""
    row = sides.rows.whole(seen.row.rowid) if seen.row is not None and step.action == Action.DELETE_ROW else None
    held = journal.stored(seen.record, row)
    before = step.before if step.state == Step.State.BEGUN and step.before is not None else held
    after: VectorRecord | None = None
    if step.action == Action.WRITE:
        if seen.row is None:
            step.move(Step.State.SKIPPED, "The row is gone.")
            return
        after = journal.wanted(sides.mapping, seen.row, seen.record)
        if journal.loses_keys(held, after):
            delete.append(step.record)
        write[step.record] = after
        step.move(Step.State.BEGUN, before=before, after=journal.stored(after))
    elif step.action == Action.DELETE_VECTOR:
        delete.append(step.record)
        step.move(Step.State.BEGUN, before=before, after=journal.stored(None))
    elif step.action == Action.DELETE_ROW and seen.row is not None:
        rows.append(seen.row.rowid)
        step.move(Step.State.BEGUN, before={**before, "record": None}, after=journal.stored(None))


def _settle_steps(steps: Iterable[Step]) -> None:
    """Note, after the stores have it, what became of steps and of their findings."""
    steps = list(steps)
    with transaction.atomic(using=_control()):
        for step in steps:
            if step.state == Step.State.BEGUN:
                step.move(Step.State.APPLIED)
            step.finding.state = Finding.State.REPAIRED if step.state == Step.State.APPLIED else Finding.State.GONE
        Step.objects.bulk_update(steps, ["state", "note", "changed"])
        Finding.objects.bulk_update([step.finding for step in steps], ["state"])


def _take_back(made: Repair, writer: Writer, ctx: Context) -> None:
    """Steps 3 and 4 of `undo`."""
    states = [Step.State.BEGUN, Step.State.APPLIED, Step.State.UNDOING]
    waiting = made.steps.filter(state__in=states).order_by("-pk")
    with ctx.phase("undo", f"repair {made.pk}", waiting.count()) as phase:
        for sides, steps in _by_mapping(waiting, ctx, phase):
            with _foreign_keys_off(sides.mapping.name), writer.changing():
                _put_back(sides, steps, writer)
            _settle_undone(steps)
    made.state, made.undone = Repair.State.UNDONE, timezone.now()
    made.save()


def _put_back(sides: Opened, steps: Sequence[Step], writer: Writer) -> None:
    """Look, write down, change back, for some steps. The caller keeps other writers out."""
    facts = _look(sides, steps)
    tolerance = tolerance_of(sides.mapping, sides.vectors.collection)
    delete: list[str] = []
    write: dict[str, VectorRecord] = {}
    rows: list[dict[str, Any]] = []
    for step in steps:
        seen = facts[step.record]
        on_row = step.action == Action.DELETE_ROW
        row = sides.rows.whole(seen.row.rowid) if on_row and seen.row is not None else None
        now = journal.stored(None if on_row else seen.record, row)
        nothing = journal.stored(None)
        if step.before is None or step.after is None or journal.same(now, step.before, tolerance):
            step.move(Step.State.UNDONE)
        elif not (
            journal.same(now, step.after, tolerance)
            or (step.state in (Step.State.BEGUN, Step.State.UNDOING) and journal.same(now, nothing, tolerance))
        ):
            step.move(Step.State.KEPT, "Somebody changed it since; it was left as it is.")
        elif on_row:
            step.move(Step.State.UNDOING)
            rows.append(journal.row_of(step.before) or {})
        else:
            before = journal.record_of(step.record, step.before)
            if before is None and step.before["record"] is not None:
                step.move(Step.State.KEPT, "It had no vector, which cannot be written again; it was left as it is.")
                continue
            step.move(Step.State.UNDOING)
            if before is None or journal.loses_keys(now, before):
                delete.append(step.record)
            if before is not None:
                write[step.record] = before
    Step.objects.bulk_update(steps, ["state", "note", "changed"])
    if delete or write:
        writer.apply(sides.mapping.collection, delete=delete, write=list(write.values()))
    with connections[alias_of(sides.mapping.name)].cursor() as cursor:
        for values in rows:
            places = ", ".join(["%s"] * len(values))
            columns = ", ".join(name(column) for column in values)
            cursor.execute(f"INSERT INTO {name(sides.mapping.table)} ({columns}) VALUES ({places})", list(values.values()))


def _settle_undone(steps: Iterable[Step]) -> None:
    steps = list(steps)
    with transaction.atomic(using=_control()):
        for step in steps:
            if step.state == Step.State.UNDOING:
                step.move(Step.State.UNDONE)
            if step.state == Step.State.UNDONE:
                step.finding.state = Finding.State.UNDONE
        Step.objects.bulk_update(steps, ["state", "note", "changed"])
        Finding.objects.bulk_update([step.finding for step in steps], ["state"])


@contextmanager
def _foreign_keys_off(mapping: str) -> Iterator[None]:
    """Let a row come back whose parent is gone. SQLite takes this setting outside transactions only."""
    database = connections[alias_of(mapping)]
    off = database.disable_constraint_checking()
    try:
        yield
    finally:
        if off:
            database.enable_constraint_checking()


__all__ = [
    "Outcome",
    "Plan",
    "new_findings",
    "plan_repair",
    "previous",
    "record_answer",
    "repair",
    "resume",
    "run_check",
    "settle_silent_checks",
    "undo",
    "unfinished",
]
