"""What a restore in place needs: whether it is possible, space, and time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backups.engine.config import check_set_name
from backups.engine.errors import EngineError
from backups.engine.restore.in_place import plan_in_place
from backups.engine.types import Backup, Depth, Source, SourceKind, SourceRecord
from backups.models import IndexedBackup

from .live import Comparison


def possible_in_place(comparison: Comparison, sources: Sequence[Source] | None, only: str | None) -> dict[str, Any]:
    """Whether a restore in place is possible, and how each store would be exchanged."""
    if sources is None:
        why = f"The set {comparison.backup.manifest.set} is not one of this project: its live stores are not known here."
        return {"possible": False, "why": why, "hint": "Restore it into a folder.", "targets": []}
    try:
        planned = plan_in_place(comparison.repository, comparison.backup, tuple(sources), only=only)
    except EngineError as problem:
        return {"possible": False, "why": problem.message, "hint": problem.hint, "targets": []}
    return {"possible": True, "why": "", "hint": "", "targets": planned["targets"]}


def needed_space(comparison: Comparison, records: tuple[SourceRecord, ...]) -> list[dict[str, Any]]:
    """Bytes needed and free next to each store; SQLite needs twice its size, for the live file's log."""
    needed: dict[Path, int] = {}
    for record in records:
        path = comparison.live.get((record.kind, record.name))
        if path is not None:
            place = Path(os.path.realpath(path)).parent
            needed[place] = needed.get(place, 0) + record.bytes * (2 if record.kind is SourceKind.SQLITE else 1)
    found = []
    for place, size in needed.items():
        exists = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(exists).free
        found.append({"place": str(place), "needed": size, "free": free, "enough": free > size})
    return found


def estimate_seconds(backup: Backup, records: tuple[SourceRecord, ...]) -> dict[str, Any]:
    """Estimated seconds, from the newest proof by restore of this backup, or else of its set."""
    share = sum(record.bytes for record in records) / max(1, backup.manifest.bytes_source)
    proofs = [proof for proof in backup.proofs if proof.ok and proof.depth is Depth.RESTORE]
    if proofs:
        return {"estimate": round(proofs[-1].seconds * share, 1), "from": backup.id, "measured": proofs[-1].time.isoformat()}
    rows = IndexedBackup.objects.filter(set=check_set_name(backup.manifest.set), restore_seconds__gt=0, bytes_source__gt=0)
    row = rows.order_by("-time")[:1].first()
    if row is None or row.restore_seconds is None:
        return {"estimate": None, "from": "", "measured": None}
    rate = row.restore_seconds / row.bytes_source
    estimate = round(rate * backup.manifest.bytes_source * share, 1)
    return {"estimate": estimate, "from": row.backup_id, "measured": row.verified_at.isoformat() if row.verified_at else None}
