"""Changing the library: rows, vectors and originals together.

All changes of what Chroma mirrors happen inside `change`::

    with change() as changed:
        paper.title = "A better title"
        paper.save()
        changed.touch(paper.pk)

1. SQLite's write lock is taken (BEGIN IMMEDIATE), so that the changes of all processes are serialized.
2. The caller changes rows, and touches the papers that it changes.
3. As the last step before the commit, the vectors of the touched papers in Chroma are made equal to the rows.
4. Commit.

A failure in 1 to 3 rolls the rows back; if Chroma was already written (usually a failed commit), the vectors of the touched
papers are set back to the rows in another transaction. A crash leaves a note (`unsettled`), and the next change of any process
does the same. A backup that takes SQLite's write lock therefore finds a row and its vector, or neither.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from django.db import transaction

from backups.engine.gate import GateTimeout
from refserver.library import embedding, originals, unsettled
from refserver.library.models import Embedding, Metadata, PageEmbedding, Paper
from refserver.library.unsettled import Ids
from refserver.library.vectors import PAGES, PAPERS, Edit, Record, store

log = logging.getLogger(__name__)


class Duplicate(Exception):
    """The library already holds a document with the same bytes."""

    def __init__(self, paper: Paper) -> None:
        super().__init__(f"the library already has this document: “{paper.title}” (paper {paper.pk})")
        self.paper = paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The text of one page; *number* counts from 1."""

    number: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A document that was read and can be added."""

    file_name: str
    content: bytes
    pages: Sequence[Page]
    title: str
    authors: str = ""
    year: int | None = None
    venue: str = ""
    doi: str = ""
    summary: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_hash(self) -> str:
        """The SHA-256 of the document's bytes, as hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()


class Change:
    """The papers that a change touches."""

    def __init__(self) -> None:
        self._papers: set[int] = set()
        self._before: list[Ids] = []

    def touch(self, *papers: int) -> None:
        """Note that rows of these papers (primary keys) change. Touch a paper before removing its rows."""
        self._papers.update(papers)
        self._before.append(_ids_of(papers))

    def ids(self) -> Ids:
        """The ids of all records that the touched papers have, or had."""
        return unsettled.together([*self._before, _ids_of(self._papers)])


_current: ContextVar[Change | None] = ContextVar("current_change", default=None)


@contextmanager
def change() -> Iterator[Change]:
    """Change rows and vectors together, as the module describes. A nested change is part of the outer one.

    Raises `GateTimeout`, with nothing changed, if a backup or restore uses Chroma for too long.
    """
    if (outer := _current.get()) is not None:
        yield outer
        return
    changed = Change()
    token = _current.set(changed)
    notes: list[unsettled.Note] = []
    try:
        with transaction.atomic(durable=True):
            yield changed
            if any((ids := changed.ids()).values()):
                earlier = unsettled.pending()
                notes = [unsettled.write(ids), *earlier]
                store().apply(_edit(unsettled.together(note.ids for note in notes)))
    except GateTimeout:  # raised before Chroma is written: nothing to set back
        for note in notes[:1]:
            note.remove()
        raise
    except BaseException:
        if notes:
            _settle_again(notes)
        raise
    finally:
        _current.reset(token)
    for note in notes:
        note.remove()


def add(document: Document) -> Paper:
    """Add *document* with its vectors, and keep its bytes. Raises `Duplicate` if the library has the same bytes."""
    paper = Paper(
        title=document.title[:500],
        authors=document.authors,
        year=document.year,
        venue=document.venue[:300],
        doi=document.doi[:200],
        summary=document.summary,
        file_name=document.file_name[-255:],
        content_hash=document.content_hash,
    )
    embedder = embedding.configured()
    texts = [_embedded_text(paper), *(page.text for page in document.pages)]
    whole, *of_pages = embedder.embed(texts)  # before the transaction: this may take long
    described = {"model": embedder.model, "dimension": embedder.dimension}
    try:
        with change() as changed:
            refuse_duplicate(paper.content_hash)
            originals.keep(paper, document.content)
            paper.save()
            Embedding.objects.create(paper=paper, vector=embedding.to_blob(whole), **described)
            PageEmbedding.objects.bulk_create(
                PageEmbedding(
                    paper=paper,
                    page=page.number,
                    text=page.text,
                    vector=embedding.to_blob(vector),
                    **described,
                )
                for page, vector in zip(document.pages, of_pages, strict=True)
            )
            Metadata.objects.bulk_create(
                Metadata(paper=paper, key=key[:100], value=value) for key, value in document.metadata.items()
            )
            changed.touch(paper.pk)
    except Duplicate:
        raise
    except BaseException:
        _drop_originals([paper])
        raise
    return paper


