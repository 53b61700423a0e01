"""The child process that reads restored stores: SQLite's own checks, and the digests of Chroma's records.

A damaged database can crash a library, so the caller opens none.

======= =====================================================================================================
do      answer
======= =====================================================================================================
sqlite  ``{"damage": [message...], "findings": [message...], "partial": bool, "broken_keys": n, "rows": {table: n}}``
digests ``{"collections": {id: {"name", "count", "indexed", "recent", "records"}}}`` or ``{"problem": message}``
======= =====================================================================================================
"""

from __future__ import annotations

import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

from .chroma_files.errors import BrokenIndex
from .runtime.child import Server
from .runtime.sandbox import confine
from .runtime.sqlite import connect
from .runtime.sqlite_check import check_content

_BEAT = 0.5
"""Seconds between two signs of life."""


class Prober:
    """The handlers of the requests above."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._next_beat = 0.0

    def sqlite(self, path: str) -> dict[str, Any]:
        database = connect(Path(path), timeout=10)
        try:
            database.set_progress_handler(self._beat, 10_000)  # the steps within a module's check are few
            try:
                database.execute("PRAGMA cache_size = -65536")
                # three times as fast; a mapped file may crash the process, which is acceptable in a child
                database.execute("PRAGMA mmap_size = 1099511627776")
                verdict = check_content(database)
            except sqlite3.DatabaseError as problem:
                return {"damage": [str(problem)], "findings": [], "partial": True, "broken_keys": 0, "rows": {}}
        finally:
            database.close()
        return {name: getattr(verdict, name) for name in ("damage", "findings", "partial", "broken_keys", "rows")}

    def digests(self, directory: str) -> dict[str, Any]:
        from .chroma_files.digests import digest_collections  # numpy is loaded only for a Chroma directory

        try:
            found = digest_collections(Path(directory), {}, self._beat)
        except BrokenIndex as problem:
            return {"problem": f"{problem.file}: {problem}"}
        except sqlite3.DatabaseError as problem:
            return {"problem": f"chroma.sqlite3: {problem}"}
        collections = {}
        for item in found:
            fields = {name: getattr(item, name) for name in ("count", "indexed", "recent", "records")}
            collections[item.collection.id] = {"name": item.collection.name, **fields}
        return {"collections": collections}

    def _beat(self) -> None:
        if (now := time.monotonic()) >= self._next_beat:
            self._next_beat = now + _BEAT
            self._server.emit("working")


def main() -> None:
    """Serve one verification, confined to the folder that is the argument."""
    confine(Path(sys.argv[1]))
    server = Server()
    prober = Prober(server)
    server.serve({name: getattr(prober, name) for name in ("sqlite", "digests")})


if __name__ == "__main__":
    main()
