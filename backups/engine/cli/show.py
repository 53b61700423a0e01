"""``refbackup show``"""

import argparse
from typing import Any

from ..check_stores import unchecked
from ..progress import counted, duration, human_bytes
from ..repository.soundness import results
from ..shrinkage import unconfirmed_loss
from ..types import Backup
from ..unfinished import mixture
from .arguments import add_id
from .call import Call, Outcome
from .list import listed_json
from .text import damage_lines, missing_json, missing_lines, proof_words, unchecked_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The backup."""
    add_id(parser)


def run(call: Call) -> Outcome:
    """Show manifest, proofs and hold."""
    repository = call.repository()
    backup = call.backup(repository)
    loss = unconfirmed_loss(repository.holds(backup.manifest.set), backup.id) if not backup.manifest.safety else ""
    return Outcome(_json(backup), "\n".join([_text(backup), *([f"  WARNING   {loss}"] if loss else [])]))


def _json(backup: Backup) -> dict[str, Any]:
    return {
        **listed_json(backup),
        "manifest": backup.manifest.model_dump(mode="json"),
        "proofs": [proof.model_dump(mode="json") for proof in results(backup)],
    }


def _text(backup: Backup) -> str:
    manifest = backup.manifest
    lines = [
        f"{manifest.id} in set {manifest.set}" + (f": {manifest.note}" if manifest.note else ""),
        f"  cut       {manifest.time.isoformat(timespec='milliseconds')} on {manifest.host}",
        f"  parent    {manifest.parent or 'none'}",
        *([f"  key       of the chain {manifest.encryption.chain}"] if manifest.encryption else []),
        f"  size      {human_bytes(manifest.bytes_source)} in {human_bytes(manifest.bytes_stored)}",
        f"  pause     SQLite {manifest.pause_ms.sqlite:.1f} ms, Chroma {manifest.pause_ms.chroma:.1f} ms",
        f"  hold      {(backup.hold.reason or 'held') if backup.hold else 'none'}",
        f"  proof     {proof_words(backup)}",
    ]
    if manifest.locked:
        lines.append("  ENCRYPTED no key here opens it: name one in BACKUP_ENCRYPTION_KEY")
    if mixed := mixture(manifest):
        lines.append(f"  MIXED     {mixed}")
    lines += [
        f"            {proof.time:%Y-%m-%d %H:%M:%S} UTC {proof.depth}: {'ok' if proof.ok else 'FAILED'}"
        f" in {duration(proof.seconds)}"
        for proof in results(backup)
    ]
    for record in manifest.sources:
        lines.append(f"  {record.prefix}  {human_bytes(record.bytes)}, {counted(record.files, 'file')}, {record.method}")
        lines += [f"    excluded: {', '.join(record.exclude)}"] if record.exclude else []
        lines += [
            f"    {item.name}: {counted(item.digest.count, 'record')} of {counted(item.dimension or 0, 'dimension')}"
            for item in record.collections
        ]
    return "\n".join(
        [
            *lines,
            *damage_lines(backup),
            *unchecked_lines(unchecked(backup)),
            *missing_lines(manifest.id, missing_json(manifest.sources)),
            *(f"  log: {line}" for line in manifest.log),
        ]
    )
