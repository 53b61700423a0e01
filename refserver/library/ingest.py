"""Adds files and folders to the library, one file at a time; a failure is reported and the others continue."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

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


def ingest(path: Path, *, named: bool) -> Result:
    """Add the document *path*. Unsupported files in folders are skipped; a *named* file must be readable."""
    if not named and path.suffix.lower() not in documents.SUFFIXES:
        return Result(path=str(path), outcome=Outcome.SKIPPED, reason="unsupported file type")
    try:
        return ingest_document(str(path), documents.load(path))
    except Unreadable as error:
        return Result(path=str(path), outcome=Outcome.FAILED, reason=str(error))


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
