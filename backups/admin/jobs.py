"""What happened, and what is running?"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect, StreamingHttpResponse
from django.shortcuts import render as render_template
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme

from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.engine.names import BACKUP_ID
from backups.identity.sign_in import actor_of
from backups.jobs import submit
from backups.jobs.types import RESTORE_IN_PLACE, job_types
from backups.models import Job, JobLog, Plan
from backups.templatetags.backups_jobs import job_title

from . import outcome, running
from .frame import moment_of, page, render, say

PAGE = 50
SEARCHED = 20_000
"""Of so many jobs, from where the page begins, notes and errors are searched for a text: the work for a page is bounded."""

LINES = 200
"""Log lines shown at once."""

_CHUNK = 2_000


# The list


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a list of jobs was asked for: filters, and where it begins."""

    state: str = ""
    kind: str = ""
    via: str = ""
    plan: str = ""
    text: str = ""

    @classmethod
    def of(cls, request: HttpRequest) -> Wanted:
        """Read the address; what is not known is left out."""
        given = request.GET
        return cls(
            state=given.get("state", "") if given.get("state") in Job.State.values else "",
            kind=given.get("kind", "")[:40],
            via=given.get("via", "") if given.get("via") in Job.Via.values else "",
            plan=given.get("plan", "")[:64],
            text=given.get("q", "").strip()[:200],
        )

    def as_query(self, **more: str) -> str:
        """The address's query, with *more*."""
        named = {"state": self.state, "kind": self.kind, "via": self.via, "plan": self.plan, "q": self.text, **more}
        return urlencode({name: value for name, value in named.items() if value})

    @property
    def anything(self) -> bool:
        """Whether the list is filtered."""
        return bool(self.as_query())


@page("backups.view_job")
def overview(request: HttpRequest) -> HttpResponse:
    """The jobs, newest first, 50 a page; pages go on from a job, so that a page costs the same however far down it is."""
    wanted = Wanted.of(request)
    older, newer = _cursor(request.GET.get("before")), _cursor(request.GET.get("after"))
    rows = _filtered(wanted)
    if newer is not None:
        rows = rows.filter(_newer(newer)).order_by("created", "id")
    elif older is not None:
        rows = rows.filter(_older(older))
    listed, searched_to = _page(rows, wanted, forward=newer is not None)
    more = len(listed) > PAGE
    listed = listed[:PAGE]
    if newer is not None:
        listed.reverse()
    has_newer = bool(listed) and (more if newer is not None else older is not None)
    has_older = bool(listed) and (newer is not None or more)
    context = {
        "jobs": listed,
        "wanted": wanted,
        "states": Job.State.choices,
        "kinds": sorted(job_types().values(), key=lambda kind: kind.title),
        "vias": Job.Via.choices,
        "plans": Plan.objects.order_by("name")[:200],
        "newer": wanted.as_query(after=_point(listed[0])) if has_newer else "",
        "older": wanted.as_query(before=_point(listed[-1])) if has_older else "",
        "further": wanted.as_query(before=_point(searched_to)) if searched_to is not None and not has_older else "",
        "searched": SEARCHED,
        "counts": _counts(),
        "default_set": configuration().default_set,
        "live": any(not job.has_ended for job in listed),
    }
    return render(request, "backups/jobs.html", "Jobs", context)


def _filtered(wanted: Wanted) -> QuerySet[Job]:
    rows = Job.objects.select_related("plan").defer("result", "phases")
    for name in ("state", "kind", "via"):
        if value := getattr(wanted, name):
            rows = rows.filter(**{name: value})
    if wanted.plan:
        plan = Plan.objects.filter(name=wanted.plan).first()
        rows = rows.filter(plan=plan) if plan is not None else rows.none()
    return rows.order_by("-created", "-id")


