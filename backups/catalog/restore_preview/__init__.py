"""Preview of a restore: changes of rows, vectors, files and accounts, and the space and time that it needs.

The SQLite files of the backup are restored into the repository's scratch folder and compared with the live ones. This runs in a
process of its own (`manage.py backup_preview`): it connects to live databases, so it reads none of their files raw, and it
does not open Chroma with a client. A broken or missing live store is part of the answer and not an error: that is when people
restore.

========== =======================================================================================================
field      meaning
========== =======================================================================================================
in_place   ``possible``, ``why`` not, ``hint``, and for each target ``store, target, bytes_now, bytes_after, how``
space      for each folder next to which stores are staged: ``place, needed, free, enough``
seconds    ``estimate`` and the backup ``from`` which it was measured
mixture    a sentence if the backup's stores may be of different times, else ""
state      `live_state` of the live stores when the preview began
sqlite     for each database ``tables`` (rows ``before``, ``after``, how they ``differ``, ``names`` of some), ``schema``,
           ``migrations``
chroma     for each directory ``collections`` with records ``before`` and ``after``
files      for each folder counts and bytes, and which files ``appear``, ``vanish``, ``change``
accounts   `account_changes.compare` after what is ``withheld``; None when their database is not restored
code       triggers, views and embedding functions that the live stores do not have (`new_code`)
========== =======================================================================================================

Each store has ``live``: ``ok``, ``missing``, ``broken``, ``busy`` or ``unknown`` (not this project's), and ``why``.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from backups.engine.archive.table import Tree
from backups.engine.chroma_files.tables import DATABASE
from backups.engine.config import check_set_name
from backups.engine.errors import EngineError, from_os_error
from backups.engine.extract import extract
from backups.engine.repository.folder import Repository
from backups.engine.restore.dry_run import plan_in_place
from backups.engine.restore.to_folder import plan, select, wanted_by
from backups.engine.runtime.context import Context
from backups.engine.runtime.space import need_space
from backups.engine.types import Backup, Depth, Source, SourceKind, SourceRecord
from backups.engine.unfinished import mixture
from backups.models import IndexedBackup

from .code import new_code
from .databases import compare_accounts, compare_database
from .live import Comparison
from .state import live_state
from .stores import compare_chroma, compare_files


def preview(
    repository: Repository, backup: Backup, sources: Sequence[Source] | None, ctx: Context, *, only: str | None = None
) -> dict[str, Any]:
    """The changes that restoring *backup* in place would make, as JSON with the fields above.

    *sources* are the live stores of its set; None for a set of another application, whose stores are not read. Raises
    `DamageFound`, `NoSpace`, `UsageError` and `Cancelled`. The scratch folder is removed even if this process is killed.
    """
    began = time.monotonic()
    records = select(backup, only)
    live = {(source.kind, source.name): source.path for source in sources or ()}
    state = live_state(sources or (), only)
    try:
        with repository.scratch_folder(ctx.token()) as scratch, _guarded(scratch):
            comparison = Comparison(repository, backup, ctx, scratch, live)
            tree = _restore_databases(comparison, records)
            answer = {
                "id": backup.id,
                "set": backup.manifest.set,
                "kind": backup.manifest.kind,
                "time": backup.manifest.time.isoformat(),
                "age_seconds": round((ctx.now() - backup.manifest.time).total_seconds(), 1),
                "only": only,
                "state": state,
                "damaged": backup.damaged,
                "mixture": mixture(backup.manifest),
                "in_place": _possible_in_place(comparison, sources, only),
                "space": _needed_space(comparison, records),
                "seconds": _estimate_seconds(backup, records),
                "sqlite": [compare_database(comparison, record) for record in records if record.kind is SourceKind.SQLITE],
                "chroma": [compare_chroma(comparison, record) for record in records if record.kind is SourceKind.CHROMA],
                "files": [compare_files(comparison, record, tree) for record in records if record.kind is SourceKind.FILES],
                "accounts": compare_accounts(comparison, records),
                "code": new_code(comparison, records),
            }
    except OSError as problem:
        raise from_os_error(problem, f"Previewing the restore of {backup.id}") from problem
    return {**answer, "took_seconds": round(time.monotonic() - began, 3)}


@contextlib.contextmanager
def _guarded(scratch: Path) -> Iterator[None]:
    """A guard process removes the scratch folder if this process is killed."""
    remove = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", remove, str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},  # without the job's id, so that ending all processes of a killed job spares the guard
        start_new_session=True,  # not signalled with the group of this process
    )
    try:
        yield
    finally:
        guard.kill()
        guard.communicate()


def _restore_databases(comparison: Comparison, records: tuple[SourceRecord, ...]) -> Tree:
    """Restore the SQLite files into scratch, Chroma's too, verifying each block. Returns the backup's tree."""
    databases = tuple(record for record in records if record.kind is SourceKind.SQLITE)
    of_chroma = {f"{record.prefix}/{DATABASE}" for record in records if record.kind is SourceKind.CHROMA}
    of_sqlite = wanted_by(databases)
    with comparison.repository.reading():
        archives, tree, size = plan(comparison.repository, comparison.backup, databases)
        size += sum(tree.entries[path].size for path in of_chroma & tree.entries.keys())
        with archives:
            need_space(comparison.repository.folder, size, f"preview the restore of {comparison.backup.id}")
            with comparison.ctx.phase("preview", "restore", size) as phase:
                if databases or of_chroma:
                    extract(
                        archives,
                        tree,
                        comparison.scratch,
                        phase,
                        wanted=lambda path: path in of_chroma or of_sqlite(path),
                        sync=False,
                    )
    return tree


def _possible_in_place(comparison: Comparison, sources: Sequence[Source] | None, only: str | None) -> dict[str, Any]:
    if sources is None:
        why = f"The set {comparison.backup.manifest.set} is not one of this project: its live stores are not known here."
        return {"possible": False, "why": why, "hint": "Restore it into a folder.", "targets": []}
    try:
        planned = plan_in_place(comparison.repository, comparison.backup, tuple(sources), only=only)
    except EngineError as problem:
        return {"possible": False, "why": problem.message, "hint": problem.hint, "targets": []}
    return {"possible": True, "why": "", "hint": "", "targets": planned["targets"]}


def _needed_space(comparison: Comparison, records: tuple[SourceRecord, ...]) -> list[dict[str, Any]]:
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


def _estimate_seconds(backup: Backup, records: tuple[SourceRecord, ...]) -> dict[str, Any]:
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
