"""What would run after a restore and does not run now: triggers and views of databases, embedding functions of collections.

A database runs its triggers on each write and its views on each read; Chroma's client builds the embedding function that a
collection names, with its settings, such as an address to send documents to. So anybody who can write to the repository could
run something by them.
"""

import contextlib
import sqlite3

from backups.engine.chroma_files.tables import DATABASE, embedding_functions
from backups.engine.names import printable
from backups.engine.types import SourceKind, SourceRecord

from .live import MOST_NAMES, Comparison, allow_cancel, open_live, open_restored

_LONGEST = 600
"""Characters of a definition that are shown."""

_KINDS = ("trigger", "view")


def new_code(comparison: Comparison, records: tuple[SourceRecord, ...]) -> list[dict[str, str]]:
    """Code in the backup that the live stores do not have, or not so.

    Each has the ``store``, ``kind`` (trigger, view or embedding function), ``name``, and ``how``: new, changed or, where the
    live store cannot be read, unknown; ``text`` is the definition, shortened. At most `MOST_NAMES` of a store.
    """
    found: list[dict[str, str]] = []
    for record in records:
        inner = f"/{DATABASE}" if record.kind is SourceKind.CHROMA else ""
        kept_file = comparison.scratch / f"{record.prefix}{inner}"
        if record.method == "raw" or record.kind is SourceKind.FILES or not kept_file.is_file():
            continue
        path = comparison.live.get((record.kind, record.name))
        _, now = open_live(path / DATABASE if path is not None and inner else path)
        with contextlib.ExitStack() as opened:
            kept = opened.enter_context(contextlib.closing(open_restored(kept_file)))
            allow_cancel(comparison, kept)
            present: dict[tuple[str, str], str] | None = None
            if now is not None:
                opened.enter_context(contextlib.closing(now))
                allow_cancel(comparison, now)
                with contextlib.suppress(sqlite3.DatabaseError):
                    present = _code(now, chroma=bool(inner))
            try:
                restored = _code(kept, chroma=bool(inner))
            except sqlite3.DatabaseError as problem:
                comparison.ctx.check()
                restored = {("view", "(unreadable)"): str(problem)}
        changed = [
            {
                "store": record.prefix,
                "kind": kind,
                "name": printable(name),
                "how": "unknown" if present is None else "changed" if (kind, name) in present else "new",
                "text": printable(text if len(text) <= _LONGEST else text[:_LONGEST] + "…"),
            }
            for (kind, name), text in sorted(restored.items())
            if present is None or present.get((kind, name)) != text
        ]
        found += changed[:MOST_NAMES]
    return found


def _code(database: sqlite3.Connection, *, chroma: bool) -> dict[tuple[str, str], str]:
    rows = database.execute(
        "SELECT type, CAST(name AS TEXT), CAST(sql AS TEXT) FROM sqlite_schema WHERE type IN (?, ?)", _KINDS
    )
    found = {(str(kind), str(name)): " ".join(str(sql).split()) for kind, name, sql in rows}
    if chroma:
        found |= {("embedding function", name): text for name, text in embedding_functions(database).items()}
    return found
