"""What a restore in place would do."""

import stat
from pathlib import Path
from typing import Any

from ..capture.owners import owners
from ..chroma_files.tables import DATABASE
from ..repository.folder import Repository
from ..runtime import folders
from ..runtime.context import Context
from ..types import Backup, Source, SourceKind
from .targets import Target, find_targets, refuse_nested
from .to_folder import check_manifest


def plan_in_place(
    repository: Repository, backup: Backup, sources: tuple[Source, ...], *, only: str | None = None
) -> dict[str, Any]:
    """What `in_place.restore_in_place` would do: ``{"id", "dry_run", "targets": [{"store", "target", "bytes_now", ...}]}``.

    Raises the errors of its step 1, and `DamageFound` if the manifest was changed.
    """
    targets = find_targets(backup, only, sources, Context())
    refuse_nested(targets, repository, backup, sources)
    check_manifest(repository, backup)
    planned = [
        {
            "store": target.record.prefix,
            "target": str(target.path),
            "bytes_now": _bytes_at(target.path),
            "bytes_after": target.record.bytes,
            "how": _how(target),
        }
        for target in targets
    ]
    return {"id": backup.id, "dry_run": True, "targets": planned}


def _how(target: Target) -> str:
    if target.record.kind is SourceKind.SQLITE:
        return "online, in one transaction" if target.is_database() else "put in place as a file; old logs are set aside"
    if target.record.kind is SourceKind.FILES:
        return "exchanged in one step"
    if target.gate:
        return "exchanged in one step, under the gate"
    holders = owners(target.path / DATABASE, parent=True)
    return f"exchanged; open without a gate in {holders}: needs a stop command" if holders else "exchanged"


def _bytes_at(path: Path) -> int | None:
    if not path.exists():
        return None
    if path.is_file():
        return path.stat().st_size
    return sum(status.st_size for _, status in folders.below(path) if not stat.S_ISDIR(status.st_mode))
