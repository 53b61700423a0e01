"""Adds files and folders to the library, one file at a time; a failure is reported and the others continue."""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from backups.engine.runtime.sqlite import connect
from refserver.library import catalogue, documents
from refserver.library.catalogue import Document, Duplicate
from refserver.library.documents import Unreadable


class Outcome(StrEnum):
    ADDED = "added"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result for one file; *paper* is the key of the added or the identical paper."""

    path: str
    outcome: Outcome
    reason: str = ""
    paper: int | None = None
    title: str = ""
    pages: int = 0


def files_in(paths: Iterable[Path]) -> Iterator[tuple[Path, bool]]:
    """Yield each file below *paths*, and whether it was named itself.

    Folders are read in the order of names, without hidden files and folders and without following links.
    """
    for path in paths:
        if not path.is_dir():
            yield path, True
            continue
        for folder, subfolders, names in os.walk(path):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                file = Path(folder) / name
                if not name.startswith(".") and not file.is_symlink():
                    yield file, False


def ingest(path: Path, *, named: bool, details: Path | None = None) -> Result:
    """Add the document *path*. Unsupported files in folders are skipped; a *named* file must be readable.

    *details* is a restored library database: what was edited there is used for a document that it knows.
    """
    if not named and path.suffix.lower() not in documents.SUFFIXES:
        return Result(path=str(path), outcome=Outcome.SKIPPED, reason="unsupported file type")
    try:
        document = documents.load(path)
        if details is not None:
            document = _as_it_was(document, details)
        return ingest_document(str(path), document)
    except (Unreadable, sqlite3.Error) as error:
        return Result(path=str(path), outcome=Outcome.FAILED, reason=str(error))


def _as_it_was(document: Document, database: Path) -> Document:
    """*document* with the details that its paper has in *database*; unchanged if it has none. Raises ``sqlite3.Error``."""
    with closing(connect(database, mode="ro")) as restored:
        restored.row_factory = sqlite3.Row
        columns = "id, file_name, title, authors, year, venue, doi, summary"
        query = f"SELECT {columns} FROM library_paper WHERE content_hash = ?"
        row = restored.execute(query, (document.content_hash,)).fetchone()
        if row is None:
            return document
        facts = restored.execute("SELECT key, value FROM library_metadata WHERE paper_id = ?", (row["id"],)).fetchall()
    kept = {name: row[name] for name in row.keys() if name != "id"}  # noqa: SIM118 (a row is not a mapping)
    return replace(document, **kept, metadata=dict(map(tuple, facts)))


def ingest_document(path: str, document: Document) -> Result:
    """Add *document*, which came from *path*."""
    try:
        catalogue.refuse_duplicate(document.content_hash)  # before embedding it; `add` checks again
        paper = catalogue.add(document)
    except Duplicate as error:
        return Result(
            path=path,
            outcome=Outcome.DUPLICATE,
            reason=str(error),
            paper=error.paper.pk,
            title=error.paper.title,
        )
    return Result(path=path, outcome=Outcome.ADDED, paper=paper.pk, title=paper.title, pages=len(document.pages))
