"""Search by similarity: compares the query's vector with those of papers and pages."""

import re
from dataclasses import dataclass

from refserver.library import embedding
from refserver.library.models import Embedding, PageEmbedding, Paper
from refserver.library.vectors import PAGES, PAPERS, store

LONGEST_QUERY = 500
MOST_RESULTS = 50
_LEAST_SIMILARITY = 0.15
"""Below this, the similarity of two texts may be chance."""
_SNIPPET = 280
_HEADING = re.compile(r"^#{1,6} +", re.MULTILINE)


class OtherModel(Exception):
    """The library's vectors come from another model than the configured one."""

    def __init__(self, stored: str, configured: str) -> None:
        super().__init__(
            f"the library was embedded with {stored}, but the settings name {configured}; "
            "run `manage.py reembed`, or set REFSERVER_EMBEDDING back"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A paper found; *page* and *snippet* are those of its most similar page."""

    id: str
    paper: Paper
    score: float
    page: int | None
    snippet: str

    @property
    def percent(self) -> int:
        return round(100 * self.score)


def search(query: str, limit: int) -> list[Hit]:
    """At most *limit* papers, the most similar to *query* first.

    A paper's score is that of its own vector or of its most similar page, whichever is higher. Vectors without rows are
    ignored. Raises `OtherModel`, `EmbeddingUnavailable`, and `GateTimeout` while a restore exchanges the vectors.
    """
    embedder = embedding.configured()
    other = Embedding.objects.exclude(model=embedder.model).values_list("model", flat=True).first()
    if other is not None:
        raise OtherModel(other, embedder.model)
    vector = embedder.embed([query])[0]
    reach = min(4 * limit, 100)  # several pages of one paper may be near
    whole = {_key(m.id): m.similarity for m in store().nearest(PAPERS, vector, reach)}
    pages = {_key(m.id): m.similarity for m in store().nearest(PAGES, vector, reach)}
    best = _best_pages(pages)
    scores = {key: max(whole.get(key, 0.0), best[key][0] if key in best else 0.0) for key in whole.keys() | best.keys()}
    papers = Paper.objects.in_bulk([key for key, score in scores.items() if score >= _LEAST_SIMILARITY])
    ranked = sorted(papers.values(), key=lambda paper: (-scores[paper.pk], paper.pk))[:limit]
    return [_hit(paper, scores[paper.pk], best.get(paper.pk), query) for paper in ranked]


def snippet(text: str, query: str) -> str:
    """A part of *text*, cut at words, around the first word of *query* in it."""
    flat = " ".join(text.split())
    if len(flat) <= _SNIPPET:
        return flat
    lower = flat.lower()
    places = [place for word in query.lower().split() if len(word) > 2 and (place := lower.find(word)) >= 0]
    start = max(0, min(places, default=0) - _SNIPPET // 4)
    start = flat.find(" ", start) + 1 if start else 0
    end = flat.rfind(" ", start, start + _SNIPPET)
    end = end if end > start else start + _SNIPPET
    return ("… " if start else "") + flat[start:end] + (" …" if end < len(flat) else "")


def _best_pages(similarities: dict[int, float]) -> dict[int, tuple[float, PageEmbedding]]:
    best: dict[int, tuple[float, PageEmbedding]] = {}
    for page in PageEmbedding.objects.filter(pk__in=similarities).defer("vector").order_by("pk"):
        similarity = similarities[page.pk]
        if page.paper_id not in best or similarity > best[page.paper_id][0]:
            best[page.paper_id] = (similarity, page)
    return best


def _hit(paper: Paper, score: float, best: tuple[float, PageEmbedding] | None, query: str) -> Hit:
    page = best[1] if best else None
    text = page.text if page else paper.summary
    return Hit(
        id=f"page-{page.pk}" if page else f"paper-{paper.pk}",
        paper=paper,
        score=round(score, 4),
        page=page.page if page else None,
        snippet=snippet(_body(text, paper.title), query),
    )


def _body(text: str, title: str) -> str:
    plain = _HEADING.sub("", text).lstrip()
    return plain.removeprefix(title) or plain


def _key(id_: str) -> int:
    return int(id_.rpartition("-")[2])
