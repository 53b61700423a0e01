"""Undoes a repair from its journal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections

from backups import moments
from consistency.declaration import VectorRecord, Writer
from consistency.engine.compare import tolerance_of
from consistency.engine.context import Context
from consistency.engine.errors import RepairRefused
from consistency.engine.findings import Repair as Action
from consistency.engine.rows import name
from consistency.engine.stores import OpenStores
from consistency.models import Finding, Repair, Step
from consistency.repairs import journal
from consistency.repairs.lost_rows import remove
from consistency.repairs.plan import unfinished
from consistency.repairs.steps import batches, project_writer, read_facts, refuse_unfinished, repair_lock, save_outcome
from consistency.resolution import alias_of

_REBUILT = "A rebuilt index cannot be undone. A check finds rows whose vector is not written yet."


def undo(made: Repair, *, actor: str = "", ctx: Context | None = None) -> Repair:
    """Restore everything that a repair replaced, whether it was completed or not, and return the repair.

    1. Refuse a repair that is undone already, or that did nothing but rebuild indexes, which cannot be undone.
    2. Record that it is being undone; steps that were planned and not begun are skipped.
    3. For a batch of steps at a time, the last ones first, with all other writers kept out: records that still hold what the
       repair wrote get back what they held before; records that changed since are kept, and the step says so.
    4. Record that it is undone.

    A crash, or cancelling, leaves a repair in state ``undoing`` whose journal is complete; `resume` or `undo` continues. Raises
    `RepairRefused` and `ConsistencyError`.
    """
    with repair_lock():
        made.refresh_from_db()
        if made.state == Repair.State.UNDONE:
            raise RepairRefused(f"Repair {made.pk} is already undone.")
        if not made.can_be_undone:
            raise RepairRefused(f"Repair {made.pk} cannot be undone: it changed nothing, or rebuilt an index.")
        refuse_unfinished(unfinished().exclude(pk=made.pk))
        made.state, made.undone_by = Repair.State.UNDOING, actor or made.undone_by
        made.save()
        made.steps.filter(state=Step.State.PLANNED).update(
            state=Step.State.SKIPPED, note="The repair was undone before this step began.", changed=moments.now()
        )
        put_back_all(made, project_writer(), ctx or Context())
    return made


def put_back_all(made: Repair, writer: Writer, ctx: Context) -> None:
    """Steps 3 and 4 of `undo`. The caller holds the lock."""
    states = [Step.State.BEGUN, Step.State.APPLIED, Step.State.UNDOING]
    waiting = made.steps.filter(state__in=states).order_by("-pk")
    waiting.filter(action=Action.REBUILD_INDEX).update(state=Step.State.KEPT, note=_REBUILT, changed=moments.now())
    with ctx.phase("undo", f"repair {made.pk}", waiting.count()) as phase:
        for sides, steps in batches(waiting, ctx, phase, backwards=True):
            with _foreign_keys_off(sides.mapping.name), writer.changing():
                _put_back(sides, steps, writer)
            for step in steps:  # both stores have it
                if step.state == Step.State.UNDOING:
                    step.move(Step.State.UNDONE)
                if step.state == Step.State.UNDONE:
                    step.finding.state = Finding.State.OPEN
            save_outcome(steps)
    made.state, made.undone = Repair.State.UNDONE, moments.now()
    made.save()


def _put_back(sides: OpenStores, steps: Sequence[Step], writer: Writer) -> None:
    """Read, write down, change back, for one batch. The caller keeps other writers out."""
    facts = read_facts(sides, [step.record for step in steps])
    tolerance = tolerance_of(sides.mapping, sides.vectors.collection)
    delete: list[str] = []
    write: dict[str, VectorRecord] = {}
    rows: list[dict[str, Any]] = []
    for step in steps:
        seen = facts[step.record]
        if step.action == Action.RESTORE_ROW:
            step.move(Step.State.UNDOING)
            continue
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
            step.move(Step.State.KEPT, "Changed since the repair, so it was not undone.")
        elif on_row:
            step.move(Step.State.UNDOING)
            rows.append(journal.row_of(step.before) or {})
        else:
            before = journal.record_of(step.record, step.before)
            if before is None and step.before["record"] is not None:
                step.move(Step.State.KEPT, "It had no vector, which cannot be written again, so it was not undone.")
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
        for step in steps:
            if step.action == Action.RESTORE_ROW:
                gone = [remove(cursor, row) for row in reversed(journal.rows_of(step.after or {}))]
                if not all(gone):
                    step.move(Step.State.KEPT, "A restored row was changed or referred to since, so it was kept.")
        for values in rows:
            places = ", ".join(["%s"] * len(values))
            columns = ", ".join(name(column) for column in values)
            cursor.execute(f"INSERT INTO {name(sides.mapping.table)} ({columns}) VALUES ({places})", list(values.values()))


@contextmanager
def _foreign_keys_off(mapping: str) -> Iterator[None]:
    """Allow a row to return whose parent is gone. SQLite accepts this setting outside transactions only."""
    database = connections[alias_of(mapping)]
    off = database.disable_constraint_checking()
    try:
        yield
    finally:
        if off:
            database.enable_constraint_checking()
