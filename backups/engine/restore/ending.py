"""Ends a restore in place that was interrupted in the exchange: finishes it, or undoes it."""

from ..errors import RestoreRefused
from ..repository.folder import Repository
from ..runtime.context import Context
from ..unfinished import UnfinishedExchange
from .commands import NO_COMMANDS, Commands
from .in_place import restore_in_place
from .to_folder import Restored


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
