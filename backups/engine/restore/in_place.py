"""Restores a backup over the stores of a running application.

SQLite is replaced through the online backup API in one transaction: open connections see the new rows, old readers keep their
snapshot, and writers wait. Chroma directories and folders of files are exchanged in one step. An application that uses the gate
(`gate`) may keep Chroma open; others must be stopped by a command, or not have the directory open.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from ..check_stores import Findings
from ..errors import (
    DamageFound,
    RestoreIncomplete,
    RestoreRefused,
    RestoreUndone,
    from_os_error,
)
from ..repository.folder import Repository
from ..runtime import durable
from ..runtime.context import Context
from ..types import Backup, Depth, Problem, Source
from ..unfinished import (
    Journal,
    JournalStore,
    UnfinishedExchange,
    end_journals,
    exclusive_restore,
    interrupted,
    remove_abandoned,
    write_journal,
)
from ..verify import record_failure
from .attributes import carry_attributes
from .commands import NO_COMMANDS, Commands
from .exchange import OpenStores, complete_swap, exchange_stores
from .keep import entries_of, keep_outside, keep_unsaved
from .roll_back import chroma_positions, quick_check, roll_back
from .safety import can_be_backed_up, discard, make_safety_backup
from .stage import check_staged, fit_to_live, stage
from .targets import Target, find_targets, folders_of, refuse_nested
from .to_folder import Restored
from .vacate import refuse_in_use, vacate, vacated
from .writes import StoreWritten, Watch

_TRIES = 3
"""Safety backups, each made because a store was written to after the one before."""


def restore_in_place(
    repository: Repository,
    backup: Backup,
    sources: tuple[Source, ...],
    ctx: Context,
    *,
    only: str | None = None,
    commands: Commands = NO_COMMANDS,
    wait: float = 30.0,
    created: tuple[Source, ...] = (),
) -> Restored:
    """Replace the stores at *sources* (matched by kind and name; by default where *backup* was made) with those of *backup*.

    ==================================================================================== ==============================
    step                                                                                 a crash leaves
    ==================================================================================== ==============================
    1. Check the targets: folders, mounts, who has a Chroma directory open.              nothing
    2. Stage each replacement beside its target and check it.                            staging folders
    3. Run the ``stop`` command.                                                         the same
    4. Make a safety backup of the live stores in the same repository and set; hold it.  and that backup
    5. Record the exchange (`unfinished`). Lock all databases, then all gates; go back   each store either old or new, and
       to 4 if a store was written to since; exchange the folders; commit the databases. the record
    6. Check the live stores, and run the ``check`` command. If either fails, roll back. the same
       Move aside what is *created* (`vacate`): an undo gives the stores that the restore
       which it undoes had made.
    7. Remove the record. Run the ``start`` command, also after an error.                staging folders
    ==================================================================================== ==============================

    A crash after the record was written is finished or undone by `ending.finish_exchange`, or by a restore of all its stores.
    If a lock in step 5 takes longer than *wait* seconds, or the stores do not rest, nothing is changed. The stores of a safety
    backup are restored as they were, also damaged ones; the result names them.

    Raises `RepositoryLocked` if another restore is running there, `ExchangeUnfinished` if one was interrupted and this one
    would not replace all its stores, `DamageFound`, `RestoreRefused` (nothing was changed), `RestoreUndone` (rolled back),
    `RestoreIncomplete` (says what is where).
    """
    began = time.monotonic()
    targets, new = find_targets(backup, only, sources, ctx), vacated(created)
    refuse_nested(targets, repository, backup, sources)
    try:
        paths = [target.path for target in (*targets, *new)]
        with exclusive_restore(paths) as own:
            remove_abandoned(paths, ctx.log)
            exchange = _Exchange(repository, backup, targets, new, only, commands, wait, ctx, own)
            size, findings = exchange.run()
    except OSError as problem:
        raise from_os_error(problem, "Restoring in place") from problem
    return Restored(
        id=backup.id,
        to=", ".join(str(target.path) for target in targets),
        seconds=round(time.monotonic() - began, 3),
        bytes=size,
        checks={**findings.checks, "safety_backup": exchange.safety, **({"moved_aside": exchange.moved} if created else {})},
        damaged=tuple(problem.model_dump(mode="json") for problem in findings.problems),
    )


class _Exchange:
    """One restore in place, under the lock. *wait* limits the wait for each lock, in seconds."""

    def __init__(
        self,
        repository: Repository,
        backup: Backup,
        targets: list[Target],
        new: list[Target],
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
        self._new = new
        self._only = only
        self._commands = commands
        self._wait = wait
        self._ctx = ctx
        self._began = ctx.now()
        self._folders = sorted({target.stage for target in targets})
        self._earlier = self._find_earlier()
        self.safety = ""
        self.moved: dict[str, str] = {}

    def run(self) -> tuple[int, Findings]:
        """Returns the bytes written and the results of the checks."""
        for target in folders_of(self._targets):
            target.refuse_open(self._commands, stopped=False)
        try:
            size = self._stage()
            findings = check_staged(self._repository, self._backup, self._targets, self._ctx)
            self._exchange_between_commands()
        except BaseException as problem:
            if not _is_mixed(problem):
                self._remove_stages(self._folders)
            raise
        self._remove_stages([*self._folders, *(self._earlier.folders if self._earlier else ())])
        return size, findings

    def _stage(self) -> int:
        """Stage the replacements in locked folders. Damage is recorded, so that ``latest`` skips the backup.

        Raises `DamageFound`.
        """
        for folder in self._folders:
            folder.mkdir(mode=0o700)
        self._own([*self._folders, *(self._earlier.folders if self._earlier else ())])
        durable.reach("in-place-staging")
        try:
            return stage(self._repository, self._backup, self._targets, self._ctx)
        except DamageFound as damage:
            problem = Problem(
                code="restore", message=damage.message, file=self._backup.manifest.archive, offset=damage.details.get("offset")
            )
            record_failure(self._repository, self._backup, Depth.HASHES, [problem], self._ctx, damage=damage)
            raise

    def _find_earlier(self) -> UnfinishedExchange | None:
        """An interrupted exchange of these stores, which this restore completes. Raises `ExchangeUnfinished`."""
        paths = [target.path for target in (*self._targets, *self._new)]
        earlier = interrupted(paths)
        if earlier is None:
            if self._new:
                raise RestoreRefused("That restore was ended by another process. Nothing was changed.")
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
            self._exchange_at_rest()
        except RestoreIncomplete as problem:
            if not _is_mixed(problem):
                self._end()
            where = (
                f"The safety backup is {self.safety}."
                if self.safety
                else "No store existed before, so there is no safety backup."
            )
            raise type(problem)(
                f"{problem.message} {where}", hint=problem.hint, **{**problem.details, "safety_backup": self.safety}
            ) from problem
        except BaseException:
            end_journals(self._folders)
            if self._earlier is None:  # else the stores are still of different times
                self._commands.run_start(self._ctx)
            raise
        durable.reach("in-place-checked")
        if failure := self._end():
            raise RestoreIncomplete(
                f"{self._backup.id} is restored, but the application was not started: {failure}",
                hint="Start the application yourself; the data is in place and was checked.",
                safety_backup=self.safety,
                restored=True,
            )

    def _exchange_at_rest(self) -> None:
        """Steps 4 to 6, again if a store was written to after its safety backup. Raises `RestoreRefused` if that goes on."""
        saved: Backup | None = None
        saved_targets: list[Target] = []
        for attempt in range(1, _TRIES + 1):
            try:
                refuse_in_use(self._new, self._commands, self._wait)
                with Watch(self._targets) as watch:
                    before, saved = saved, self._make_safety_backup()
                    if before is not None:
                        discard(self._repository, before, self._ctx)
                    saved_targets = self._prepare_replacements(saved, watch)
                    journal = self._journal(saved.id if saved is not None else "")
                    self.safety = journal.safety_backup
                    write_journal(self._folders, journal)
                    durable.reach("in-place-recorded")
                    _exchange_and_check(self._targets, watch, self._commands, self._wait, self._ctx)
                if self._new:
                    replaced = self._earlier.folders if self._earlier is not None else ()
                    self.moved = vacate(self._new, replaced, self._commands, self._wait, self._began, self._ctx)
                self._keep_unsaved(saved_targets)
                return
            except RestoreIncomplete as problem:
                if not _is_mixed(problem):
                    self._keep_unsaved(saved_targets)
                raise
            except StoreWritten as written:
                end_journals(self._folders)
                if attempt == _TRIES:
                    raise RestoreRefused(
                        f"{written}, {_TRIES} times in a row: that would be lost. Nothing was changed.",
                        hint="Stop the application, or give --stop-command and --start-command, and restore again.",
                    ) from written
                self._ctx.log(f"{written}. It is made again.")

    def _keep_unsaved(self, saved: list[Target]) -> None:
        """Keep what was in the place of stores that are not *saved*, and what an interrupted exchange of them did not keep."""
        durable.reach("in-place-unkept")
        earlier = self._earlier
        stores = earlier.journal.targets if earlier is not None and earlier.journal is not None else ()
        saved_earlier = {store.path for store in stores if store.existed}
        for target in self._targets:
            if target not in saved:
                keep_unsaved(target, target.stage, self._began, self._ctx)
            for folder in earlier.folders if earlier is not None else ():
                if target.path not in saved_earlier and folder.parent == target.path.parent:
                    keep_unsaved(target, folder, self._began, self._ctx)

    def _end(self) -> str | None:
        """Record that all stores are of one time, and start the application. Returns why it could not be started."""
        end_journals([*self._folders, *(self._earlier.folders if self._earlier else ())])
        return self._commands.run_start(self._ctx)

    def _journal(self, safety: str) -> Journal:
        """The record of this exchange. One that completes an earlier exchange keeps naming what finishes or undoes that."""
        earlier = self._earlier.journal if self._earlier is not None else None
        token, began = self._ctx.token(), self._ctx.now()
        existed = {target.path: can_be_backed_up(target) for target in self._targets}
        if earlier is not None and {store.path for store in earlier.targets} == {*existed, *(new.path for new in self._new)}:
            safety = earlier.safety_backup
            existed |= {store.path: store.existed for store in earlier.targets}
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
                JournalStore(kind=target.record.kind, name=target.record.name, path=target.path, existed=existed[target.path])
                for target in self._targets
            ),
        )

    def _prepare_replacements(self, saved: Backup | None, watch: Watch) -> list[Target]:
        """Make the staged stores fit to take the place of the live ones, and durable. Returns what *saved* holds."""
        for target in self._targets:
            fit_to_live(target)
            carry_attributes(target, self._ctx)
        held = entries_of(self._repository, saved) if saved is not None else {}
        for target in folders_of(self._targets):
            if target.record.prefix in held:
                watch.keeps(target, keep_outside(target, held, self._began, self._ctx))
        for folder in self._folders:
            durable.sync_tree_folders(folder)
        return [target for target in self._targets if target.record.prefix in held]

    def _make_safety_backup(self) -> Backup | None:
        mixed = self._earlier is not None
        note = f"safety: {'the mixed stores, ' if mixed else ''}before the restore of {self._backup.id}"
        return make_safety_backup(
            self._repository, self._targets, self._backup.manifest.set, note, self._wait, self._ctx, mixed=mixed
        )

    @staticmethod
    def _remove_stages(folders: list[Path]) -> None:
        end_journals(folders)
        for folder in folders:
            durable.remove_tree(folder)


def _is_mixed(problem: BaseException) -> bool:
    return isinstance(problem, RestoreIncomplete) and bool(problem.details.get("mixed"))


def _exchange_and_check(targets: list[Target], watch: Watch, commands: Commands, wait: float, ctx: Context) -> None:
    """Steps 5 and 6."""
    with OpenStores() as opened:
        try:
            with ctx.phase("restore", "exchange"):
                exchange_stores(targets, opened, watch, commands, wait)
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
