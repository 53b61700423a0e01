"""Ends a restore in place that was interrupted in the exchange: finishes it, or undoes it."""

import time

from ..errors import RestoreIncomplete, RestoreRefused
from ..repository.folder import Repository
from ..runtime import durable
from ..runtime.context import Context
from ..unfinished import UnfinishedExchange, end_journals, exclusive_restore, interrupted
from .commands import NO_COMMANDS, Commands
from .in_place import restore_in_place
from .to_folder import Restored
from .vacate import refuse_in_use, vacate, vacated


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

    What did not exist before it is then moved aside. Both can be repeated after a crash of their own. Raises what
    `restore_in_place` raises, and `RestoreRefused` if the record cannot be read.
    """
    journal = exchange.journal
    if journal is None:
        raise RestoreRefused(exchange.message, hint="Restore a backup of all stores in place. Nothing was changed.")
    if not undo:
        backup = repository.load(journal.set, journal.backup)
        return restore_in_place(repository, backup, exchange.sources, ctx, only=journal.only, commands=commands, wait=wait)
    if not journal.safety_backup:
        return _vacate_all(exchange, ctx, commands, wait)
    backup = repository.load(journal.set, journal.safety_backup)
    existed = tuple(source for source in exchange.sources if source not in exchange.created)
    return restore_in_place(repository, backup, existed, ctx, commands=commands, wait=wait, created=exchange.created)


def _vacate_all(exchange: UnfinishedExchange, ctx: Context, commands: Commands, wait: float) -> Restored:
    """Undo a restore before which no store existed: there is no safety backup, and nothing to exchange.

    A crash leaves stores moved aside and the record, or, after the record was removed, staging folders.
    """
    began = time.monotonic()
    with exclusive_restore([source.path for source in exchange.created]) as own:
        if interrupted([source.path for source in exchange.created]) is None:
            raise RestoreRefused("That restore was ended by another process. Nothing was changed.")
        own(exchange.folders)
        stores = vacated(exchange.created)
        commands.run_stop(ctx)
        refuse_in_use(stores, commands, wait)
        moved = vacate(stores, exchange.folders, commands, wait, ctx.now(), ctx)
        end_journals(exchange.folders)
        failure = commands.run_start(ctx)
        for folder in exchange.folders:
            durable.remove_tree(folder)
    if failure:
        raise RestoreIncomplete(
            f"The restore is undone, but the application was not started: {failure}",
            hint="Start the application yourself.",
            restored=True,
        )
    to = ", ".join(str(source.path) for source in exchange.created)
    seconds = round(time.monotonic() - began, 3)
    return Restored(id="", to=to, seconds=seconds, bytes=0, checks={"safety_backup": "", "moved_aside": moved})
