"""Compares the live stores with each other and with the newest backup: rows, vectors, documents. It only reads.

The library's consistency check compares more; this needs neither Django nor a control database.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePath

from backups.engine.archive.reader import Archives
from backups.engine.errors import EngineError
from backups.engine.progress import counted, human_bytes
from backups.engine.repository.folder import Repository
from backups.engine.runtime.sqlite import connect
from backups.engine.types import Backup, SourceKind

from .locations import DEFAULT, Locations

_NAMED = 3
_SHRUNK = 0.5
_ROWS = """
SELECT 'papers', 'paper-' || paper_id FROM library_embedding
UNION ALL SELECT 'pages', 'page-' || id FROM library_pageembedding
"""
_VECTORS = """
SELECT collections.name, embeddings.embedding_id FROM embeddings
JOIN segments ON segments.id = embeddings.segment_id JOIN collections ON collections.id = segments.collection
"""


@dataclass(frozen=True, slots=True)
class Difference:
    """A sentence. It is no ``problem`` if a person may have meant it, such as a paper that was removed."""

    text: str
    problem: bool = True


def differences(locations: Locations, repository: Repository | None) -> list[Difference]:
    """In what the stores do not fit together, and what they have lost since the newest backup.

    A store that cannot be read is left out: `faults` names it.
    """
    found: list[Difference] = []
    try:
        found += _documents(locations)
        found += _vectors(locations)
    except sqlite3.Error:
        pass
    if repository is not None:
        try:
            backup = repository.find("latest", DEFAULT)
            found += _since(locations, repository, backup)
        except EngineError:
            pass
    return found


def _documents(locations: Locations) -> Iterator[Difference]:
    """Rows without their document, and documents without a row."""
    folder, database = locations.paths["REFSERVER_FILES"], locations.paths["REFSERVER_DATABASE"]
    with closing(connect(database, timeout=5)) as rows:
        papers = rows.execute("SELECT content_hash, file_name, title FROM library_paper").fetchall()
    titles = {f"{content}{PurePath(name).suffix.lower()}": str(title) for content, name, title in papers}
    present = {entry.name for entry in os.scandir(folder) if entry.is_file()} if folder.is_dir() else set()
    if lost := sorted(titles.keys() - present):
        yield Difference(
            f"{counted(len(lost), 'paper')} without a document in {folder}: {_some(titles[name] for name in lost)}"
        )
    if strange := sorted(present - titles.keys()):
        many = counted(len(strange), "file")
        yield Difference(f"{many} in {folder} without a paper: {_some(strange)}")


def _vectors(locations: Locations) -> Iterator[Difference]:
    """Rows without their vector, and vectors without a row."""
    directory = locations.paths["CHROMA_PATH"]
    if not (directory / "chroma.sqlite3").exists():
        return
    with closing(connect(locations.paths["REFSERVER_DATABASE"], timeout=5)) as database:
        rows = set(database.execute(_ROWS).fetchall())
    with closing(connect(directory / "chroma.sqlite3", timeout=5)) as chroma:
        vectors = set(chroma.execute(_VECTORS).fetchall())
    if lost := sorted(rows - vectors):
        many = counted(len(lost), "row")
        yield Difference(f"{many} without a vector in {directory}: {_some(name for _, name in lost)}")
    if strange := sorted(vectors - rows):
        yield Difference(
            f"{counted(len(strange), 'vector')} in {directory} without a row: {_some(name for _, name in strange)}"
        )


def _since(locations: Locations, repository: Repository, backup: Backup) -> Iterator[Difference]:
    """What the newest backup holds and the stores have lost."""
    with repository.reading(), Archives(repository.locate(backup.manifest.set)) as archives:
        sizes = {
            PurePath(entry.path): entry.size for entry in archives.tree(backup.id).entries.values() if entry.kind.name == "FILE"
        }
    for record in backup.manifest.sources:
        live = next((one.path for one in locations.stores(DEFAULT) if (one.kind, one.name) == (record.kind, record.name)), None)
        if live is None:
            continue
        if record.kind is SourceKind.FILES:
            kept = {path.relative_to(record.prefix): size for path, size in sizes.items() if path.is_relative_to(record.prefix)}
            yield from _files_since(live, kept, backup.id)
            continue
        size = _size(live)
        if size is not None and size < record.bytes * _SHRUNK:  # `faults` names one that is missing
            yield Difference(f"{live} has shrunk to {human_bytes(size)}; in {backup.id} it has {human_bytes(record.bytes)}")


def _files_since(live: Path, kept: dict[PurePath, int], backup_id: str) -> Iterator[Difference]:
    now = {name: _size(live / name) for name in kept}
    if lost := sorted(name for name, size in now.items() if size is None):
        yield Difference(
            f"{counted(len(lost), 'file')} of {backup_id} no longer in {live}: {_some(map(str, lost))}", problem=False
        )
    if changed := sorted(name for name, size in now.items() if size is not None and size != kept[name]):
        yield Difference(
            f"{counted(len(changed), 'file')} in {live} not as large as in {backup_id}: {_some(map(str, changed))}"
        )


def _size(path: Path) -> int | None:
    """The bytes of a file, or of all files below a folder; None if it is missing."""
    if path.is_dir():
        return sum(Path(place, name).lstat().st_size for place, _, names in os.walk(path) for name in names)
    try:
        return path.stat().st_size
    except OSError:
        return None


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:_NAMED]) + (f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else "")
