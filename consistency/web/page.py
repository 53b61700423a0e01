"""What all pages share: rendering in the project's frame, queueing work, showing what runs, and paging."""

from collections.abc import Sequence
from typing import Any, TypeVar

from django.contrib import messages
from django.core.paginator import Page, Paginator
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups import moments
from consistency.checking import SILENT
from consistency.declaration import option
from consistency.engine.errors import ConsistencyError
from consistency.frame import Work, frame
from consistency.models import Check
from consistency.repairs.plan import unfinished

PAGE_SIZE = 50
_M = TypeVar("_M", bound=Model)


def render_page(request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
    """A page in the project's frame."""
    full = {**context, "next_page": reverse("consistency:overview")}
    if "checking" in full:
        full["seen"] = running_state(full)
    return frame().render(request, template, title, full)


def queue_work(request: HttpRequest, work: Work, message: str, back: str) -> HttpResponse:
    """Queue *work* and redirect to where it can be watched; to *back* with the reason if that fails."""
    try:
        address = frame().queue(request, work)
    except ConsistencyError as problem:
        messages.error(request, f"{problem.message} {problem.hint}")
        return HttpResponseRedirect(back)
    messages.success(request, message)
    return HttpResponseRedirect(address)


def running_context(request: HttpRequest) -> dict[str, Any]:
    """What runs or is unfinished now, and what this person may start."""
    joined = frame()
    checking = Check.objects.filter(state=Check.State.RUNNING, heard__gt=moments.now() - SILENT)
    return {
        "queues": joined.queues,
        "declared": bool(option("DECLARATION")),
        "unfinished": unfinished().first(),
        "checking": list(checking.order_by("pk")[:3]),
        "can": {
            "check": joined.queues and bool(option("DECLARATION")) and request.user.has_perm("consistency.run_check"),
            "repair": joined.queues and request.user.has_perm("consistency.repair_finding"),
        },
        **joined.running(request),
    }


def running_state(context: dict[str, Any]) -> str:
    """A key of what runs; the page reloads when it changes."""
    cards = [f"{card.job.pk.hex[:8]}{card.job.state}" for card in context.get("cards", ())]
    return "-".join([*cards, *(str(check.pk) for check in context["checking"])])


def paginate(request: HttpRequest, rows: QuerySet[_M] | Sequence[_M]) -> Page[_M]:
    """The page of *rows* that the address names with ``page``; the first or last one if there is no such page."""
    return Paginator(rows, PAGE_SIZE).get_page(request.GET.get("page"))


def object_or_404(rows: QuerySet[_M], key: int) -> _M:
    """The row with this key. Raises `Http404`, also for a key that the database cannot hold."""
    row = rows.filter(pk=key).first() if key < 1 << 63 else None
    if row is None:
        raise Http404(f"There is no {rows.model._meta.verbose_name} {key}.")
    return row