def _page(rows: QuerySet[Job], wanted: Wanted, *, forward: bool) -> tuple[list[Job], Job | None]:
    """A page of jobs and one more; and the last job that was searched, where a search stopped before the end."""
    if not wanted.text:
        return list(rows[: PAGE + 1]), None
    if exact := _named(wanted.text):
        return list(rows.filter(exact)[: PAGE + 1]), None
    within = rows[SEARCHED - 1 : SEARCHED].first()
    if within is not None:
        point = (within.created, within.pk)
        rows = rows.exclude(_newer(point)) if forward else rows.exclude(_older(point))
    text = wanted.text
    found = Q(note__icontains=text) | Q(by__icontains=text) | Q(backup_id__icontains=text) | Q(error__message__icontains=text)
    return list(rows.filter(found)[: PAGE + 1]), None if forward else within


def _named(text: str) -> Q | None:
    """A text that names one thing: a job by its id, or the backup that it made."""
    if BACKUP_ID.fullmatch(text):
        return Q(backup_id=text)
    try:
        return Q(pk=uuid.UUID(text))
    except ValueError:
        return None


def _counts() -> dict[str, int]:
    return {state: Job.objects.filter(state=state).count() for state in (Job.State.RUNNING, Job.State.QUEUED)}


_Cursor = tuple[datetime, uuid.UUID]


def _point(job: Job) -> str:
    return f"{job.created.isoformat()}_{job.pk.hex}"


def _cursor(text: str | None) -> _Cursor | None:
    moment, _, key = (text or "").partition("_")
    created = moment_of(moment)
    try:
        return None if created is None else (created, uuid.UUID(key))
    except ValueError:
        return None


def _older(than: _Cursor) -> Q:
    return Q(created__lte=than[0]) & (Q(created__lt=than[0]) | Q(id__lt=than[1]))


def _newer(than: _Cursor) -> Q:
    return Q(created__gte=than[0]) & (Q(created__gt=than[0]) | Q(id__gt=than[1]))


# One job


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """What is shown of a log: lines of a level or with a text, and where to go on in both directions."""

    level: str
    text: str
    lines: tuple[JobLog, ...]
    earlier: int | None
    last: int

    def as_query(self, **more: object) -> str:
        """The address's query, with *more*."""
        named: dict[str, object] = {"level": self.level, "q": self.text, **more}
        return urlencode({name: value for name, value in named.items() if value not in ("", None)})

    @property
    def query(self) -> str:
        """What is asked for, without where it begins."""
        return self.as_query()


_FROM = {
    JobLog.Level.WARNING: (JobLog.Level.WARNING, JobLog.Level.ERROR),
    JobLog.Level.ERROR: (JobLog.Level.ERROR,),
}


