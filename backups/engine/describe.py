"""What commands print: the JSON of ``docs/reference/cli.md``, and the same for people to read."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .archive.reader import Archives, locate_in
from .progress import human_bytes, human_seconds
from .repository.folder import Repository, Unreadable
from .types import Backup, Depth, Proof

if TYPE_CHECKING:
    from .create import Created
    from .repository.retention import Decision
    from .restore.to_folder import Restored


def created_json(created: Created) -> dict[str, Any]:
    """The JSON of ``create``."""
    manifest = created.backup.manifest
    return {
        "id": manifest.id,
        "set": manifest.set,
        "kind": manifest.kind,
        "parent": manifest.parent,
        "time": manifest.time.isoformat(),
        "bytes_source": manifest.bytes_source,
        "bytes_stored": manifest.bytes_stored,
        "seconds": round(created.seconds, 3),
        "pause_ms": manifest.pause_ms.model_dump(),
        "sources": [
            {
                "kind": record.kind,
                "name": record.name,
                "path": record.path,
                "method": record.method,
                "bytes": record.bytes,
                "files": record.files,
                "pause_ms": record.pause_ms,
                "problems": [problem.model_dump(mode="json") for problem in record.problems],
            }
            for record in manifest.sources
        ],
        "verification": created.backup.verification,
        "problems": [problem.model_dump(mode="json") for problem in problems_of(created.backup)],
        "reason": created.reason,
        "note": manifest.note,
        "log": list(manifest.log),
    }


def problems_of(backup: Backup) -> tuple[Any, ...]:
    """What is wrong with a backup: found when it was captured, and by its newest proof."""
    found = backup.manifest.problems
    if backup.failure is not None:
        found += tuple(problem for problem in backup.failure.problems if problem not in found)
    return found


def listed_json(item: Backup | Unreadable) -> dict[str, Any]:
    """One backup in the JSON of ``list``."""
    if isinstance(item, Unreadable):
        return {
            "id": item.id,
            "set": item.set,
            "kind": item.id.split("-")[1],
            "parent": None,
            "time": None,
            "bytes_source": None,
            "bytes_stored": None,
            "verified_at": None,
            "verification": "damaged",
            "hold": None,
            "note": item.problem.message,
        }
    manifest = item.manifest
    return {
        "id": manifest.id,
        "set": manifest.set,
        "kind": manifest.kind,
        "parent": manifest.parent,
        "time": manifest.time.isoformat(),
        "bytes_source": manifest.bytes_source,
        "bytes_stored": manifest.bytes_stored,
        "verified_at": item.verified_at.isoformat() if item.verified_at else None,
        "verification": item.verification,
        "hold": item.hold.note if item.hold else None,
        "note": manifest.note,
    }


def listed_text(items: list[Backup | Unreadable]) -> str:
    """A table of backups, newest first."""
    if not items:
        return "There is no backup yet. Make the first: refbackup create --repo REPO --sqlite FILE --chroma DIR"
    rows: list[tuple[str, ...]] = [("ID", "SET", "TIME (UTC)", "SOURCE", "STORED", "PROOF", "HOLD", "NOTE")]
    for item in items:
        if isinstance(item, Unreadable):
            rows.append((item.id, item.set, "", "", "", "DAMAGED", "", item.problem.message))
            continue
        manifest = item.manifest
        rows.append(
            (
                manifest.id,
                manifest.set,
                f"{manifest.time:%Y-%m-%d %H:%M:%S}",
                human_bytes(manifest.bytes_source),
                human_bytes(manifest.bytes_stored),
                item.verification.upper() if item.damaged else item.verification,
                "held" if item.hold else "",
                manifest.note,
            )
        )
    return table(rows, right=(3, 4))


def table(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> str:
    """Columns padded to their widest cell, those in *right* aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(widths[column]) if column in right else cell.ljust(widths[column]) for column, cell in enumerate(row)
        ).rstrip()
        for row in rows
    )


def created_text(created: Created) -> str:
    """What ``create`` tells a person."""
    manifest = created.backup.manifest
    lines = [
        f"{manifest.id}: {human_bytes(manifest.bytes_source)} in {human_bytes(manifest.bytes_stored)}, "
        f"{human_seconds(created.seconds)}; writers held up for {manifest.pause_ms.sqlite:.1f} ms (SQLite) "
        f"and {manifest.pause_ms.chroma:.1f} ms (Chroma); proof: {created.backup.verification}"
    ]
    lines += [f"  DAMAGED {problem.source or ''}: {problem.message}" for problem in problems_of(created.backup)]
    return "\n".join(lines)


def shown_json(backup: Backup) -> dict[str, Any]:
    """The JSON of ``show``: the manifest, proofs and hold."""
    return {
        **listed_json(backup),
        "manifest": backup.manifest.model_dump(mode="json"),
        "proofs": [proof.model_dump(mode="json") for proof in backup.proofs],
    }


def shown_text(backup: Backup) -> str:
    """What ``show`` tells a person."""
    manifest = backup.manifest
    lines = [
        f"{manifest.id} in set {manifest.set}" + (f": {manifest.note}" if manifest.note else ""),
        f"  instant   {manifest.time.isoformat(timespec='milliseconds')} on {manifest.host}",
        f"  parent    {manifest.parent or 'none: it needs no other backup'}",
        f"  size      {human_bytes(manifest.bytes_source)} in {human_bytes(manifest.bytes_stored)}",
        f"  pause     SQLite {manifest.pause_ms.sqlite:.1f} ms, Chroma {manifest.pause_ms.chroma:.1f} ms",
        f"  hold      {(backup.hold.note or 'held') if backup.hold else 'none'}",
        f"  proof     {backup.verification}",
    ]
    lines += [
        f"            {proof.time:%Y-%m-%d %H:%M:%S} UTC {proof.depth}: {'ok' if proof.ok else 'FAILED'}"
        f" in {human_seconds(proof.seconds)}"
        for proof in backup.proofs
    ]
    for record in manifest.sources:
        lines.append(f"  {record.prefix}  {human_bytes(record.bytes)}, {record.files} files, {record.method}")
        lines += [
            f"    {item.name}: {item.digest.count} records of {item.dimension or 0} dimensions" for item in record.collections
        ]
    lines += [f"  DAMAGED {problem.source or ''}: {problem.message}" for problem in problems_of(backup)]
    lines += [f"  log: {line}" for line in manifest.log]
    return "\n".join(lines)


