"""What a repair would do. Changes nothing."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from django.db.models import QuerySet

from consistency.declaration import backup_databases, snapshot_maker
from consistency.engine.broken_index import WITHOUT_ROW
from consistency.engine.findings import Repair as Action
from consistency.engine.findings import Severity
from consistency.models import Check, Finding, Repair
from consistency.repairs.lost_rows import LOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a repair would do.

    *asks* counts the findings whose repair deletes a vector or rebuilds an index and needs confirmation, *rebuilds* the latter,
    *without_row* the records that rebuilding loses, *left* the findings that need manual work.
    *lost* counts the findings whose row may be restored from a backup, which *restore_rows* does.
    """

    check: Check
    findings: tuple[int, ...]
    actions: dict[str, int]
    kinds: dict[str, int]
    asks: int
    rebuilds: int
    without_row: int
    left: int
    critical: int
    lost: int
    restore_rows: bool
    snapshot: bool

    def as_json(self) -> dict[str, Any]:
        same = ("actions", "kinds", "asks", "rebuilds", "without_row", "left", "critical", "lost", "snapshot")
        return {"check": self.check.pk, "repairs": len(self.findings)} | {name: getattr(self, name) for name in same}


def plan_repair(
    check: Check,
    *,
    only_safe: bool = True,
    restore_rows: bool = False,
    kinds: Collection[str] = (),
    findings: Collection[int] = (),
) -> Plan:
    """Plan a repair of *check*'s open findings: the safe ones or all, optionally only some *kinds* or *findings* (keys).

    With *restore_rows* the findings of lost rows, whose rows are restored from backups.
    """
    opened = check.findings.filter(state=Finding.State.OPEN).exclude(severity=Severity.INFO)
    repairable = opened.exclude(repair__in=[Action.NONE, Action.FOLLOWS])
    chosen = repairable.filter(safe=True) if only_safe else repairable
    if restore_rows:
        chosen = opened.filter(kind__in=LOST)
    if kinds:
        chosen = chosen.filter(kind__in=kinds)
    if findings:
        chosen = chosen.filter(pk__in=findings)
    rows = list(chosen.values_list("pk", "repair", "kind"))
    broken = list(repairable.filter(repair=Action.REBUILD_INDEX).values_list("chroma", flat=True))
    return Plan(
        check=check,
        findings=tuple(pk for pk, _, _ in rows),
        actions={Action.RESTORE_ROW.value: len(rows)}
        if restore_rows
        else dict(sorted(Counter(one for _, one, _ in rows).items())),
        kinds=dict(sorted(Counter(kind for _, _, kind in rows).items())),
        asks=repairable.filter(safe=False).count(),
        rebuilds=len(broken),
        without_row=sum((side or {}).get(WITHOUT_ROW, 0) for side in broken),
        left=opened.filter(repair=Action.NONE).count(),
        critical=opened.filter(severity=Severity.CRITICAL).count(),
        lost=opened.filter(kind__in=LOST).count() if backup_databases() is not None else 0,
        restore_rows=restore_rows,
        snapshot=snapshot_maker() is not None,
    )


def unfinished() -> QuerySet[Repair]:
    """Repairs that are being carried out or undone, or were interrupted."""
    return Repair.objects.filter(state__in=[Repair.State.RUNNING, Repair.State.UNDOING]).order_by("pk")
