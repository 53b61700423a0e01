"""Carries out a planned repair, and resumes one that was interrupted."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.db import DatabaseError, connections, transaction
from django.db.backends.utils import CursorWrapper

from backups import moments
from backups.engine.runtime.wording import counted
from consistency.declaration import VectorRecord, Writer, snapshot_maker
from consistency.engine.context import Context
from consistency.engine.errors import RepairRefused
from consistency.engine.examine import Facts
from consistency.engine.findings import Repair as Action
from consistency.engine.rows import name
from consistency.engine.stores import OpenStores
from consistency.models import Check, Finding, Repair, Step
from consistency.repairs import journal
from consistency.repairs.lost_rows import (
    LOST,
    LostRow,
    Search,
    TableRow,
    find_lost,
    insert,
    insert_dependents,
    is_present,
    references,
)
from consistency.repairs.plan import Plan, unfinished
from consistency.repairs.rebuild import rebuild_indexes, rebuilder
from consistency.repairs.steps import batches, project_writer, read_facts, refuse_unfinished, repair_lock, save_outcome
from consistency.repairs.undo import put_back_all
from consistency.resolution import alias_of


def repair(plan: Plan, *, actor: str = "", attended: bool = True, ctx: Context | None = None) -> Repair:
    """Carry out *plan* and return the repair.

    1. Refuse if there is nothing to do, no writer, the check is of a backup, another repair is unfinished, or the check found
       something critical and the repair is unattended.
    2. Make a snapshot, if the project says how.
    3. Write the whole plan down: a repair and its steps.
    4. Rebuild indexes (`rebuild_indexes`).
    5. For a batch of steps at a time, with all other writers kept out: read each record again, and skip what is no longer
       wrong; write down what each holds and will hold; change the stores; record that it is done.
    6. Record that the repair is done.

    A crash, or cancelling, before 3 leaves nothing; afterwards a repair in state ``running``, each of whose steps is planned,
    done, or begun with what it replaced in the journal. `resume` completes it and `undo` reverts it. Raises `RepairRefused` and
    `ConsistencyError`.
    """
    ctx = ctx or Context()
    with repair_lock():
        _refuse(plan, attended=attended)
        writer = project_writer()
        if Action.REBUILD_INDEX in plan.actions:
            rebuilder(writer)
        snapshot = _make_snapshot(plan, ctx)
        with transaction.atomic(using=Repair.objects.db):
            made = Repair.objects.create(of_check=plan.check, actor=actor, snapshot=snapshot)
            Step.objects.bulk_create(
                Step(
                    of_repair=made,
                    finding=item,
                    action=Action.RESTORE_ROW if plan.restore_rows else item.repair,
                    mapping=item.mapping,
                    record=item.record,
                )
                for item in Finding.objects.filter(pk__in=plan.findings).order_by("pk")
            )
        _carry_out(made, writer, ctx)
    return made


def resume(made: Repair, *, ctx: Context | None = None) -> Repair:
    """Complete a repair, or the undoing of one, that was interrupted.

    Continues `repair` at its steps 4 and 5, or `undo` at its step 3; a crash leaves the same.
    """
    with repair_lock():
        made.refresh_from_db()
        if made.state == Repair.State.RUNNING:
            _carry_out(made, project_writer(), ctx or Context())
        elif made.state == Repair.State.UNDOING:
            put_back_all(made, project_writer(), ctx or Context())
    return made


def _refuse(plan: Plan, *, attended: bool) -> None:
    """Step 1 of `repair`."""
    if plan.check.source != Check.LIVE:
        raise RepairRefused("A backup is never changed.", hint="Check the live stores, and repair those findings.")
    if plan.check.state != Check.State.DONE:
        raise RepairRefused(f"Check {plan.check.pk} is not done.", hint="Complete a check first.")
    refuse_unfinished(unfinished())
    if not attended and plan.critical:
        raise RepairRefused(
            f"The check has {counted(plan.critical, 'critical finding')}, so nothing is repaired automatically.",
            hint="Review them, then repair what you choose.",
        )
    if not plan.findings:
        raise RepairRefused("There is nothing to repair.")


def _make_snapshot(plan: Plan, ctx: Context) -> str:
    make = snapshot_maker()
    if make is None:
        return ""
    with ctx.phase("repair", "snapshot"):
        return make(f"before the repair of {counted(len(plan.findings), 'finding')} of check {plan.check.pk}")


def _carry_out(made: Repair, writer: Writer, ctx: Context) -> None:
    """Steps 4 to 6 of `repair`."""
    rebuild_indexes(made, writer, ctx)
    waiting = made.steps.filter(state__in=[Step.State.PLANNED, Step.State.BEGUN]).order_by("mapping", "pk")
    with ctx.phase("repair", f"repair {made.pk}", waiting.count()) as phase:
        for sides, steps in batches(waiting, ctx, phase):
            lost = find_lost(sides, [step.record for step in steps if step.action == Action.RESTORE_ROW], ctx)
            with writer.changing():
                _apply(sides, steps, writer, lost)
            for step in steps:  # both stores have it
                if step.state == Step.State.BEGUN:
                    step.move(Step.State.APPLIED)
                if step.state == Step.State.APPLIED:
                    step.finding.state = Finding.State.REPAIRED
            save_outcome(steps)
    made.state, made.ended = Repair.State.DONE, moments.now()
    made.save()


def _apply(sides: OpenStores, steps: Sequence[Step], writer: Writer, lost: Search) -> None:
    """Read, write down, change. The caller keeps other writers out, and saves the outcome."""
    alias = alias_of(sides.mapping.name)
    inserts: dict[int, LostRow] = {}
    planned: set[tuple[Any, ...]] = set()
    facts = read_facts(sides, [step.record for step in steps])
    delete: list[str] = []
    write: dict[str, VectorRecord] = {}
    rows: list[int] = []
    for step in steps:
        seen = facts[step.record]
        wrong = sides.wrong_with(seen, None)
        kinds = {item.kind for item in wrong}
        if step.action == Action.RESTORE_ROW:  # once what it refers to is back, a lost row is wrong in another way
            still = not LOST.isdisjoint(kinds)
        elif step.state == Step.State.BEGUN:  # a record may be deleted and not written yet, and so be wrong in another way
            still = step.action in {item.repair for item in wrong}
        else:
            still = step.finding.kind in kinds
        if not still:
            begun = step.state == Step.State.BEGUN
            step.move(Step.State.APPLIED if begun else Step.State.SKIPPED, "" if begun else "No longer wrong.")
            step.finding.state = Finding.State.GONE
            continue
        if step.action == Action.RESTORE_ROW:
            with connections[alias].cursor() as cursor:
                found = lost.found.get(step.record)
                if found is None:
                    step.move(Step.State.SKIPPED, lost.why)
                else:
                    inserts[step.pk] = _plan_restore(cursor, step, found, planned)
        else:
            _plan_step(sides, step, seen, delete, write, rows)
    Step.objects.bulk_update(steps, ["state", "note", "before", "after", "changed"])
    if delete or write:
        writer.apply(sides.mapping.collection, delete=delete, write=list(write.values()))
    with connections[alias].cursor() as cursor:
        for rowid in rows:
            cursor.execute(f"DELETE FROM {name(sides.mapping.table)} WHERE rowid = %s", [rowid])
        for step in steps:
            if step.pk in inserts:
                _insert(cursor, alias, step, inserts[step.pk])


def _insert(cursor: CursorWrapper, alias: str, step: Step, planned: LostRow) -> None:
    try:
        with transaction.atomic(using=alias):
            for row in planned.rows:
                insert(cursor, row)
    except DatabaseError as problem:
        step.move(Step.State.SKIPPED, f"The row of the backup does not fit the present data: {problem}.", after=None)
        step.save()
        return
    done, left = insert_dependents(cursor, alias, planned.dependents)
    left += planned.left
    note = f"From backup {planned.backup}"
    if done:
        note += f", with {counted(len(done), 'row')} that referred to it"
    note += "."
    if left:
        note += " Still lost: " + "; ".join(
            f"{counted(number, 'row')} of {table} ({why})" for (table, why), number in sorted(left.items())
        )
        note += "."
    step.move(step.state, note, after=journal.stored_rows((*planned.rows, *done), left))
    step.save()


def _plan_restore(cursor: CursorWrapper, step: Step, found: LostRow, planned: set[tuple[Any, ...]]) -> LostRow:
    """Write into *step* which rows it inserts, and return them; the database and *planned* have the others."""

    def missing(rows: Sequence[TableRow]) -> tuple[TableRow, ...]:
        chosen = tuple(
            replace(row, references=references(cursor, row))
            for row in rows
            if row.identity not in planned and not is_present(cursor, row)
        )
        planned.update(row.identity for row in chosen)
        return chosen

    restored = replace(found, rows=missing(found.rows), dependents=missing(found.dependents))
    after = journal.stored_rows((*restored.rows, *restored.dependents), found.left)
    step.move(Step.State.BEGUN, f"From backup {found.backup}.", before=journal.stored(None), after=after)
    return restored


def _plan_step(
    sides: OpenStores, step: Step, seen: Facts, delete: list[str], write: dict[str, VectorRecord], rows: list[int]
) -> None:
    """Write into *step* what it replaces and with what, and add that to *delete*, *write* or *rows*."""
    row = sides.rows.whole(seen.row.rowid) if seen.row is not None and step.action == Action.DELETE_ROW else None
    held = journal.stored(seen.record, row)
    before = step.before if step.state == Step.State.BEGUN and step.before is not None else held
    if step.action == Action.WRITE:
        if seen.row is None:
            step.move(Step.State.SKIPPED, "The row is gone.")
            return
        after = journal.target_record(sides.mapping, seen.row, seen.record)
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
