"""Chroma and file stores: collections and files of the live store and of the backup's."""

import contextlib
import sqlite3
import stat
from pathlib import Path
from typing import Any

from backups.engine.archive.table import EntryType, Tree
from backups.engine.chroma_files.tables import DATABASE, list_collections
from backups.engine.errors import EngineError
from backups.engine.runtime import folders
from backups.engine.runtime.context import Phase
from backups.engine.runtime.sqlite import is_locked
from backups.engine.types import SourceRecord

from .live import MOST_NAMES, Comparison, Live, allow_cancel, live_fields, open_live


def compare_chroma(comparison: Comparison, record: SourceRecord) -> dict[str, Any]:
    """Records of each collection: now, from Chroma's tables, and in the backup, from its manifest."""
    path = comparison.live.get((record.kind, record.name))
    live, now = open_live(path / DATABASE if path is not None else None)
    before: dict[str, dict[str, Any]] = {}
    if now is not None:
        with contextlib.closing(now):
            allow_cancel(comparison, now)
            try:
                for place in list_collections(now):
                    counted = "SELECT count(*) FROM embeddings WHERE segment_id = ?"
                    count = int(now.execute(counted, (place.metadata_segment,)).fetchone()[0])
                    before[place.name] = {
                        "count": count,
                        "dimension": place.dimension,
                        "at": [place.metadata_at, place.vector_at],
                    }
            except (sqlite3.DatabaseError, EngineError) as problem:
                comparison.ctx.check()
                locked = isinstance(problem, sqlite3.Error) and is_locked(problem)
                live = Live(path=live.path, state="busy" if locked else "broken", why=str(problem))
                before = {}
    after = {
        item.name: {"count": item.digest.count, "dimension": item.dimension, "at": [item.metadata_at, item.vector_at]}
        for item in record.collections
    }
    collections = [
        {
            "name": name,
            "before": before[name]["count"] if name in before else None,
            "after": after[name]["count"] if name in after else None,
            "dimension_before": before.get(name, {}).get("dimension"),
            "dimension_after": after.get(name, {}).get("dimension"),
            "same": name in before and before.get(name) == after.get(name),
        }
        for name in sorted(before.keys() | after.keys())
    ]
    fields = live_fields(live) | {"target": str(path) if path else None}
    return {"store": record.prefix, "name": record.name, "collections": collections, **fields}


def compare_files(comparison: Comparison, record: SourceRecord, tree: Tree) -> dict[str, Any]:
    """Files on both sides, compared by size and modification time; their contents are not read."""
    path = comparison.live.get((record.kind, record.name))
    prefix = record.prefix + "/"
    kept = {
        entry_path.removeprefix(prefix): (entry.size, entry.mtime_ns)
        for entry_path, entry in tree.entries.items()
        if entry_path.startswith(prefix) and entry.kind is EntryType.FILE
    }
    if path is None:
        live = Live(path=None, state="unknown", why="The project has no live folder for it.")
    elif not path.is_dir():
        live = Live(path=path, state="missing", why="The folder does not exist.")
    else:
        live = Live(path=path, state="ok")
    now: dict[str, tuple[int, int]] = {}
    if live.readable:
        assert path is not None
        with comparison.ctx.phase("preview", f"walk {record.prefix}") as phase:
            now = _walk(path, phase)
    changes = {
        "appear": sorted(kept.keys() - now.keys()),
        "vanish": sorted(now.keys() - kept.keys()),
        "change": sorted(name for name in kept.keys() & now.keys() if kept[name] != now[name]),
    }
    return {
        "store": record.prefix,
        "name": record.name,
        "files_before": len(now) if live.readable else None,
        "files_after": len(kept),
        "bytes_before": sum(size for size, _ in now.values()) if live.readable else None,
        "bytes_after": sum(size for size, _ in kept.values()),
        "counts": {what: len(names) for what, names in changes.items()} if live.readable else None,
        **{what: names[:MOST_NAMES] if live.readable else [] for what, names in changes.items()},
        **live_fields(live),
    }


def _walk(folder: Path, phase: Phase) -> dict[str, tuple[int, int]]:
    """Size and modification time of every file below *folder*; what cannot be read is left out."""
    found = {}
    for path, status in folders.below(folder):
        if stat.S_ISREG(status.st_mode):
            found[path] = (status.st_size, status.st_mtime_ns)
            phase.advance(status.st_size)
    return found
