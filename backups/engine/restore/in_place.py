"""Restores a backup over the stores of a running application.

SQLite is replaced through the online backup API in one transaction: open connections see the new rows, old readers keep their
snapshot, and writers wait. Chroma directories and folders of files are exchanged in one step. An application that uses the gate
(`gate`) may keep Chroma open; others must be stopped by a command, or not have the directory open.
"""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..capture.owners import owners
from ..chroma_files.tables import DATABASE
from ..create import Request, create_backup
from ..errors import Cancelled, EngineError, NoSpace, RestoreIncomplete, RestoreRefused, RestoreUndone, from_os_error
from ..repository.folder import Repository
from ..runtime import durable, folders
from ..runtime.context import Context
from ..types import Backup, BackupKind, Depth, Hold, Source, SourceKind
from .commands import NO_COMMANDS, Commands
from .exchange import OpenStores, exchange_stores
from .roll_back import chroma_positions, quick_check, roll_back
from .stage import check_staged, fit_to_live, stage, write_journal
from .targets import Target, find_targets, refuse_nested
from .to_folder import Restored, check_manifest, select


def restore_in_place(
    repository: Repository,
    backup: Backup,
    sources: tuple[Source, ...],
    ctx: Context,
    *,
    only: str | None = None,
    commands: Commands = NO_COMMANDS,
    wait: float = 30.0,
) -> Restored:
    """Replace the stores at *sources* (matched by kind and name; by default where *backup* was made) with those of *backup*.

    ==================================================================================== ==============================
    step                                                                                 a crash leaves
    ==================================================================================== ==============================
    1. Check the targets: folders, mounts, who has a Chroma directory open.              nothing
    2. Stage each replacement beside its target and check it.                            staging folders
    3. Make a safety backup of the live stores in the same repository and set; hold it.  and that backup
    4. Run the ``stop`` command.                                                         the same
    5. Lock all databases, then all gates; exchange the folders; commit the databases.   each store either old or new
    6. Check the live stores, and run the ``check`` command. If either fails, roll back. the same
    7. Run the ``start`` command, also after an error.                                   the same
    ==================================================================================== ==============================

    ``doctor`` reports a restore that crashed. If a lock in step 5 takes longer than *wait* seconds, nothing is changed.

    Raises `RestoreRefused` (nothing was changed), `RestoreUndone` (rolled back), `RestoreIncomplete` (says what is where).
    """
    began = time.monotonic()
    targets = find_targets(select(backup, only), sources, ctx, whole=only is None)
    refuse_nested(targets, repository, backup, sources)
    for target in targets:
        target.refuse_open_chroma(commands)
    try:
        with contextlib.ExitStack() as stages:
            for target in targets:
                stages.callback(durable.remove_tree, target.stage)
            size = stage(repository, backup, targets, ctx)
            checks = check_staged(repository, backup, targets, ctx)
            for target in targets:
                fit_to_live(target)
            safety = _make_safety_backup(repository, backup, targets, wait, ctx)
            write_journal(targets, backup, phase="exchanging", safety=safety)
            _exchange_between_commands(backup, targets, safety, commands, wait, ctx)
    except OSError as problem:
        raise from_os_error(problem, "Restoring in place") from problem
    return Restored(
        id=backup.id,
        to=", ".join(str(target.path) for target in targets),
        seconds=round(time.monotonic() - began, 3),
        bytes=size,
        checks={**checks, "safety_backup": safety},
    )


def _make_safety_backup(repository: Repository, backup: Backup, targets: list[Target], wait: float, ctx: Context) -> str:
    """Back up the live stores, and hold that backup. Returns its id, or "" if no store exists."""
    existing = tuple(
        Source(kind=target.record.kind, name=target.record.name, path=target.path)
        for target in targets
        if (target.path / DATABASE if target.record.kind is SourceKind.CHROMA else target.path).exists()
    )
    if not existing:
        ctx.log("None of the targets exists, so no safety backup is made.")
        return ""
    note = f"safety: before the restore of {backup.id}"
    request = Request(
        sources=existing,
        set=backup.manifest.set,
        kind=BackupKind.INCREMENTAL,
        note=note,
        verify=Depth.HASHES,
        wait=60.0,
        within=wait,
        safety=True,
    )
    try:
        created = create_backup(repository, request, replace(ctx, lines=[]))
    except (Cancelled, NoSpace):
        raise
    except EngineError as problem:
        raise RestoreRefused(
            f"The safety backup failed: {problem.message} Nothing was changed.", hint=problem.hint, reason=problem.code
        ) from problem
    repository.set_hold(created.backup, Hold(time=ctx.now(), note=note))
    ctx.log(f"Safety backup of the live data: {created.backup.id}")
    return created.backup.id


def _exchange_between_commands(
    backup: Backup, targets: list[Target], safety: str, commands: Commands, wait: float, ctx: Context
) -> None:
    """Steps 4 to 7."""
    try:
        commands.run_stop(ctx)
        _exchange_and_check(targets, commands, wait, ctx)
    except RestoreIncomplete as problem:
        commands.run_start(ctx)
        where = f"The safety backup is {safety}." if safety else "There is no safety backup, because no store existed."
        raise RestoreIncomplete(f"{problem.message} {where}", hint=problem.hint, safety_backup=safety) from problem
    except BaseException:
        commands.run_start(ctx)
        raise
    if failure := commands.run_start(ctx):
        raise RestoreIncomplete(
            f"{backup.id} is restored, but the application was not started: {failure}",
            hint="Start the application yourself; the data is in place and was checked.",
            safety_backup=safety,
            restored=True,
        )


def _exchange_and_check(targets: list[Target], commands: Commands, wait: float, ctx: Context) -> None:
    """Steps 5 and 6."""
    with OpenStores() as opened:
        try:
            with ctx.phase("restore", "exchange"):
                exchange_stores(targets, opened, commands, wait)
                durable.reach("in-place-exchanged")
        except (OSError, sqlite3.Error) as problem:
            roll_back(targets, opened, wait)
            raise RestoreUndone(f"The exchange failed and was rolled back: {problem}.") from problem
        except BaseException:
            roll_back(targets, opened, wait)
            raise
        opened.remember_versions()
        positions = chroma_positions(targets)
        failure = quick_check(targets)
        if failure is None:
            opened.open_gates()
            failure = commands.run_check(ctx)
        if failure is None:
            return
        if any(opened.written(name) for name in opened.live) or chroma_positions(targets) != positions:
            raise RestoreIncomplete(
                f"{failure} It was not rolled back, because the application has written to the restored data since.",
                hint="Stop the application and restore the safety backup with `refbackup restore ID --in-place`.",
            )
        roll_back(targets, opened, wait)
        raise RestoreUndone(f"{failure} The restore was rolled back.")


def plan_in_place(
    repository: Repository, backup: Backup, sources: tuple[Source, ...], *, only: str | None = None
) -> dict[str, Any]:
    """What `restore_in_place` would do: ``{"id", "dry_run", "targets": [{"store", "target", "bytes_now", ...}]}``.

    Raises the errors of step 1, and `DamageFound` if the manifest was changed.
    """
    targets = find_targets(select(backup, only), sources, Context(), whole=only is None)
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
