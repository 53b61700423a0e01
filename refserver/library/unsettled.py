"""Notes of changes that are under way, so that one cut short by a crash is recognised.

Chroma is written last inside a transaction, so between that write and the commit there is a moment in which a
crash leaves vectors whose rows were rolled back. Before the write, its papers are noted in a file of their
own beside the Chroma directory, and the note is removed after the commit. A note that is still there when the
next change holds SQLite's write lock belongs to a change that is over: `catalogue` then makes those papers'
vectors what the rows say, and removes it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from django.conf import settings

from backups.engine.runtime import durable
from refserver.library.vectors import COLLECTIONS, CollectionName

log = logging.getLogger(__name__)

Ids = dict[CollectionName, set[str]]
"""The ids of records, collection by collection."""


@dataclass(frozen=True, slots=True)
class Note:
    """The ids that one change touches, and the file that says so."""

    file: Path
    ids: Ids

    def remove(self) -> None:
        """Forget the change: rows and vectors agree. Missing is fine, somebody else settled it."""
        self.file.unlink(missing_ok=True)


def write(ids: Ids) -> Note:
    """Note a change of *ids*; when this returns, the note is on the disk."""
    file = _folder() / f"{uuid4().hex}.json"
    content = json.dumps({name: sorted(members) for name, members in ids.items()})
    durable.make_folder(file.parent, 0o777)
    durable.write_file(file, content.encode(), 0o666)
    return Note(file, ids)


def pending() -> list[Note]:
    """Return the notes of changes that did not come to their end. The caller holds SQLite's write lock."""
    return [note for file in sorted(_folder().glob("*.json")) if (note := _read(file)) is not None]


def together(parts: Iterable[Ids]) -> Ids:
    """Return the union of *parts*."""
    union: Ids = {name: set() for name in COLLECTIONS}
    for part in parts:
        for name, members in part.items():
            union[name] |= members
    return union


def _folder() -> Path:
    directory = Path(settings.CHROMA_PATH)
    return directory.with_name(f"{directory.name}.unsettled")


def _read(file: Path) -> Note | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:  # its change has just committed
        return None
    except ValueError:  # damaged by hand: no reason to refuse all changes; the consistency check sees what it was about
        log.warning("%s is no note of a change, and is left alone; remove it", file)
        return None
    return Note(file, {name: set(content.get(name, ())) for name in COLLECTIONS})
