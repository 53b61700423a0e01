"""Rebuilds broken indexes: an empty collection takes the place of the old one, and every usable vector is written again."""

from contextlib import closing

from backups.engine.chroma_files.tables import find_collection
from backups.engine.runtime.wording import counted
from consistency.declaration import Rebuilder, Writer
from consistency.engine.broken_index import is_broken
from consistency.engine.compare import fetched
from consistency.engine.context import Context
from consistency.engine.errors import RepairRefused
from consistency.engine.findings import Repair as Action
from consistency.engine.mapping import Mapping
from consistency.engine.stores import OpenStores, open_stores, open_tables
from consistency.engine.suspects import Suspects
from consistency.live import live_stores
from consistency.models import Finding, Repair, Step
from consistency.repairs import journal
from consistency.repairs.steps import read_facts, save_outcome
from consistency.resolution import description

_PAGE = 5000


def rebuilder(writer: Writer) -> Rebuilder:
    """*writer*, if it can replace a collection. Raises `RepairRefused`."""
    if not isinstance(writer, Rebuilder):
        raise RepairRefused(
            "The project's writer cannot rebuild an index: it has no recreate().",
            hint="Add it, as the reference of Declaration describes, or repair the other findings by kind.",
        )
    return writer


def rebuild_indexes(made: Repair, writer: Writer, ctx: Context) -> None:
    """Carry out the steps of a repair that rebuild an index.

    1. With all other writers kept out: skip the step if the index is not broken any more; write down that it is begun; replace
       the collection by an empty one; write that down.
    2. For some rows at a time, with all other writers kept out: write each row that Chroma lacks or holds differently.
    3. Record that the step is done.

    A crash before the end of 1 leaves a step that is begun, and the old collection, the new one, or none: all of 1 is done
    again. A crash in 2 leaves rows without a vector, which `resume` writes, and which a check finds.
    """
    mappings = {mapping.name: mapping for mapping in description().mappings}
    waiting = made.steps.filter(action=Action.REBUILD_INDEX, state__in=[Step.State.PLANNED, Step.State.BEGUN])
    for step in waiting.select_related("finding").order_by("mapping", "pk"):
        mapping = mappings[step.mapping]
        _replace(mapping, step, rebuilder(writer), ctx)
        if step.state == Step.State.BEGUN:
            _write_rows(mapping, step, writer, ctx)
        step.finding.state = Finding.State.REPAIRED if step.state == Step.State.APPLIED else Finding.State.GONE
        save_outcome([step])


def _replace(mapping: Mapping, step: Step, writer: Rebuilder, ctx: Context) -> None:
    with writer.changing(), live_stores(ctx, whole=False) as stores:
        broken = is_broken(mapping, stores, ctx)
        if step.state == Step.State.PLANNED:
            if not broken:
                step.move(Step.State.SKIPPED, "No longer wrong.")
                return
            with open_tables(mapping, stores, ctx) as (_, chroma):
                collection = find_collection(chroma, mapping.collection)
            step.move(Step.State.BEGUN, before={"dimension": collection.dimension if collection else None})
            step.save()
        if broken or step.after is None:
            writer.recreate(mapping.collection)
            step.after = {"recreated": True}
            step.save()


def _write_rows(mapping: Mapping, step: Step, writer: Writer, ctx: Context) -> None:
    left = 0
    with (
        live_stores(ctx, whole=False) as stores,
        open_stores(mapping, stores, ctx) as sides,
        closing(Suspects(lambda item: None)) as rows,
    ):
        for page in fetched(sides.rows.stream(), _PAGE):
            rows.add([row[0] for row in page])
        with ctx.phase("repair", f"{mapping.name}: writing vectors", len(rows)) as phase:
            for ids in rows.batches():
                with writer.changing():
                    left += _write(ids, sides, (step.before or {}).get("dimension"), writer)
                phase.advance(len(ids))
        sides.vectors.refresh()
        note = f"The new index holds {counted(sides.vectors.count(), 'vector')}."
    step.move(Step.State.APPLIED, note + (f" {counted(left, 'row has', 'rows have')} none that can be used." if left else ""))


def _write(ids: list[str], sides: OpenStores, dimension: int | None, writer: Writer) -> int:
    """Write what is missing of *ids*, and return how many rows have no usable vector. The caller keeps other writers out."""
    left, write = 0, []
    for facts in read_facts(sides, ids).values():
        repairs = {item.repair for item in sides.wrong_with(facts, None)}
        if facts.row is None or not repairs:
            continue
        # An empty collection takes the dimension of the first vector, which may be a row's with a wrong one
        if repairs == {Action.WRITE} and dimension in (None, len(facts.row.vector) // 4):
            write.append(journal.target_record(sides.mapping, facts.row, facts.record))
        else:
            left += 1
    if write:
        writer.apply(sides.mapping.collection, delete=[], write=write)
    return left
