"""The library's pages and its JSON API."""

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from time import monotonic

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core.paginator import Paginator
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from backups.engine.gate import GateTimeout
from refserver.library import originals
from refserver.library.embedding import EmbeddingUnavailable
from refserver.library.models import Paper
from refserver.library.search import LONGEST_QUERY, MOST_RESULTS, Hit, OtherModel, search

_PAGE_SIZE = 20
_RETRY_AFTER = "30"
View = Callable[..., HttpResponseBase]


class Refused(Exception):
    """A refused request: the reason and the HTTP status."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


def for_readers(view: View) -> View:
    """Allow readers: everyone, or signed-in users if REFSERVER_OPEN_LIBRARY is off."""

    @wraps(view)
    def checked(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
        if settings.REFSERVER_OPEN_LIBRARY:
            return view(request, *args, **kwargs)
        if request.user.is_authenticated:
            response = view(request, *args, **kwargs)
            response.headers.setdefault("Cache-Control", "private, no-store")  # not shown from a cache after signing out
            return response
        if request.path.startswith("/api/"):
            return problem(Refused(HTTPStatus.UNAUTHORIZED, "Sign in first: this library is not public."))
        return redirect_to_login(request.get_full_path())

    return checked


@require_safe
@for_readers
def home(request: HttpRequest) -> HttpResponse:
    """The search box, and below it the results or the list of papers."""
    query = request.GET.get("q", "").strip()
    context: dict[str, object] = {"query": query, "longest_query": LONGEST_QUERY}
    status = HTTPStatus.OK
    if query:
        try:
            context["hits"] = _searched(query, 20)
        except Refused as error:
            context["problem"], status = error.detail, error.status
    else:
        papers = Paper.objects.only("title", "authors", "year", "venue")
        context["page"] = Paginator(papers, _PAGE_SIZE).get_page(request.GET.get("page"))
    context["total"] = Paper.objects.count()
    return render(request, "library/home.html", context, status=status)


@require_safe
@for_readers
def paper(request: HttpRequest, pk: int) -> HttpResponse:
    """One paper with its facts and pages."""
    found = get_object_or_404(Paper, pk=pk)
    context = {
        "paper": found,
        "facts": found.metadata.all(),
        "pages": found.pages.defer("vector"),
        "has_original": originals.is_kept(found),
    }
    return render(request, "library/paper.html", context)


@require_safe
@for_readers
def original(request: HttpRequest, pk: int) -> FileResponse:
    """The ingested document, always as a download: its content must not run on this site."""
    found = get_object_or_404(Paper, pk=pk)
    try:
        stream = originals.opened(found)
    except FileNotFoundError:
        raise Http404("The original of this paper is missing.") from None
    return FileResponse(stream, as_attachment=True, filename=found.file_name)


@require_safe
@for_readers
def api_search(request: HttpRequest) -> JsonResponse:
    """Answer `?q=...&limit=...` by similarity as JSON; errors as problem+json."""
    started = monotonic()
    try:
        query, limit = _query_of(request), _limit_of(request)
        hits = _searched(query, limit)
    except Refused as error:
        return problem(error)
    results = [_as_json(request, hit) for hit in hits]
    seconds = round(monotonic() - started, 4)
    return JsonResponse({"query": query, "count": len(results), "seconds": seconds, "results": results})


def problem(error: Refused) -> JsonResponse:
    """*error* as a problem of RFC 9457."""
    body = {"type": "about:blank", "title": error.status.phrase, "status": error.status, "detail": error.detail}
    response = JsonResponse(body, status=error.status, content_type="application/problem+json")
    if error.status is HTTPStatus.SERVICE_UNAVAILABLE:
        response["Retry-After"] = _RETRY_AFTER
    return response


def _searched(query: str, limit: int) -> list[Hit]:
    if len(query) > LONGEST_QUERY:
        raise Refused(HTTPStatus.BAD_REQUEST, f"The query is longer than {LONGEST_QUERY} characters; shorten it.")
    if "\0" in query:
        raise Refused(HTTPStatus.BAD_REQUEST, "The query contains a NUL character; remove it.")
    try:
        return search(query, limit)
    except GateTimeout as error:
        detail = "The search index is being backed up or restored. Nothing is lost; try again in a moment."
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, detail) from error
    except (OtherModel, EmbeddingUnavailable) as error:
        raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"Search is not available: {error}.") from error


def _query_of(request: HttpRequest) -> str:
    query = request.GET.get("q", "").strip()
    if not query:
        raise Refused(HTTPStatus.BAD_REQUEST, "Add a query: /api/search?q=words&limit=10.")
    return query


def _limit_of(request: HttpRequest) -> int:
    text = request.GET.get("limit", "10")
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MOST_RESULTS):
        raise Refused(HTTPStatus.BAD_REQUEST, f"limit must be a whole number from 1 to {MOST_RESULTS}.")
    return int(text)


def _as_json(request: HttpRequest, hit: Hit) -> dict[str, object]:
    return {
        "id": hit.id,
        "paper": hit.paper.pk,
        "title": hit.paper.title,
        "authors": hit.paper.author_list,
        "year": hit.paper.year,
        "score": hit.score,
        "page": hit.page,
        "snippet": hit.snippet,
        "url": request.build_absolute_uri(hit.paper.get_absolute_url()),
    }
