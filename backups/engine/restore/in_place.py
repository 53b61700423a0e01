"""Restores a backup over the stores of a running application.

SQLite is replaced through the online backup API in one transaction: open connections see the new rows, old readers keep their
snapshot, and writers wait. Chroma directories and folders of files are exchanged in one step. An application that uses the gate
(`gate`) may keep Chroma open; others must be stopped by a command, or not have the directory open.
"""

from __future__ import annotations

import sqlite3
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..capture.owners import owners
from ..chroma_files.tables import DATABASE
from ..create import Request, create_backup
from ..errors import (
    Cancelled,
    DamageFound,
    EngineError,
    NoSpace,
    RestoreIncomplete,
    RestoreRefused,
    RestoreUndone,
    from_os_error,
)
from ..repository.base import DATA
from ..repository.folder import Repository
from ..runtime import durable, folders
from ..runtime.context import Context
from ..types import Backup, BackupKind, Depth, Hold, Problem, Source, SourceKind
from ..unfinished import Journal, JournalStore, UnfinishedExchange, end_journals, exclusive_restore, interrupted, write_journal
from ..verify import record_failure
from .commands import NO_COMMANDS, Commands
from .exchange import OpenStores, complete_swap, exchange_stores
from .keep import keep_outside
from .roll_back import chroma_positions, quick_check, roll_back
from .stage import check_staged, fit_to_live, stage
from .targets import Target, find_targets, folders_of, refuse_nested
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
    3. Run the ``stop`` command.                                                         the same
    4. Make a safety backup of the live stores in the same repository and set; hold it.  and that backup
    5. Record the exchange (`unfinished`). Lock all databases, then all gates; exchange  each store either old or new, and
       the folders; commit the databases.                                                the record
    6. Check the live stores, and run the ``check`` command. If either fails, roll back. the same
    7. Remove the record. Run the ``start`` command, also after an error.                staging folders
    ==================================================================================== ==============================

    A crash after the record was written is finished or undone by `finish_exchange`, or by a restore of all its stores. If a
    lock in step 5 takes longer than *wait* seconds, nothing is changed.

    Raises `RepositoryLocked` if another restore is running there, `ExchangeUnfinished` if one was interrupted and this one
    would not replace all its stores, `DamageFound`, `RestoreRefused` (nothing was changed), `RestoreUndone` (rolled back),
    `RestoreIncomplete` (says what is where).
    """
    began = time.monotonic()
    targets = find_targets(select(backup, only), sources, ctx, whole=only is None)
    refuse_nested(targets, repository, backup, sources)
    try:
        with exclusive_restore(target.path for target in targets) as own:
            exchange = _Exchange(repository, backup, targets, only, commands, wait, ctx, own)
            size, checks = exchange.run()
    except OSError as problem:
        raise from_os_error(problem, "Restoring in place") from problem
    return Restored(
        id=backup.id,
        to=", ".join(str(target.path) for target in targets),
        seconds=round(time.monotonic() - began, 3),
        bytes=size,
        checks=checks,
    )


def finish_exchange(
    exchange: UnfinishedExchange,
    repository: Repository,
    ctx: Context,
    *,
    undo: bool = False,
    commands: Commands = NO_COMMANDS,
    wait: float = 30.0,
) -> Restored:
    """Restore again what an interrupted restore in place was restoring, or, to *undo* it, its safety backup.

    Both can be repeated after a crash of their own. Raises what `restore_in_place` raises, and `RestoreRefused` if the record
    cannot be read, or if it cannot be undone.
    """
    journal = exchange.journal
    if journal is None:
        raise RestoreRefused(exchange.message, hint="Restore a backup of all stores in place. Nothing was changed.")
    if not undo:
        backup = repository.load(journal.set, journal.backup)
        return restore_in_place(repository, backup, exchange.sources, ctx, only=journal.only, commands=commands, wait=wait)
    new = [str(store.path) for store in journal.targets if not store.existed]
    if new:
        raise RestoreRefused(
            f"The restore of {journal.backup} cannot be undone: {', '.join(new)} did not exist before it. Nothing was changed.",
            hint="Finish it with `refbackup restore --finish`.",
        )
    backup = repository.load(journal.set, journal.safety_backup)
    return restore_in_place(repository, backup, exchange.sources, ctx, commands=commands, wait=wait)


class _Exchange:
    """One restore in place, under the lock. *wait* limits the wait for each lock, in seconds."""

    def __init__(
        self,
        repository: Repository,
        backup: Backup,
        targets: list[Target],
        only: str | None,
        commands: Commands,
        wait: float,
        ctx: Context,
        own: Callable[[Iterable[Path]], None],
    ) -> None:
        self._own = own
        self._repository = repository
        self._backup = backup
        self._targets = targets
        self._only = only
        self._commands = commands
        self._wait = wait
        self._ctx = ctx
        self._folders = sorted({target.stage for target in targets})
        self._earlier = self._find_earlier()
        self._safety = ""

    def run(self) -> tuple[int, dict[str, Any]]:
        """Returns the bytes written and the results of the checks."""
        for target in folders_of(self._targets):
            target.refuse_open(self._commands, stopped=False)
        try:
            size = self._stage()
            checks = check_staged(self._repository, self._backup, self._targets, self._ctx)
            self._exchange_between_commands()
        except BaseException as problem:
            if not _is_mixed(problem):
                self._remove_stages(self._folders)
            raise
        self._remove_stages([*self._folders, *(self._earlier.folders if self._earlier else ())])
        return size, {**checks, "safety_backup": self._safety}

    def _stage(self) -> int:
        """Stage the replacements; damage is recorded, so that ``latest`` skips the backup. Raises `DamageFound`."""
        try:
            return stage(self._repository, self._backup, self._targets, self._ctx)
        except DamageFound as damage:
            problem = Problem(code="restore", message=damage.message, file=DATA, offset=damage.details.get("offset"))
            record_failure(self._repository, self._backup, Depth.HASHES, [problem], self._ctx, damage=damage)
            raise

    def _find_earlier(self) -> UnfinishedExchange | None:
        """An interrupted exchange of these stores, which this restore completes. Raises `ExchangeUnfinished`."""
        paths = [target.path for target in self._targets]
        earlier = interrupted(paths)
        if earlier is None:
            return None
        covered = (
            self._only is None if earlier.journal is None else {store.path for store in earlier.journal.targets} <= set(paths)
        )
        if not covered:
            raise earlier.as_error("This restore would not replace all of them. Nothing was changed.")
        for target in folders_of(self._targets):
            for folder in earlier.folders:
                complete_swap(target, folder)
        return earlier

    def _exchange_between_commands(self) -> None:
        """Steps 3 to 7."""
        try:
            self._commands.run_stop(self._ctx)
            saved = self._make_safety_backup()
            self._prepare_replacements(saved)
            journal = self._journal(saved.id if saved is not None else "")
            self._safety = journal.safety_backup
            self._own(self._folders)
            write_journal(self._folders, journal)
            durable.reach("in-place-recorded")
            _exchange_and_check(self._targets, self._commands, self._wait, self._ctx)
        except RestoreIncomplete as problem:
            if not _is_mixed(problem):
                self._end()
            where = (
                f"The safety backup is {self._safety}."
                if self._safety
                else "No store existed before, so there is no safety backup."
            )
            raise type(problem)(
                f"{problem.message} {where}", hint=problem.hint, **{**problem.details, "safety_backup": self._safety}
            ) from problem
        except BaseException:
            end_journals(self._folders)
            self._commands.run_start(self._ctx)
            raise
        durable.reach("in-place-checked")
        if failure := self._end():
            raise RestoreIncomplete(
                f"{self._backup.id} is restored, but the application was not started: {failure}",
                hint="Start the application yourself; the data is in place and was checked.",
                safety_backup=self._safety,
                restored=True,
            )

    def _end(self) -> str | None:
        """Record that all stores are of one time, and start the application. Returns why it could not be started."""
        end_journals([*self._folders, *(self._earlier.folders if self._earlier else ())])
        return self._commands.run_start(self._ctx)

    def _journal(self, safety: str) -> Journal:
        """The record of this exchange. One that completes an earlier exchange keeps naming what finishes or undoes that."""
        earlier = self._earlier.journal if self._earlier is not None else None
        token, began = self._ctx.token(), self._ctx.now()
        if earlier is not None and {store.path for store in earlier.targets} == {target.path for target in self._targets}:
            safety = earlier.safety_backup
            if self._backup.id in (earlier.backup, earlier.safety_backup):
                return earlier.model_copy(update={"token": token, "began": began})
        return Journal(
            token=token,
            began=began,
            repository=self._repository.folder.resolve(),
            set=self._backup.manifest.set,
            backup=self._backup.id,
            safety_backup=safety,
            only=self._only,
            targets=tuple(
                JournalStore(
                    kind=target.record.kind, name=target.record.name, path=target.path, existed=_can_be_backed_up(target)
                )
                for target in self._targets
            ),
        )

    def _prepare_replacements(self, saved: Backup | None) -> None:
        """Make the staged stores fit to take the place of the live ones, and durable."""
        records = {(record.kind, record.name): record for record in (saved.manifest.sources if saved is not None else ())}
        for target in self._targets:
            fit_to_live(target)
            if target.record.kind is not SourceKind.SQLITE:
                keep_outside(target, records.get((target.record.kind, target.record.name)), self._ctx.now(), self._ctx)
        for folder in self._folders:
            durable.sync_tree_folders(folder)

    def _make_safety_backup(self) -> Backup | None:
        """Back up the live stores, and hold that backup. None if no store exists."""
        existing = tuple(
            Source(kind=target.record.kind, name=target.record.name, path=target.path)
            for target in self._targets
            if _can_be_backed_up(target)
        )
        if not existing:
            self._ctx.log("None of the targets exists, so no safety backup is made.")
            return None
        state = "the mixed stores, " if self._earlier is not None else ""
        note = f"safety: {state}before the restore of {self._backup.id}"
        request = Request(
            sources=existing,
            set=self._backup.manifest.set,
            kind=BackupKind.INCREMENTAL,
            note=note,
            verify=Depth.HASHES,
            wait=60.0,
            within=self._wait,
            safety=True,
        )
        try:
            created = create_backup(self._repository, request, replace(self._ctx, lines=[]))
        except (Cancelled, NoSpace):
            raise
        except EngineError as problem:
            raise RestoreRefused(
                f"The safety backup failed: {problem.message} Nothing was changed.", hint=problem.hint, reason=problem.code
            ) from problem
        self._repository.set_hold(created.backup, Hold(time=self._ctx.now(), note=note))
        self._ctx.log(f"Safety backup of the live data: {created.backup.id}")
        return created.backup

    @staticmethod
    def _remove_stages(folders: list[Path]) -> None:
        end_journals(folders)
        for folder in folders:
            durable.remove_tree(folder)


def _can_be_backed_up(target: Target) -> bool:
    return (target.path / DATABASE if target.record.kind is SourceKind.CHROMA else target.path).exists()


def _is_mixed(problem: BaseException) -> bool:
    return isinstance(problem, RestoreIncomplete) and bool(problem.details.get("mixed"))


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
                restored=True,
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
