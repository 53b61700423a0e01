"""``refbackup create``"""

import argparse
from typing import Any

from ..application_check import ApplicationCheck
from ..check_stores import unchecked
from ..config import check_note, check_patterns, check_set_name
from ..create import Created, Request, create_backup
from ..progress import duration, human_bytes
from ..shrinkage import unconfirmed_loss
from ..types import BackupKind, Depth
from .arguments import add_examine, add_heartbeat, add_sources, seconds
from .call import Call, Outcome
from .text import damage_lines, manifest_json, missing_json, missing_lines, proof_words, unchecked_lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sources, kind, and how to verify."""
    add_heartbeat(parser, "BACKUP_HEARTBEAT_URL")
    add_sources(parser)
    parser.add_argument(
        "--kind", choices=[kind.value for kind in BackupKind], default=BackupKind.FULL.value, help="default: full"
    )
    parser.add_argument("--note", default="", metavar="TEXT", help="stored with the backup")
    parser.add_argument("--job", default="", metavar="NAME", help="caller's name for this run; stored in the manifest")
    parser.add_argument("--verify", choices=("none", "hashes", "restore"), help="how to verify it (BACKUP_VERIFY_FULL, ...)")
    parser.add_argument("--no-verify", dest="verify", action="store_const", const="none", help="do not verify it")
    parser.add_argument(
        "--force", action="store_true", help="also back up stores that an interrupted restore left of different times"
    )
    add_examine(parser)
    parser.add_argument(
        "--exclude", action="append", metavar="PATTERN", help="leave out of folders of files what matches (BACKUP_EXCLUDE)"
    )
    parser.add_argument("--wait", type=seconds, default=0.0, metavar="SECONDS", help="wait for the repository's lock")
    parser.add_argument("--within", type=seconds, default=30.0, metavar="SECONDS", help="time limit for taking the cut")
    parser.add_argument(
        "--max-pause", type=seconds, default=1.0, metavar="SECONDS", help="hold writers up for at most this long (default: 1)"
    )


def run(call: Call) -> Outcome:
    """Make the backup; exit code 6 if a source is damaged, or if something is missing from the backup."""
    arguments = call.arguments
    kind = BackupKind(arguments.kind)
    depth = call.settings.verify_incremental if kind is BackupKind.INCREMENTAL else call.settings.verify_full
    if arguments.verify is not None:
        depth = None if arguments.verify == "none" else Depth(arguments.verify)
    request = Request(
        sources=call.sources(),
        set=check_set_name(arguments.set or "default"),
        kind=kind,
        note=check_note(arguments.note),
        verify=depth,
        wait=arguments.wait,
        within=arguments.within,
        max_pause=arguments.max_pause,
        force=arguments.force,
        job=check_note(arguments.job),
        allowance=call.settings.allowance,
        exclude=check_patterns(arguments.exclude) if arguments.exclude else call.settings.exclude,
        reread_hours=call.settings.reread_hours,
        application=ApplicationCheck(examine=arguments.examine or call.settings.examine_command),
    )
    repository = call.repository()
    created = create_backup(repository, request, call.ctx)
    if loss := unconfirmed_loss(repository.holds(request.set), created.backup.id):
        call.warn(f"{loss}.")
    return Outcome(_json(created), _text(created), 6 if created.backup.damaged or created.backup.manifest.incomplete else 0)


def _json(created: Created) -> dict[str, Any]:
    manifest = created.backup.manifest
    return {
        **manifest_json(manifest),
        "seconds": round(created.seconds, 3),
        "pause_ms": manifest.pause_ms.model_dump(),
        "sources": [
            record.model_dump(mode="json", include={"kind", "name", "path", "method", "bytes", "files", "pause_ms", "problems"})
            for record in manifest.sources
        ],
        "verification": created.backup.verification,
        "problems": [problem.model_dump(mode="json") for problem in created.backup.problems],
        "unchecked": unchecked(created.backup),
        "missing": missing_json(manifest.sources),
        "shrunk": [item.model_dump(mode="json") for item in manifest.shrunk],
        "reason": created.reason,
        "note": manifest.note,
        "log": list(manifest.log),
    }


def _text(created: Created) -> str:
    manifest = created.backup.manifest
    line = (
        f"{manifest.id}: {human_bytes(manifest.bytes_source)} in {human_bytes(manifest.bytes_stored)}, "
        f"{duration(created.seconds)}; writers paused for {manifest.pause_ms.sqlite:.1f} ms (SQLite) "
        f"and {manifest.pause_ms.chroma:.1f} ms (Chroma); proof: {proof_words(created.backup)}"
    )
    less = [f"  WARNING {item.message}; that backup is held until `refbackup release`" for item in manifest.shrunk]
    missing = missing_lines(manifest.id, missing_json(manifest.sources))
    return "\n".join([line, *damage_lines(created.backup), *unchecked_lines(unchecked(created.backup)), *missing, *less])
