"""The overview: verdict, figures, running jobs, timeline, next runs and latest events."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, JsonResponse
from django.shortcuts import render as render_template
from django.urls import reverse
from django.utils import timezone

from backups import moments
from backups.conf import configuration
from backups.identity.sign_in import actor_of
from backups.jobs import submit
from backups.models import AuditEntry, Job
from backups.monitoring import readiness
from backups.monitoring.gathering import gather
from backups.monitoring.readiness import State
from backups.monitoring.verdict import Success, verdict
from backups.templatetags.backups_jobs import TONES, job_title, kind_title

from . import running, timeline
from .frame import address_of, page, render, say

_NEXT = 5
_EVENTS = 6
_LOOK_AT = 60
"""Audit entries that are read to find the latest events."""


@page("backups.view_backup")
def overview(request: HttpRequest) -> HttpResponse:
    """The overview page."""
    now = moments.now()
    facts = gather(now)
    found = verdict(facts)
    chosen = timeline.RANGES.get(request.GET.get("range", ""), timeline.RANGES[timeline.DEFAULT])
    context = {
        "verdict": found,
        "restored": facts.last_restore,
        "conditions": found.reasons,
        "tone": {"protected": "good", "at_risk": "warn", "unprotected": "bad"}[found.level.value],
        "empty": any(reason.code == "nothing" for reason in found.reasons) and found.newest is None,
        "days": _bars(found.success),
        "rate": _rate(found.success),
        "next": found.next[:_NEXT],
        "missed": [plan for plan in facts.plans if plan.enabled and plan.missed],
        "ranges": timeline.RANGES.values(),
        "range": chosen,
        "timeline": timeline.timeline(chosen, now),
        "events": _events(request),
        "open_items": [item for item in readiness.assess(facts, readiness.gather(now)).items if item.state != State.MET],
        "sources": configuration().sources(configuration().default_set),
        **_active(),
    }
    return render(request, "backups/dashboard.html", "Overview", context)


@page("backups.view_backup")
def active(request: HttpRequest) -> HttpResponse:
    """Running and queued jobs, polled every second: only the changing parts while the jobs are the same."""
    context = _active()
    same = request.GET.get("seen") == context["seen"]
    answer = render_template(request, "backups/active_parts.html" if same else "backups/active.html", context)
    if not same:
        answer.headers["HX-Retarget"], answer.headers["HX-Reswap"] = "#active", "outerHTML"
        answer.headers["HX-Trigger"] = "jobs-changed"
    return answer


@page("backups.create_backup", methods=("POST",))
def back_up(request: HttpRequest) -> HttpResponse:
    """Queue a backup, and return to the overview, which shows its progress."""
    wanted = set(request.POST.getlist("only"))
    stores = [f"{source.kind}:{source.name}" for source in configuration().sources(configuration().default_set)]
    everything = wanted >= set(stores) or not wanted
    job = submit.back_up(
        actor_of(request),
        backup=request.POST.get("backup", "incremental"),
        only=[] if everything else sorted(wanted),
        note=request.POST.get("note", "").strip(),
    )
    say(request, f"{job_title(job)} queued.")
    return HttpResponseRedirect(reverse("backups:dashboard"))


@page("backups.view_backup")
def figures(request: HttpRequest) -> HttpResponseBase:
    """Sizes and durations of backups: a table by day, or with ``?format=json`` all points for the charts."""
    chosen = timeline.RANGES.get(request.GET.get("range", ""), timeline.RANGES["30d"])
    now = moments.now()
    if request.GET.get("format") == "json":
        span = {
            "from": round((now - chosen.length).timestamp()),
            "to": round(now.timestamp()),
            "zone": timezone.get_current_timezone_name(),
        }
        return JsonResponse({"range": chosen.name, **span, **timeline.columns(timeline.figures(chosen, now))})
    rows = list(reversed(timeline.figures(chosen, now, daily=True)))
    context = {"figures": rows, "ranges": timeline.RANGES.values(), "range": chosen}
    return render(request, "backups/figures.html", "Sizes and durations", context)


def _active() -> dict[str, Any]:
    jobs = running.active()
    seen = ",".join(f"{one.job.pk.hex[:12]}{one.job.state[0]}" for one in jobs)
    return {"active": jobs, "seen": seen, "next_page": reverse("backups:dashboard")}


@dataclass(frozen=True, slots=True, kw_only=True)
class DayBar:
    """A day of the small chart; positions and heights in percent."""

    x: float
    done: float
    failed: float
    title: str

    @property
    def top(self) -> float:
        return round(100 - self.done, 1)

    @property
    def failed_top(self) -> float:
        """The top of the bar of failed backups, which is stacked on the other."""
        return round(100 - self.done - self.failed, 1)


def _rate(success: Success) -> str:
    """In percent, rounded down, so that 743 of 744 is not 100 %."""
    return "" if success.rate is None else f"{int(success.rate * 1000) / 10:g} %"


def _bars(success: Success) -> list[DayBar]:
    most = max((day.done + day.failed for day in success.days), default=0) or 1
    width = 100 / max(len(success.days), 1)
    drawn = []
    for number, day in enumerate(success.days):
        failed = max(8.0, day.failed / most * 100) if day.failed else 0.0
        title = f"{day.day:%a %d %b}: {day.done} succeeded" + (f", {day.failed} failed" if day.failed else "")
        done = min(day.done / most * 100, 100 - failed)
        drawn.append(DayBar(x=round(number * width, 3), done=round(done, 1), failed=round(failed, 1), title=title))
    return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An entry in the list of latest events."""

    time: datetime
    text: str
    who: str
    tone: str
    address: str
    count: int = 1


