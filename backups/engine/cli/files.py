"""``refbackup files``"""

import argparse
from datetime import UTC, datetime
from typing import Any

from ..archive.reader import Archives
from ..repository.folder import Repository
from ..types import Backup
from .arguments import add_id
from .call import Call, Outcome
from .text import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backup."""
    add_id(parser)


def run(call: Call) -> Outcome:
    """List the files, with the bytes that this backup's own archive stores of each."""
    repository = call.repository()
    backup = call.backup(repository)
    files = _files_of(repository, backup)
    rows: list[tuple[str, ...]] = [("MODE", "BYTES", "STORED HERE", "MODIFIED (UTC)", "PATH")]
    rows += [
        (
            item["mode"],
            str(item["bytes"]),
            str(item["stored_here"]),
            item["modified"][:19].replace("T", " "),
            item["path"],
        )
        for item in files
    ]
    return Outcome({"id": backup.id, "files": files}, table(rows, right=(1, 2)))


def _files_of(repository: Repository, backup: Backup) -> list[dict[str, Any]]:
    with repository.reading(), Archives(repository.locate(backup.manifest.set)) as archives:
        tree = archives.tree(backup.id)
        return [
            {
                "path": entry.path,
                "kind": entry.kind.name.lower(),
                "bytes": entry.size,
                "mode": f"{entry.mode:04o}",
                "modified": datetime.fromtimestamp(entry.mtime_ns / 1e9, UTC).isoformat(),
                "stored_here": sum(archives.frame(ref).stored for ref in tree.refs(entry) if ref.backup == backup.id),
                "needs": sorted({ref.backup for ref in tree.refs(entry)} - {backup.id}),
            }
            for entry in tree.entries.values()
        ]
