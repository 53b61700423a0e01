"""The overview: do rows and vectors agree, what runs, and the button that checks again."""

from collections.abc import Iterator
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone

from backups.engine.runtime.wording import clock, counted
from consistency.checking import changed_since, latest_live_check
from consistency.frame import Work, page
from consistency.models import Check, Repair
from consistency.web.page import queue_work, render_page, running_context, running_state
from consistency.web.repairs import with_counts
from consistency.web.summary import SEVERITIES, present_verdict, summary_of

_BARS = 30
_HISTORY = 10
_REPAIRS = 5


@page("consistency.view_check")
def overview(request: HttpRequest) -> HttpResponse:
    """Whether the stores agree, what does not, and what was repaired."""
    live = Check.objects.filter(source=Check.LIVE).order_by("-started", "-pk")
    last = latest_live_check()
    newest = live.exclude(state=Check.State.RUNNING).first()
    recent = list(live.filter(state=Check.State.DONE)[:_BARS])
    context = {
        "last": last,
        "verdict": present_verdict(),
        "known": last is not None and not changed_since(last),
        "not_done": newest if newest is not None and newest.state != Check.State.DONE else None,
        "bars": list(_bars(recent[::-1])),
        "most": max((check.findings_count for check in recent), default=0),
        "checks": list(Check.objects.order_by("-started", "-pk")[:_HISTORY]),
        "repairs": list(with_counts(Repair.objects.order_by("-started", "-pk")[:_REPAIRS])),
        **summary_of(last),
        **running_context(request),
    }
    return render_page(request, "consistency/overview.html", "Consistency", context)


@page("consistency.view_check")
def running(request: HttpRequest) -> HttpResponse:
    """What runs now; the pages fetch it every second while something does."""
    context = running_context(request)
    if request.GET.get("seen", "") != running_state(context):
        answer = HttpResponse(status=204)
        answer.headers["HX-Refresh"] = "true"
        return answer
    context |= {"seen": running_state(context), "next_page": reverse("consistency:overview")}
    return render(request, "consistency/live.html", context)


@page("consistency.run_check", methods=("POST",))
def check_now(request: HttpRequest) -> HttpResponse:
    """Queue a check of the live stores."""
    return queue_work(request, Work(do="check"), "Check queued.", reverse("consistency:overview"))


def _bars(checks: list[Check]) -> Iterator[dict[str, Any]]:
    """The trend: a bar for each check, of findings by severity, in percent of the highest; a dot for no findings."""
    most = max((check.findings_count for check in checks), default=0) or 1
    width = 100 / max(len(checks), 12)
    for number, check in enumerate(checks):
        parts, top = [], 100.0
        for level in reversed(SEVERITIES):
            share = check.severities.get(level, 0) / most * 92
            if share:
                height = max(share, 1.5)
                top -= height
                parts.append({"level": level, "y": round(top, 2), "height": round(height, 2)})
        findings = counted(check.findings_count, "finding", "findings") if check.findings_count else "no findings"
        yield {
            "check": check,
            "x": round(number * width + width * 0.1, 2),
            "width": round(width * 0.8, 2),
            "middle": round((number + 0.5) * width, 2),
            "parts": parts,
            "title": f"{clock(timezone.localtime(check.started))}: {findings}",
        }