_NOT_SHOWN = {"signed_in", "signed_out", "requested", "refused"}
_WORDS = {
    "backup.held": "Backup held",
    "backup.released": "Backup released",
    "job.cancelled": "Queued job cancelled",
    "job.cancel_asked": "Job cancellation requested",
    "plan.made": "Plan added",
    "plan.removed": "Plan deleted",
    "plan.paused": "Plan paused",
    "plan.resumed": "Plan resumed",
}
_ENDS = {Job.State.SUCCEEDED, Job.State.FAILED, Job.State.CANCELLED, Job.State.INTERRUPTED}


def _events(request: HttpRequest) -> list[Event]:
    """The latest events of the audit log, without requests and without successful health checks and previews."""
    if not request.user.has_perm("backups.view_audit"):
        return []
    events: list[Event] = []
    rows = AuditEntry.objects.order_by("-number").values_list("time", "who", "action", "target", "after")[:_LOOK_AT]
    for time, who, action, target, after in rows:
        subject, _, what = action.rpartition(".")
        if what in _NOT_SHOWN or action in ("health.succeeded", "preview.succeeded"):
            continue
        text, tone = _WORDS.get(action, f"{subject.replace('_', ' ').capitalize()} {what.replace('_', ' ')}"), ""
        if what in _ENDS:
            text, tone = f"{kind_title(subject)}: {Job.State(what).label.lower()}", TONES[Job.State(what)]
            noted = after if isinstance(after, dict) else {}
            if warning := noted.get("warning"):
                text, tone = f"{kind_title(subject)}: {Job.WITH_WARNINGS.lower()}", "warn"
            error = warning or (noted.get("error") if what == Job.State.FAILED else None)
            text += f". {str(error).split('. ')[0].rstrip('.')}" if error else ""
        last = events[-1] if events else None
        if last is not None and (last.text, last.who) == (text, who):
            events[-1] = replace(last, count=last.count + 1, address=_area(target))
            continue
        if len(events) == _EVENTS:
            break
        events.append(Event(time=time, text=text, who=who, tone=tone, address=address_of(target)))
    return events


_AREAS = {"job": "backups:jobs", "backup": "backups:backups", "plan": "backups:plans"}


def _area(target: str) -> str:
    """The list that contains the target."""
    name = _AREAS.get(target.partition(":")[0])
    return reverse(name) if name else ""
