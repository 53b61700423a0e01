"""What the pages of backups and of a restore say first: the conditions that make stored backups unusable or doubtful."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backups import moments
from backups.monitoring.conditions import Level, Observation, present
from backups.monitoring.conditions.backups import damage, newest_damaged, no_proven_backup
from backups.monitoring.conditions.evidence import holds_changed, journal_changed, key_lost, proofs_lost
from backups.monitoring.conditions.repositories import UNREADABLE, backups_missing, repository_missing
from backups.monitoring.gathering import gather

_ABOUT = (
    *(repository_missing, UNREADABLE, backups_missing, no_proven_backup, newest_damaged, damage),
    *(journal_changed, key_lost, proofs_lost, holds_changed),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """The conditions that hold, and those of them that are about stored backups, worst first."""

    conditions: Sequence[Observation]
    reasons: tuple[Observation, ...]
    away: frozenset[str]
    """Repositories that are not available: what the index knows of their backups cannot be confirmed."""

    @classmethod
    def now(cls) -> Protection:
        """Of this moment."""
        held = present(gather(moments.now()))
        kinds = {one.name: rank for rank, one in enumerate(_ABOUT)}
        about = sorted((one for one in held if one.kind in kinds), key=lambda one: kinds[one.kind])
        away = frozenset(one.subject for one in about if one.kind == repository_missing.name)
        return cls(conditions=held, reasons=tuple(about), away=away)

    @property
    def unknown(self) -> bool:
        """Whether the newest proven backup is in a repository that is not available."""
        return any(one.kind == repository_missing.name and one.level is Level.UNPROTECTED for one in self.reasons)

    @property
    def tone(self) -> str:
        """``good``, ``warn`` or ``bad``."""
        if any(one.level is Level.UNPROTECTED for one in self.reasons):
            return "bad"
        return "warn" if self.reasons else "good"