@page("backups.view_job")
def job(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """One job: how it stands, its phases, what it came to, and its log."""
    found = _found(job_id)
    context = _told(request, found)
    return render(request, "backups/job.html", job_title(found), context)


@page("backups.view_job")
def live(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The moving parts of a job that runs: asked for every second. Its end brings the whole page."""
    found = _found(job_id)
    if request.GET.get("state") != found.state:
        answer = render_template(request, "backups/job_body.html", _told(request, found))
        answer.headers["HX-Retarget"], answer.headers["HX-Reswap"] = "#job", "outerHTML"
        return answer
    log = _log(request, found, after=_number(request.GET.get("after")) or 0)
    context = {"job": found, "told": outcome.told(found), "live": running.live(found), "log": log, "bars": running.bars(found)}
    return render_template(request, "backups/job_parts.html", context)


@page("backups.view_job")
def download(request: HttpRequest, job_id: uuid.UUID) -> HttpResponseBase:
    """The whole log as text, sent while it is read."""
    found = _found(job_id)
    answer = StreamingHttpResponse(_text(found), content_type="text/plain; charset=utf-8")
    answer.headers["Content-Disposition"] = f'attachment; filename="{found.kind}-{found.pk}.log"'
    return answer


@page("backups.cancel_job", methods=("POST",))
def cancel(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """End a job, and go back to where it was asked for."""
    found = submit.cancel(actor_of(request), _found(job_id))
    if found.state == Job.State.CANCELLED:
        say(request, f"{job_title(found)}: cancelled before it began.")
    elif found.state == Job.State.RUNNING:
        say(request, f"{job_title(found)}: it ends within two seconds, and leaves nothing behind.")
    else:
        say(request, f"{job_title(found)} had ended already.")
    return HttpResponseRedirect(_back(request, found))


@page("backups.view_job", methods=("POST",))
def again(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Queue a job like this one, and go to it."""
    found = _found(job_id)
    if not may_run_again(request, found):
        raise PermissionDenied
    fresh = submit.run_again(actor_of(request), found)
    say(request, f"{job_title(fresh)} is asked for again.")
    return HttpResponseRedirect(fresh.get_absolute_url())


def may_run_again(request: HttpRequest, found: Job) -> bool:
    """Whether who asks may ask for a job of that kind; a restore in place goes through its steps again."""
    if not found.has_ended or found.kind == RESTORE_IN_PLACE.name:
        return False
    try:
        return request.user.has_perm(submit.permission_for(found.kind))
    except UsageError:
        return False  # this project no longer has that kind


def _found(job_id: uuid.UUID) -> Job:
    found = Job.objects.select_related("plan", "again_after", "tried_again").filter(pk=job_id).first()
    if found is None:
        raise Http404("There is no such job. Ended jobs are kept for a time only.")
    return found


def _told(request: HttpRequest, found: Job) -> dict[str, Any]:
    return {
        "job": found,
        "told": outcome.told(found),
        "live": None if found.has_ended else running.live(found),
        "bars": running.bars(found),
        "result": outcome.result(found),
        "pause": running.longest_pause(found) if found.has_ended else None,
        "again": may_run_again(request, found),
        "tried_again": getattr(found, "tried_again", None),
        "log": _log(request, found),
        "keep_logs_days": configuration().keep_logs_days,
        "levels": [("", "All lines"), ("warning", "Warnings and errors"), ("error", "Errors")],
    }


def _back(request: HttpRequest, found: Job) -> str:
    wanted = request.POST.get("next", "")
    return wanted if url_has_allowed_host_and_scheme(wanted, {request.get_host()}) else found.get_absolute_url()


# Its log


def _log(request: HttpRequest, found: Job, *, after: int | None = None) -> LogView:
    """The newest lines, or those before ``before=ID``, or (for who follows) all after *after*."""
    level, text = request.GET.get("level", ""), request.GET.get("q", "").strip()[:200]
    rows = JobLog.objects.filter(job=found)
    if level in _FROM:
        rows = rows.filter(level__in=_FROM[JobLog.Level(level)])
    else:
        level = ""
    if text:
        rows = rows.filter(line__icontains=text)
    if after is not None:
        lines = list(rows.filter(id__gt=after).order_by("id")[:_CHUNK])
        return LogView(level=level, text=text, lines=tuple(lines), earlier=None, last=lines[-1].pk if lines else after)
    before = _number(request.GET.get("before"))
    if before is not None:
        rows = rows.filter(id__lt=before)
    newest = list(rows.order_by("-id")[: LINES + 1])
    shown = tuple(reversed(newest[:LINES]))
    return LogView(
        level=level,
        text=text,
        lines=shown,
        earlier=shown[0].pk if len(newest) > LINES else None,
        last=shown[-1].pk if shown else 0,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 19 else None


def _text(found: Job) -> Iterator[str]:
    """The log in pieces, each read by its key: no cursor is held open while a slow client reads."""
    after = 0
    while True:
        lines = list(
            JobLog.objects.filter(job=found, id__gt=after).order_by("id").values_list("id", "time", "level", "line")[:_CHUNK]
        )
        if not lines:
            return
        after = lines[-1][0]
        yield "".join(
            f"{timezone.localtime(time).isoformat(timespec='milliseconds')} {level:<7} {line}\n"
            for _, time, level, line in lines
        )


urlpatterns: list[URLPattern] = [
    path("jobs/", overview, name="jobs"),
    path("jobs/<uuid:job_id>/", job, name="job"),
    path("jobs/<uuid:job_id>/live/", live, name="job_live"),
    path("jobs/<uuid:job_id>/log/", download, name="job_log"),
    path("jobs/<uuid:job_id>/cancel/", cancel, name="cancel"),
    path("jobs/<uuid:job_id>/again/", again, name="again"),
]
