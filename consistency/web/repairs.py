"""The plan of a repair, one repair with its journal, and undoing or resuming it."""

from collections.abc import Iterable, Iterator
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups.engine.runtime.wording import counted
from consistency.checking import latest_live_check
from consistency.engine.findings import FindingKind
from consistency.frame import Work, frame, page
from consistency.models import Check, Repair, Step
from consistency.repairs.journal import still_lost
from consistency.web.page import object_or_404, paginate, queue_work, render_page, running_context
from consistency.web.summary import Verdict, summary_of

_MOST_FINDINGS = 500
_MOST_REASONS = 3
_DONE = {
    Step.State.APPLIED: "repaired",
    Step.State.UNDONE: "put back",
    Step.State.KEPT: "changed since the repair and kept",
    Step.State.SKIPPED: "skipped",
    Step.State.PLANNED: "not begun",
    Step.State.BEGUN: "begun",
    Step.State.UNDOING: "being put back",
}


@page("consistency.view_check", methods=("GET", "POST"), dangerous=True)
def plan(request: HttpRequest, number: int) -> HttpResponse:
    """What a repair of a check's findings would do; POST queues it."""
    check = object_or_404(Check.objects.all(), number)
    chosen = tuple(kind for kind in request.POST.getlist("kind") if kind in [*FindingKind])
    running = running_context(request)
    problem = ""
    if request.method == "POST":
        problem = _refusal(request, running)
        if not problem:
            work = Work(
                do="repair",
                check=check.pk,
                everything=request.POST.get("scope") == "all",
                rows=request.POST.get("scope") == "rows",
                kinds=chosen,
                findings=tuple(_keys(request.POST.getlist("finding")[:_MOST_FINDINGS])),
            )
            return queue_work(request, work, "Repair queued.", reverse("consistency:plan", args=[check.pk]))
    latest = latest_live_check()
    context = {
        "check": check,
        "problem": problem,
        "chosen": chosen,
        "outdated": latest if latest is not None and latest != check else None,
        **summary_of(check),
        **running,
    }
    return render_page(request, "consistency/plan.html", "Repair plan", context)


@page("consistency.view_check")
def repair(request: HttpRequest, number: int) -> HttpResponse:
    """One repair and its journal."""
    shown = object_or_404(Repair.objects.select_related("of_check"), number)
    pages = paginate(request, shown.steps.defer("before", "after").select_related("finding").order_by("pk"))
    context = {
        "repair": shown,
        "outcome": _outcome(shown),
        "steps": pages,
        "pages": pages,
        "snapshot_address": frame().snapshot(shown.snapshot) if shown.snapshot else "",
        **running_context(request),
    }
    return render_page(request, "consistency/repair.html", f"Repair {shown.pk}", context)


@page("consistency.repair_finding", methods=("POST",), dangerous=True)
def undo(request: HttpRequest, number: int) -> HttpResponse:
    """Queue the undoing of a repair."""
    shown = object_or_404(Repair.objects.all(), number)
    back = reverse("consistency:repair", args=[shown.pk])
    if shown.state == Repair.State.UNDONE:
        messages.warning(request, f"Repair {shown.pk} is already undone.")
        return HttpResponseRedirect(back)
    if not shown.can_be_undone:
        messages.warning(request, f"Repair {shown.pk} cannot be undone: it changed nothing, or rebuilt an index.")
        return HttpResponseRedirect(back)
    return queue_work(request, Work(do="undo", repair=shown.pk), f"Undo of repair {shown.pk} queued.", back)


@page("consistency.repair_finding", methods=("POST",), dangerous=True)
def resume(request: HttpRequest) -> HttpResponse:
    """Queue the resuming of the interrupted repair."""
    return queue_work(request, Work(do="resume"), "Resuming the repair is queued.", reverse("consistency:overview"))


def with_counts(repairs: Iterable[Repair]) -> Iterator[dict[str, Any]]:
    """Each repair with its colour, and how many of its records are repaired, or undone."""
    for item in repairs:
        counts = item.counts()
        undone = item.state == Repair.State.UNDONE
        yield {
            "repair": item,
            "tone": _outcome(item).tone,
            "done": counts.get(Step.State.UNDONE if undone else Step.State.APPLIED, 0),
            "total": sum(counts.values()),
        }


def _outcome(made: Repair) -> Verdict:
    """What a repair did, in a sentence: nothing, if every step was skipped, with the reasons."""
    counts, lost = made.counts(), still_lost(made)
    records = {state: counted(number, "record", "records") for state, number in counts.items()}
    parts = [f"{records[state]} {done}." for state, done in _DONE.items() if state in counts]
    if made.state == Repair.State.UNDONE:
        return Verdict(tone="", word="Undone.", sentence=" ".join(parts))
    if made.state != Repair.State.DONE:
        return Verdict(tone="warn", word=f"Unfinished ({made.get_state_display().lower()}).", sentence=" ".join(parts))
    if Step.State.APPLIED not in counts:
        notes = made.steps.order_by("note").values_list("note", flat=True).distinct()[:_MOST_REASONS]
        return Verdict(tone="warn", word="Nothing was repaired.", sentence=" ".join([*parts, *notes]))
    if lost:
        parts += [
            "Still lost: " + ", ".join(f"{counted(lost[table], 'row', 'rows')} of {table}" for table in sorted(lost)) + "."
        ]
    return Verdict(tone="warn" if lost else "good", word="Repaired.", sentence=" ".join(parts))


def _refusal(request: HttpRequest, running: dict[str, Any]) -> str:
    if not request.user.has_perm("consistency.repair_finding"):
        return "Repairing needs the permission to repair findings. Nothing was changed."
    if running["unfinished"] is not None:
        return "Another repair is unfinished. Resume or undo it first. Nothing was changed."
    if request.POST.get("scope") == "all" and not request.POST.get("sure"):
        return (
            "This deletes vectors, which completes the loss of their rows, or rebuilds an index, which cannot be undone: "
            "tick the box to confirm. Nothing was changed."
        )
    return ""


def _keys(texts: Iterable[str]) -> Iterator[int]:
    return (int(text) for text in texts if text.isdecimal() and len(text) < 19)
