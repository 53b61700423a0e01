"""The ancestors and dependents of a backup, from the index, and their drawing as a small graph."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import connections
from django.db.models import QuerySet

from backups.conf import configuration
from backups.engine.archive.blocks import BLOCK
from backups.engine.archive.reader import Archives
from backups.engine.errors import EngineError
from backups.models import IndexedBackup

MOST = 5_000
"""Relatives searched in each direction."""

SHOWN = 4
"""Relatives drawn on each side of a backup; of longer chains also the last one."""

_MOST_SHARED = 40_000_000_000
"""Bytes; the shares of larger backups are not computed."""


@dataclass(frozen=True, slots=True)
class Relative:
    """An ancestor or dependent: its distance in steps, and its parent."""

    backup_id: str
    parent_id: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Ancestors, parent first, and dependents, nearest first. ``broken`` is the id of a missing ancestor."""

    ancestors: tuple[Relative, ...]
    dependents: tuple[Relative, ...]
    broken: str = ""


def lineage(row: IndexedBackup) -> Lineage:
    """The lineage of a backup according to the index."""
    ancestors = _related(row, "b.backup_id = r.parent_id AND r.parent_id <> ''")
    dependents = _related(row, "b.parent_id = r.backup_id AND NOT (b.parent_id = '')")  # the condition of the partial index
    last = ancestors[-1].parent_id if ancestors else row.parent_id
    return Lineage(ancestors=ancestors, dependents=dependents, broken=last)


def _related(row: IndexedBackup, related: str) -> tuple[Relative, ...]:
    table = IndexedBackup._meta.db_table
    statement = f"""
        WITH RECURSIVE related (backup_id, parent_id, steps) AS (
            SELECT backup_id, parent_id, 0 FROM {table} WHERE id = %s
            UNION
            SELECT b.backup_id, b.parent_id, r.steps + 1 FROM related r JOIN {table} b ON {related}
                AND b.repository = %s AND b."set" = %s
            WHERE r.steps < {MOST}
        )
        SELECT backup_id, parent_id, steps FROM related WHERE steps > 0 ORDER BY steps, backup_id LIMIT {MOST}
    """
    with connections[configuration().database].cursor() as cursor:
        cursor.execute(statement, [row.pk, row.repository, row.set])
        return tuple(Relative(*found) for found in cursor.fetchall())


@functools.lru_cache(maxsize=256)
def _shares(repository: str, set_name: str, backup_id: str) -> dict[str, int]:
    found: dict[int, int] = {}
    with Archives(configuration().open(repository).locate(set_name)) as archives:
        tree = archives.tree(backup_id)
        for entry in tree.entries.values():
            left = entry.size
            for packed in entry.blocks:
                found[packed >> 32] = found.get(packed >> 32, 0) + min(BLOCK, left)
                left -= BLOCK
    return {tree.backups[ordinal]: size for ordinal, size in found.items()}


def shares(row: IndexedBackup) -> dict[str, int] | None:
    """Bytes of a backup by the id of the backup whose archive has them; None for a very large or unreadable backup.

    Archives never change, so answers are cached.
    """
    if row.bytes_source > _MOST_SHARED:
        return None
    try:
        return _shares(row.repository, row.set, row.backup_id)
    except (EngineError, OSError):
        return None


# Drawing

ROW, LANE, LEFT, TOP = 34, 18, 12, 18


@dataclass(slots=True)
class Node:
    """A line of the drawing: a backup, or ``gap`` omitted ones."""

    backup_id: str
    row: int = 0
    lane: int = 0
    gap: int = 0
    here: bool = False
    backup: IndexedBackup | None = None
    share: int | None = None

    @property
    def x(self) -> int:
        return LEFT + self.lane * LANE

    @property
    def y(self) -> int:
        return TOP + self.row * ROW


@dataclass(slots=True)
class Picture:
    """Nodes from newest to oldest, and the lines between them as SVG paths."""

    nodes: list[Node] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def height(self) -> int:
        return 2 * TOP + max(0, len(self.nodes) - 1) * ROW

    @property
    def text_at(self) -> int:
        return LEFT + 14 + max((node.lane for node in self.nodes), default=0) * LANE


def draw(row: IndexedBackup, family: Lineage, known: dict[str, int] | None = None) -> Picture:
    """The drawing of a backup with its ancestors below and its dependents above."""
    below = _thinned([Node(one.backup_id) for one in family.ancestors])
    chosen = _thinned([Node(one.backup_id) for one in sorted(family.dependents, key=lambda one: one.backup_id)])
    parents = {one.backup_id: one.parent_id for one in family.dependents}
    _set_lanes(chosen, parents, row.backup_id)
    picture = Picture(nodes=[*reversed(chosen), Node(row.backup_id, here=True), *below])
    rows = {other.backup_id: other for other in _rows(row, [node.backup_id for node in picture.nodes])}
    for number, node in enumerate(picture.nodes):
        node.row = number
        node.backup = rows.get(node.backup_id)
        node.share = (known or {}).get(node.backup_id)
    for above, under in zip(picture.nodes[len(chosen) : -1], below, strict=True):
        picture.paths.append(_path(above, under))
    at = {node.backup_id: node for node in picture.nodes if not node.gap}
    before = picture.nodes[len(chosen)]
    for node in chosen:
        # If its parent is omitted, the line goes to the gap before it
        under = before if node.gap else at.get(parents[node.backup_id], before)
        picture.paths.append(_path(node, under))
        before = node
    return picture


def _thinned(nodes: list[Node]) -> list[Node]:
    """The first few nodes and the last, with a gap between."""
    left_out = len(nodes) - SHOWN - 1
    if left_out < 2:
        return nodes
    return [*nodes[:SHOWN], Node("", gap=left_out), *nodes[-1:]]


def _set_lanes(nodes: Sequence[Node], parents: dict[str, str], root: str) -> None:
    """Put the first child into its parent's lane, and each further one into a new lane."""
    lanes = {root: 0}
    taken: set[str] = set()
    widest = 0
    for node in nodes:
        parent = parents.get(node.backup_id, "")
        if node.gap or parent not in lanes:
            continue
        if parent in taken:
            widest = min(widest + 1, 4)
            node.lane = widest
        else:
            node.lane = lanes[parent]
        taken.add(parent)
        lanes[node.backup_id] = node.lane


def _path(above: Node, under: Node) -> str:
    if above.x == under.x:
        return f"M{above.x} {above.y}V{under.y}"
    return f"M{above.x} {above.y}V{under.y - ROW // 2}Q{above.x} {under.y} {under.x} {under.y}"


def _rows(row: IndexedBackup, wanted: Sequence[str]) -> QuerySet[IndexedBackup]:
    found = IndexedBackup.objects.filter(repository=row.repository, backup_id__in=[one for one in wanted if one])
    return found.order_by()  # else SQLite walks the index of times