def proof_json(proof: Proof) -> dict[str, Any]:
    """One result in the JSON of ``verify`` and ``drill``."""
    return {
        "id": proof.id,
        "ok": proof.ok,
        "depth": proof.depth,
        "seconds": proof.seconds,
        "bytes": proof.bytes,
        "problems": [problem.model_dump(mode="json") for problem in proof.problems],
        "checks": proof.checks,
    }


def proof_text(proof: Proof) -> str:
    """What ``verify`` tells a person of one backup."""
    rate = human_bytes(proof.bytes / proof.seconds) if proof.seconds else "-"
    lines = [
        f"{proof.id}: {'ok' if proof.ok else 'DAMAGED'} ({proof.depth}, {human_bytes(proof.bytes)} in "
        f"{human_seconds(proof.seconds)}, {rate}/s)"
    ]
    for problem in proof.problems:
        lines.append(f"  {problem.code}: {problem.message}")
        if problem.also_in:
            lines.append(f"    also needed by: {', '.join(problem.also_in)}")
    if proof.drill and "recovery_point_seconds" in proof.checks:
        age = human_seconds(proof.checks["recovery_point_seconds"])
        lines.append(f"  recovery took {human_seconds(proof.seconds)}, to an instant {age} ago")
    if probe := proof.checks.get("probe"):
        lines.append(
            f"  probe: {'ok' if probe['ok'] else 'FAILED with status ' + str(probe['status'])}, {probe['said'] or 'silent'}"
        )
    return "\n".join(lines)


def restored_json(restored: Restored) -> dict[str, Any]:
    """The JSON of ``restore``."""
    return {
        "id": restored.id,
        "to": restored.to,
        "seconds": restored.seconds,
        "bytes": restored.bytes,
        "checks": restored.checks,
        "dry_run": restored.dry_run,
        "lost": [asdict(block) for block in restored.lost],
    }


def restored_text(restored: Restored) -> str:
    """What ``restore`` tells a person."""
    if restored.dry_run:
        return (
            f"Dry run: {restored.checks['files']} files, {human_bytes(restored.bytes)} of {restored.id} would be "
            f"written to {restored.to}. Nothing was written."
        )
    rate = human_bytes(restored.bytes / max(restored.seconds, 1e-3))
    done = (
        f"{restored.id} restored to {restored.to}: {human_bytes(restored.bytes)} in "
        f"{human_seconds(restored.seconds)} ({rate}/s)"
    )
    if restored.checks.get("safety_backup"):
        done += f"\nWhat was there before is kept as {restored.checks['safety_backup']}"
    if restored.lost:
        done += f"\n{len(restored.lost)} blocks could not be read and are zeros now:"
    return "\n".join([done, *(f"  {b.path}, bytes {b.offset} to {b.offset + b.bytes}: {b.message}" for b in restored.lost)])


def pruned_text(decisions: tuple[Decision, ...], dry_run: bool) -> str:
    """What ``prune`` tells a person."""
    rows: list[tuple[str, ...]] = [("BACKUP", "", "WHY")]
    for decision in decisions:
        what = "keep" if decision.keep else ("would go" if dry_run else "removed")
        rows.append((decision.id, what, "; ".join(decision.reasons)))
    return table(rows)


def unreadable_json(item: Unreadable, depth: Depth) -> dict[str, Any]:
    """The result of ``verify`` for a backup whose manifest cannot be read."""
    return {
        "id": item.id,
        "ok": False,
        "depth": depth,
        "seconds": 0.0,
        "bytes": 0,
        "problems": [item.problem.model_dump(mode="json")],
        "checks": {},
    }


def files_of(repository: Repository, backup: Backup) -> dict[str, Any]:
    """The JSON of ``files``: every entry with its size, and how many of its bytes this backup's own archive stores."""
    with repository.reading(), Archives(locate_in(repository.backup_folder(backup.manifest.set, ""))) as archives:
        tree = archives.tree(backup.id)
        listed = [
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
    return {"id": backup.id, "files": listed}


def files_text(listed: dict[str, Any]) -> str:
    """What ``files`` tells a person."""
    rows: list[tuple[str, ...]] = [("MODE", "BYTES", "STORED HERE", "MODIFIED (UTC)", "PATH")]
    rows += [
        (
            item["mode"],
            str(item["bytes"]),
            str(item["stored_here"]),
            item["modified"][:19].replace("T", " "),
            item["path"],
        )
        for item in listed["files"]
    ]
    return table(rows, right=(1, 2))


def planned_text(planned: dict[str, Any]) -> str:
    """What a dry run of a restore in place tells a person."""
    rows: list[tuple[str, ...]] = [("STORE", "TARGET", "NOW", "AFTER", "HOW")]
    rows += [
        (
            item["store"],
            item["target"],
            human_bytes(item["bytes_now"]) if item["bytes_now"] is not None else "absent",
            human_bytes(item["bytes_after"]),
            item["how"],
        )
        for item in planned["targets"]
    ]
    return f"Dry run of restoring {planned['id']} in place. Nothing was changed.\n" + table(rows, right=(2, 3))
