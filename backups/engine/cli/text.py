"""What several commands print."""

from __future__ import annotations

from typing import Any

from ..types import Backup, Manifest, Problem


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
    }


def problems_of(backup: Backup) -> tuple[Problem, ...]:
    """The problems found when *backup* was captured, and those of its newest standing failure."""
    problems = backup.manifest.problems
    if backup.failure is not None:
        problems += tuple(problem for problem in backup.failure.problems if problem not in problems)
    return problems


def damage_lines(backup: Backup) -> list[str]:
    """A line for each of `problems_of`."""
    return [f"  DAMAGED {problem.source or ''}: {problem.message}" for problem in problems_of(backup)]
