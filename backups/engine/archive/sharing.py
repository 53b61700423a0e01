"""Which backups need a damaged frame, directly or below a delta, or a damaged archive's table."""

from collections.abc import Collection, Iterable

from ..errors import DamageFound
from .reader import Archives
from .table import Frame

Spot = tuple[str, int | None]
"""A damaged place: a backup's id and the offset of a frame in its archive, or None for all of the archive."""


def sharers(archives: Archives, others: Iterable[str], spots: Collection[Spot]) -> dict[Spot, list[str]]:
    """For each of *spots*, the backups among *others*, in their order, that cannot be read without it.

    Reads tables and no blocks: 1 µs for each block of each backup. A backup whose own table is damaged needs nothing else.
    """
    needs = _Needs(archives, frozenset(spots))
    found: dict[Spot, list[str]] = {spot: [] for spot in spots}
    for other in others:
        for spot in needs.of_backup(other):
            found[spot].append(other)
    return found


class _Needs:
    """Finds the damaged spots that a backup needs, and caches them for each frame."""

    def __init__(self, archives: Archives, spots: frozenset[Spot]) -> None:
        self._archives = archives
        self._spots = spots
        self._of_frames: dict[tuple[str, int], frozenset[Spot]] = {}

    def of_backup(self, backup: str) -> set[Spot]:
        try:
            tree = self._archives.tree(backup)
        except DamageFound as damage:
            return set(self._whole(damage.details.get("id")))
        packed = {reference for entry in tree.entries.values() for reference in entry.blocks}
        return set().union(*(self._of_frame(tree.backups[one >> 32], one & 0xFFFFFFFF) for one in packed))

    def _of_frame(self, backup: str, number: int) -> frozenset[Spot]:
        found = self._of_frames.get((backup, number))
        if found is None:
            found = self._of_frames[backup, number] = self._find(backup, number)
        return found

    def _find(self, backup: str, number: int) -> frozenset[Spot]:
        try:
            frame = self._archives.frames(backup)[number]
        except DamageFound:
            return self._whole(backup)
        found = self._spots & {(backup, frame.offset), (backup, None)}
        if frame.base is not None and self._is_below(frame):
            found |= self._of_frame(frame.base.backup, frame.base.frame)
        return found

    def _is_below(self, frame: Frame) -> bool:
        """Whether the base of *frame* lies below it, as `Archives.read` requires; in a circle no frame does."""
        assert frame.base is not None
        try:
            return self._archives.frame(frame.base).depth < frame.depth
        except DamageFound:
            return True

    def _whole(self, backup: object) -> frozenset[Spot]:
        return frozenset(spot for spot in self._spots if spot == (backup, None))
