"""Backups that hold far less than the one before them, until a person confirms the loss by releasing that one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from backups.models import IndexedBackup

_MOST = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a backup no longer holds: a sentence each, without its full stop. ``complete`` is the held backup that has it."""

    complete: IndexedBackup
    lines: tuple[str, ...]
    itself: bool
    """Whether the stores had shrunk since the backup before it; otherwise they had before an earlier one."""

    @property
    def text(self) -> str:
        """A sentence for people."""
        what = "; ".join(self.lines)
        if self.itself:
            return f"It holds far less than the backup before: {what}."
        return f"It was made after the stores shrank, and may lack as much: {what}."


def unconfirmed() -> list[IndexedBackup]:
    """The backups that are held for what later ones no longer hold, newest first."""
    return list(IndexedBackup.objects.exclude(losses="").order_by("-time")[:_MOST])


def loss_of(row: IndexedBackup, held: Iterable[IndexedBackup]) -> Loss | None:
    """The loss that concerns *row*, among the backups *held* (`unconfirmed`); None if there is none."""
    if row.safety:
        return None
    for complete in held:
        if (complete.repository, complete.set) != (row.repository, row.set) or complete.time >= row.time:
            continue
        told = [line.rpartition(" (") for line in complete.losses.splitlines()]
        own = tuple(text for text, _, shrunk in told if shrunk == f"{row.backup_id})")
        if own:
            return Loss(complete=complete, lines=own, itself=True)
        return Loss(complete=complete, lines=tuple(text or shrunk for text, _, shrunk in told), itself=False)
    return None