def refuse_duplicate(content_hash: str) -> None:
    """Raise `Duplicate` if the library has a document with this SHA-256."""
    if (same := Paper.objects.filter(content_hash=content_hash).first()) is not None:
        raise Duplicate(same)


def remove(papers: Sequence[Paper]) -> None:
    """Remove *papers* with all their rows and vectors, and their originals after the commit."""
    papers = list(papers)
    with change() as changed:
        keys = [paper.pk for paper in papers]
        changed.touch(*keys)
        Paper.objects.filter(pk__in=keys).delete()
        transaction.on_commit(lambda: _drop_originals(papers))


def embed_again(paper: Paper, *, pages: bool = True) -> None:
    """Compute the vectors of *paper* again with the configured embedding; without *pages*, only its own.

    Its own vector comes from title, authors and summary: after an edit of these, that one is enough.
    """
    embedder = embedding.configured()
    rows = list(paper.pages.all()) if pages else []
    whole, *of_pages = embedder.embed([_embedded_text(paper), *(row.text for row in rows)])
    described = {"model": embedder.model, "dimension": embedder.dimension}
    with change() as changed:
        changed.touch(paper.pk)
        Embedding.objects.filter(paper=paper).update(vector=embedding.to_blob(whole), **described)
        for row, vector in zip(rows, of_pages, strict=True):
            PageEmbedding.objects.filter(pk=row.pk).update(vector=embedding.to_blob(vector), **described)


def _embedded_text(paper: Paper) -> str:
    return "\n\n".join(part for part in (paper.title, paper.authors, paper.summary) if part)


def _ids_of(papers: Sequence[int] | set[int]) -> Ids:
    embedded = Embedding.objects.filter(paper__in=papers).values_list("paper_id", flat=True)
    pages = PageEmbedding.objects.filter(paper__in=papers).values_list("pk", flat=True)
    return {PAPERS: {f"paper-{key}" for key in embedded}, PAGES: {f"page-{key}" for key in pages}}


def _edit(ids: Ids) -> Edit:
    records = {PAPERS: _paper_records(_keys(ids[PAPERS])), PAGES: _page_records(_keys(ids[PAGES]))}
    edit = Edit()
    for name, present in records.items():
        edit.write[name] = present
        edit.delete[name] = sorted(ids[name] - {record.id for record in present})
    return edit


def _keys(ids: set[str]) -> list[int]:
    return sorted(int(id_.rpartition("-")[2]) for id_ in ids)


def _paper_records(keys: Sequence[int]) -> list[Record]:
    rows = Embedding.objects.filter(paper__in=keys).select_related("paper").order_by("paper_id")
    return [
        _record(row, f"paper-{row.paper_id}", "\n\n".join(part for part in (row.paper.title, row.paper.summary) if part))
        for row in rows
    ]


def _page_records(keys: Sequence[int]) -> list[Record]:
    rows = PageEmbedding.objects.filter(pk__in=keys).select_related("paper").order_by("pk")
    return [_record(row, f"page-{row.pk}", row.text, page=row.page) for row in rows]


def _record(row: Embedding | PageEmbedding, id_: str, document: str, **facts: int) -> Record:
    paper = row.paper
    metadata = {"paper_id": paper.pk, "title": paper.title, "file_name": paper.file_name, "model": row.model, **facts}
    return Record(id=id_, vector=embedding.from_blob(row.vector), document=document, metadata=metadata)


def _settle_again(notes: Sequence[unsettled.Note]) -> None:
    """Make the vectors of *notes* equal to the rows after a failed change. If this fails too, the notes stay."""
    try:
        with transaction.atomic(durable=True):
            store().apply(_edit(unsettled.together(note.ids for note in notes)))
    except Exception:
        log.exception("could not set the vectors of a failed change back; the next change will")
    else:
        for note in notes:
            note.remove()


def _drop_originals(papers: Sequence[Paper]) -> None:
    """Remove the originals of *papers* that no row names. SQLite's write lock keeps others from adding one meanwhile."""
    with transaction.atomic(durable=True):
        hashes = [paper.content_hash for paper in papers]
        named = set(Paper.objects.filter(content_hash__in=hashes).values_list("content_hash", flat=True))
        originals.drop(paper for paper in papers if paper.content_hash not in named)
