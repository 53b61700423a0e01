"""What several commands print."""

import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..check_stores import unchecked
from ..names import in_one_line
from ..types import Backup, Depth, Manifest, SourceRecord

_MOST_MISSING = 20
_VERBS = "create|list|show|files|verify|drill|restore|hold|release|delete|prune|doctor|adopt|init|copy"
_COMMAND = re.compile(rf"(?<![\w./-])refbackup ({_VERBS})\b(?![^`.,;:\n]* --repo)")


def program() -> str:
    """How this program can be typed: its full path, unless ``refbackup`` is found without."""
    own = Path(sys.argv[0])
    return str(own.absolute()) if own.name == "refbackup" and shutil.which("refbackup") is None else "refbackup"


def runnable(text: str, typed: str, repository: str) -> str:
    """*text* with every command in it as it can be typed: *typed* for ``refbackup``, and *repository* if it is not ""."""
    where = f" --repo {shlex.quote(repository)}" if repository else ""
    return _COMMAND.sub(lambda found: f"{typed} {found[1]}{where}", text)


def shown(text: str) -> str:
    """*text*, perhaps of several lines, without what a terminal obeys: names of files and tables may contain anything."""
    return "\n".join(in_one_line(line) for line in text.split("\n"))


def table(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """*rows* as columns padded to their widest cell, those in *right* aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column]) for column, cell in enumerate(row)
        ).rstrip()
        for row in rows
    )


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """The fields of a manifest that begin a backup's JSON."""
    return {
        "id": manifest.id,
        "set": manifest.set,
        "kind": manifest.kind,
        "parent": manifest.parent,
        "time": manifest.time.isoformat(),
        "bytes_source": manifest.bytes_source,
        "bytes_stored": manifest.bytes_stored,
        "encrypted": manifest.encryption is not None,
    }


def damage_lines(backup: Backup) -> list[str]:
    """A line for each problem of *backup*."""
    where = ((f" {problem.source}" if problem.source else "", problem.message) for problem in backup.problems)
    return [f"  DAMAGED{source}: {message}" for source, message in where]


def unchecked_lines(parts: list[str]) -> list[str]:
    """A line for each of `check_stores.unchecked`."""
    return [f"  NOT CHECKED {part}" for part in parts]


def proof_words(backup: Backup) -> str:
    """The proof of *backup*, whether a part of it was left unchecked, and whether the backup is incomplete."""
    proof = backup.verification.upper() if backup.damaged else backup.verification
    proof += " (partly)" if backup.verification == Depth.RESTORE and unchecked(backup) else ""
    return proof + (", incomplete" if backup.manifest.incomplete else "")


def missing_json(records: tuple[SourceRecord, ...]) -> list[dict[str, str]]:
    """What belongs into a backup of these sources and is not in it."""
    return [
        {"source": record.name, "path": item.path, "reason": item.reason.value, "message": item.message}
        for record in records
        for item in record.missing
    ]


def missing_lines(backup_id: str, missing: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for each of `missing_json`, of many only for the first."""
    lines = [f"  MISSING {item['source']}: {item['message']}" for item in missing[:_MOST_MISSING]]
    left = len(missing) - len(lines)
    return lines + ([f"  MISSING and {left:,} more; see `refbackup show {backup_id} --json`"] if left else [])
