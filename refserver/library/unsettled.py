"""Notes of changes in progress, so that a change interrupted by a crash is recognised.

Chroma is written last inside a transaction, so a crash between that write and the commit leaves vectors whose rows were rolled
back. Before the write, a note in a file next to the Chroma directory names the papers; it is removed after the commit. If the
note still exists when the next change holds SQLite's write lock, its change was interrupted: `catalogue` then makes those
papers' vectors equal to the rows, and removes the note.
"""

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
    """The ids that a change touches, and the file of the note."""

    file: Path
    ids: Ids

    def remove(self) -> None:
        """Remove the file. It may be missing: another process may have settled the change."""
        self.file.unlink(missing_ok=True)


def write(ids: Ids) -> Note:
    """Write a note of a change of *ids*, synced to the disk."""
    file = _folder() / f"{uuid4().hex}.json"
    content = json.dumps({name: sorted(members) for name, members in ids.items()})
    durable.make_folder(file.parent, 0o777)
    durable.write_file(file, content.encode(), 0o666)
    return Note(file, ids)


def pending() -> list[Note]:
    """The notes of interrupted changes. The caller holds SQLite's write lock."""
    return [note for file in sorted(_folder().glob("*.json")) if (note := _read(file)) is not None]


def together(parts: Iterable[Ids]) -> Ids:
    """The union of *parts*."""
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
    except FileNotFoundError:  # the change has just committed
        return None
    except ValueError:  # edited or damaged: do not refuse all changes; the consistency check finds differences
        log.warning("%s is not a valid note of a change and is ignored; remove it", file)
        return None
    return Note(file, {name: set(content.get(name, ())) for name in COLLECTIONS})
