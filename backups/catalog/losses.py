"""Backups that hold far less than the one before them, until a person confirms the loss by releasing that one."""

from collections.abc import Iterable
from dataclasses import dataclass

from backups.engine.shrinkage import told_in
from backups.models import IndexedBackup

_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a backup no longer holds: a sentence each, without its full stop. ``complete`` is the held backup that has it."""

    complete: IndexedBackup
    lines: tuple[str, ...]
    itself: bool
    """Whether it was the first with less; otherwise an earlier one was."""

    @property
    def text(self) -> str:
        """A sentence for people."""
        what = "; ".join(self.lines)
        if self.itself:
            return f"It holds far less than earlier backups: {what}."
        return f"It was made after the stores shrank, and may lack as much: {what}."


def unconfirmed() -> list[IndexedBackup]:
    """The backups that are held for what later ones no longer hold, newest first."""
    return list(IndexedBackup.objects.exclude(losses="").order_by("-time")[:_MOST])


def told_by(losses: str) -> list[tuple[str, str]]:
    """The sentences of `IndexedBackup.losses` (`told_in`). Ids sort in the order in which backups were made."""
    return told_in(losses.splitlines())


def shrunk_since(held: Iterable[IndexedBackup]) -> dict[tuple[str, str], str]:
    """For a repository and a set among the backups *held* (`unconfirmed`): the id from which on its backups hold less."""
    since: dict[tuple[str, str], str] = {}
    for complete in held:
        after = f"{complete.backup_id}~"  # of older holds, which name no backup: everything after it
        first = min(shrunk or after for _, shrunk in told_by(complete.losses))
        place = complete.repository, complete.set
        since[place] = min(first, since.get(place, first))
    return since


def loss_of(row: IndexedBackup, held: Iterable[IndexedBackup]) -> Loss | None:
    """The loss that concerns *row*, among the backups *held* (`unconfirmed`); None if there is none."""
    if row.safety:
        return None
    for complete in held:
        if (complete.repository, complete.set) != (row.repository, row.set) or complete.time >= row.time:
            continue
        told = told_by(complete.losses)
        own = tuple(text for text, shrunk in told if shrunk == row.backup_id)
        if own:
            return Loss(complete=complete, lines=own, itself=True)
        earlier = tuple(text for text, shrunk in told if shrunk < row.backup_id)
        if earlier:
            return Loss(complete=complete, lines=earlier, itself=False)
    return None
