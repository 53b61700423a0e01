"""The collections and how far Chroma's log goes for each, read before the lock so that little is left to read under it.

The log has no index by collection: one query for each would read it as often as there are collections, and any query reads all
of it. Sequence numbers only grow, and what was counted stays true, so only records that came since are read again. If nobody
has written since, nothing is (``PRAGMA data_version``).
"""

import sqlite3
from dataclasses import dataclass, field

from .tables import Collection, list_collections

_PIECE = 20_000
"""Records that one query reads: without a lock, a writer's commit waits for the query to end."""


@dataclass(slots=True)
class LogTally:
    """The newest record of each collection, and the number of those that its vector segment has not applied.

    For one connection: what another one wrote changes its ``data_version``.
    """

    newest: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    _behind: list[Collection] = field(default_factory=list)
    _applied: dict[str, int] = field(default_factory=dict)
    _version: int | None = None
    _upto: int = 0

    def update(self, database: sqlite3.Connection) -> list[Collection]:
        """Read what was written since the last update, and return the collections that have not applied all of their log.

        They are those whose metadata or, by the threshold at which it is written, whose index is behind the log.
        Raises ``sqlite3.DatabaseError`` and `SourceBroken` as `tables.list_collections` does.
        """
        (version,) = database.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version = None  # until all is read
            collections = list_collections(database)
            self._count(database, collections)
            self._behind = [one for one in collections if self._is_behind(one)]
            self._version = version
        return self._behind

    def _is_behind(self, one: Collection) -> bool:
        return one.metadata_at < self.newest.get(one.id, 0) or self.waiting.get(one.id, 0) >= one.sync_threshold

    def _count(self, database: sqlite3.Connection, collections: list[Collection]) -> None:
        """Count the new records; all of them, if a vector segment has applied more since."""
        applied = {one.id: one.vector_at for one in collections}
        if any(applied.get(name, at) != at for name, at in self._applied.items()):
            self.newest, self.waiting, self._upto = {}, {}, 0
        self._applied = applied
        while True:
            rows = database.execute(
                f"SELECT substr(topic, -36), seq_id FROM embeddings_queue WHERE seq_id > ? ORDER BY seq_id LIMIT {_PIECE}",
                (self._upto,),
            ).fetchall()
            for name, number in rows:
                if not isinstance(number, int):
                    raise sqlite3.DatabaseError("a position in Chroma's log is not a number")
                self.newest[name] = number
                if number > applied.get(name, 0):
                    self.waiting[name] = self.waiting.get(name, 0) + 1
                self._upto = number
            if len(rows) < _PIECE:
                return
