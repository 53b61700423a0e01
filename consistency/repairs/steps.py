"""What carrying out and undoing a repair share: the lock, the writer, and batches of steps with their stores open."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from django.db import transaction
from django.db.models import QuerySet

from backups.engine.runtime import locks
from backups.engine.runtime.context import Phase
from consistency.declaration import Writer, declared
from consistency.engine.context import Context
from consistency.engine.errors import RepairRefused
from consistency.engine.examine import Facts
from consistency.engine.rows import reading
from consistency.engine.stores import OpenStores, open_stores
from consistency.live import live_stores
from consistency.models import Finding, Repair, Step
from consistency.resolution import database_files, description

_BATCH = 100


@contextmanager
def repair_lock() -> Iterator[None]:
    """Allow one repair at a time, by a lock that ends with its process. Raises `RepairRefused`."""
    database = Path(os.path.realpath(database_files()[0]))
    with locks.exclusive(database.with_name(f"{database.name}.repair")) as acquired:
        if not acquired:
            raise RepairRefused("Another process is repairing or undoing a repair.", hint="Wait until it ends.")
        yield


def project_writer() -> Writer:
    """The project's writer. Raises `RepairRefused` if its declaration has none."""
    make = declared().writer
    if make is None:
        raise RepairRefused("The project declares no writer.", hint="Add one to its Declaration; see `manage.py check`.")
    return make()


def refuse_unfinished(repairs: QuerySet[Repair]) -> None:
    """Raise `RepairRefused` if there is one of these unfinished *repairs*."""
    other = repairs.first()
    if other is not None:
        raise RepairRefused(
            f"Repair {other.pk} is unfinished ({other.state}).",
            hint=f"Resume it with `manage.py consistency_check --resume`, or undo it with `--undo {other.pk}`.",
        )


def batches(
    steps: QuerySet[Step], ctx: Context, phase: Phase, *, backwards: bool = False
) -> Iterator[tuple[OpenStores, list[Step]]]:
    """Some steps of one mapping at a time, with both of its stores open; the steps of one record stay together.

    Mappings come in the order of their names, or *backwards*.
    """
    mappings = {mapping.name: mapping for mapping in description().mappings}
    names = steps.order_by("-mapping" if backwards else "mapping").values_list("mapping", flat=True).distinct()
    for name in list(names):
        of_mapping = list(steps.filter(mapping=name).select_related("finding"))
        with live_stores(ctx, whole=False) as stores, open_stores(mappings[name], stores, ctx) as sides:
            for start in range(0, len(of_mapping), _BATCH):
                batch = of_mapping[start : start + _BATCH]
                yield sides, batch
                phase.advance(len(batch))


def read_facts(sides: OpenStores, ids: Sequence[str]) -> dict[str, Facts]:
    """What both stores hold of *ids* now."""
    with reading(str(sides.database)):
        sides.catch_up(ids)
        return {facts.id: facts for facts in sides.facts(ids)}


def save_outcome(steps: Sequence[Step]) -> None:
    """Save the states of steps and of their findings together."""
    with transaction.atomic(using=Step.objects.db):
        Step.objects.bulk_update(steps, ["state", "note", "changed"])
        Finding.objects.bulk_update([step.finding for step in steps], ["state"])
