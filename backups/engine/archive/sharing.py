"""Which backups need what is damaged: a frame, used directly or below a delta, or a whole archive's table."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..errors import DamageFound
from .reader import Archives
from .table import Frame

Spot = tuple[str, int | None]
"""A damaged place: a backup's id and the offset of a frame in its archive, or None for all of the archive."""


def sharers(archives: Archives, others: Iterable[str], spots: Collection[Spot]) -> dict[Spot, list[str]]:
    """For each of *spots* those of *others*, in their order, that cannot be read without it.

    Reads tables and no block: 1 µs for each block of each backup. A backup whose own table is broken needs nothing more.
    """
    needs = _Needs(archives, frozenset(spots))
    found: dict[Spot, list[str]] = {spot: [] for spot in spots}
    for other in others:
        for spot in needs.of_backup(other):
            found[spot].append(other)
    return found


class _Needs:
    """Finds the damaged spots that a backup needs; what is learnt of a frame is kept."""

    def __init__(self, archives: Archives, spots: frozenset[Spot]) -> None:
        self._archives = archives
        self._spots = spots
        self._known: dict[tuple[str, int], frozenset[Spot]] = {}

    def of_backup(self, backup: str) -> set[Spot]:
        try:
            tree = self._archives.tree(backup)
        except DamageFound as damage:
            return set(self._whole(damage.details.get("id")))
        packed = {reference for entry in tree.entries.values() for reference in entry.blocks}
        return set().union(*(self._of_frame(tree.backups[one >> 32], one & 0xFFFFFFFF) for one in packed))

    def _of_frame(self, backup: str, number: int) -> frozenset[Spot]:
        found = self._known.get((backup, number))
        if found is None:
            found = self._known[backup, number] = self._learn(backup, number)
        return found

    def _learn(self, backup: str, number: int) -> frozenset[Spot]:
        try:
            frame = self._archives.frames(backup)[number]
        except DamageFound:
            return self._whole(backup)
        found = self._spots & {(backup, frame.offset), (backup, None)}
        if frame.base is not None and self._is_below(frame):
            found |= self._of_frame(frame.base.backup, frame.base.frame)
        return found

    def _is_below(self, frame: Frame) -> bool:
        """Whether the base of *frame* lies below it, as `Archives.read` demands; in a circle nothing does."""
        assert frame.base is not None
        try:
            return self._archives.frame(frame.base).depth < frame.depth
        except DamageFound:
            return True

    def _whole(self, backup: object) -> frozenset[Spot]:
        return frozenset(spot for spot in self._spots if spot == (backup, None))
