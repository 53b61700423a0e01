"""Jobs: the list, one job with its log, and what can be done with it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Q, QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
    QueryDict,
    StreamingHttpResponse,
)
from django.shortcuts import render as render_template
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from backups import moments
from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.engine.names import BACKUP_ID
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.jobs import lifecycle, submit
from backups.jobs.types import RESTORE_IN_PLACE, is_dangerous, job_type, job_types
from backups.models import IndexedBackup, Job, JobLog, Plan
from backups.models.listing import Cursor, Filter, Keyset, Part, chosen
from backups.templatetags.backups_jobs import job_title, tone

from . import outcome, running
from .frame import found_or_404, page, render, return_address, say
from .step_up import dangerous

PAGE = 50
SEARCHED = 20_000
"""A text search reads at most this many jobs from the beginning of a page, which bounds its time."""

LINES = 200
"""Log lines per page."""

_CHUNK = 2_000


# The list


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter(Filter):
    """Which jobs the list shows."""

    state: str = ""
    kind: str = ""
    via: str = ""
    plan: str = ""
    text: str = ""

    @classmethod
    def of(cls, given: QueryDict) -> JobFilter:
        return cls(
            state=chosen(given, "state", Job.State.values),
            kind=given.get("kind", "")[:40],
            via=chosen(given, "via", Job.Via.values),
            plan=given.get("plan", "")[:64],
            text=given.get("q", "").strip()[:200],
        )

    def rows(self) -> QuerySet[Job]:
        """The jobs that match all but the text."""
        rows = Job.objects.select_related("plan").defer("result", "phases")
        for name in ("state", "kind", "via"):
            if value := getattr(self, name):
                rows = rows.filter(**{name: value})
        if self.plan:
            plan = Plan.objects.filter(name=self.plan).first()
            rows = rows.filter(plan=plan) if plan is not None else rows.none()
        return rows


JOBS = Keyset(Job, "created", "id")


@page("backups.view_job")
def overview(request: HttpRequest) -> HttpResponse:
    """The jobs, newest first."""
    wanted = JobFilter.of(request.GET)
    part, searched_to = _search(wanted, JOBS.read(request.GET.get("before")), JOBS.read(request.GET.get("after")))
    context = {
        "jobs": part.rows,
        "wanted": wanted,
        "states": Job.State.choices,
        "kinds": sorted(job_types().values(), key=lambda kind: kind.title),
        "vias": Job.Via.choices,
        "plans": Plan.objects.order_by("name")[:200],
        "newer": wanted.as_query(after=JOBS.write(part.newer)) if part.newer else "",
        "older": wanted.as_query(before=JOBS.write(part.older)) if part.older else "",
        "further": wanted.as_query(before=JOBS.write(searched_to)) if searched_to and not part.older else "",
        "searched": SEARCHED,
        "made_elsewhere": not part.rows and IndexedBackup.objects.exists(),
        "counts": {state: Job.objects.filter(state=state).count() for state in (Job.State.RUNNING, Job.State.QUEUED)},
        "default_set": configuration().default_set,
        "live": any(not job.has_ended for job in part.rows),
    }
    return render(request, "backups/jobs.html", "Jobs", context)


def _search(wanted: JobFilter, older: Cursor | None, newer: Cursor | None) -> tuple[Part[Job], Cursor | None]:
    """A page of jobs; and where a search for a text stopped, if it stopped before the oldest job."""
    rows = wanted.rows()
    if not wanted.text:
        return JOBS.part(rows, PAGE, older=older, newer=newer), None
    if exact := _named(wanted.text):
        return JOBS.part(rows.filter(exact), PAGE, older=older, newer=newer), None
    last = JOBS.begin(rows, older=older, newer=newer)[SEARCHED - 1 : SEARCHED].first()
    stopped = JOBS.cursor(last) if last is not None else None
    if stopped is not None:
        rows = rows.exclude(JOBS.older_than(stopped) if newer is None else JOBS.newer_than(stopped))
    text = wanted.text
    match = Q(note__icontains=text) | Q(by__icontains=text) | Q(backup_id__icontains=text) | Q(error__message__icontains=text)
    return JOBS.part(rows.filter(match), PAGE, older=older, newer=newer), None if newer is not None else stopped


def _named(text: str) -> Q | None:
    """The condition for a text that is the id of a job or of the backup that it made; None for other text."""
    if BACKUP_ID.fullmatch(text):
        return Q(backup_id=text)
    try:
        return Q(pk=uuid.UUID(text))
    except ValueError:
        return None


# One job


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFilter(Filter):
    """Which lines of a log are shown."""

    level: str = ""
    text: str = ""

    @classmethod
    def of(cls, given: QueryDict) -> LogFilter:
        return cls(level=chosen(given, "level", _FROM), text=given.get("q", "").strip()[:200])


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """Lines of a log, oldest first; the number before which earlier ones are, None at the beginning; the number of the last."""

    filter: LogFilter
    lines: list[JobLog]
    earlier: int | None
    last: int


LINES_OF_A_LOG = Keyset(JobLog, "id")
_FROM = {
    JobLog.Level.WARNING: (JobLog.Level.WARNING, JobLog.Level.ERROR),
    JobLog.Level.ERROR: (JobLog.Level.ERROR,),
}


def _find(job_id: uuid.UUID) -> Job:
    return found_or_404(Job.objects.select_related("plan", "again_after", "tried_again"), "job", pk=job_id)


@page("backups.view_job")
def job(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """One job: state, phases, result and log."""
    found = _find(job_id)
    context = _context(request, found)
    return render(request, "backups/job.html", job_title(found), context)


@page("backups.view_job")
def live(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """The changing parts of a running job, polled every second; the whole page when its state changes."""
    found = _find(job_id)
    if request.GET.get("state") != found.state:
        answer = render_template(request, "backups/job_body.html", _context(request, found))
        answer.headers["HX-Retarget"], answer.headers["HX-Reswap"] = "#job", "outerHTML"
        return answer
    log = _log(request, found, after=_line(request.GET.get("after")))
    context = {
        "job": found,
        "summary": outcome.summarize(found),
        "live": running.live(found),
        "log": log,
        "bars": running.bars(found),
    }
    return render_template(request, "backups/job_parts.html", context)


@page("backups.view_job")
def download(request: HttpRequest, job_id: uuid.UUID) -> HttpResponseBase:
    """The whole log as text, streamed."""
    found = _find(job_id)
    answer = StreamingHttpResponse(_text(found), content_type="text/plain; charset=utf-8")
    answer.headers["Content-Disposition"] = f'attachment; filename="{found.kind}-{found.pk}.log"'
    return answer


@page("backups.cancel_job", methods=("POST",))
def cancel(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Cancel a job, and return to the page of the form."""
    found = lifecycle.cancel(_find(job_id), actor_of(request))
    if found.state == Job.State.CANCELLED:
        say(request, f"{job_title(found)}: cancelled before it started.")
    elif found.state == Job.State.RUNNING:
        say(request, f"{job_title(found)}: cancelling. It stops within two seconds and leaves nothing behind.")
    else:
        say(request, f"{job_title(found)} had already ended.")
    return HttpResponseRedirect(return_address(request, found.get_absolute_url()))


def _changes(request: HttpRequest, job_id: uuid.UUID) -> bool:
    found = _find(job_id)
    return is_dangerous(found.kind, found.arguments)


@page("backups.view_job", methods=("POST",))
@dangerous(_changes, second=four_eyes.RUN)
def again(request: HttpRequest, job_id: uuid.UUID) -> HttpResponse:
    """Queue a job like this one, and go to it."""
    found = _find(job_id)
    if not may_run_again(request, found):
        raise PermissionDenied("You may not run this job again.")
    fresh = submit.run_again(actor_of(request), found)
    say(request, f"{job_title(fresh)} queued again.")
    return HttpResponseRedirect(fresh.get_absolute_url())


def may_run_again(request: HttpRequest, found: Job) -> bool:
    """Whether the account may run the job again. A restore in place has to go through its steps again."""
    if not found.has_ended or found.kind == RESTORE_IN_PLACE.name:
        return False
    try:
        return request.user.has_perm(job_type(found.kind).permission)
    except UsageError:
        return False  # the project no longer has this job type


def _context(request: HttpRequest, found: Job) -> dict[str, Any]:
    return {
        "job": found,
        "summary": outcome.summarize(found),
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


# Its log


def _log(request: HttpRequest, job: Job, *, after: int | None = None) -> LogView:
    """The newest lines; those before ``before=ID``; or all after the line *after*, for a page that follows."""
    wanted = LogFilter.of(request.GET)
    rows = JobLog.objects.filter(job=job)
    if wanted.level:
        rows = rows.filter(level__in=_FROM[JobLog.Level(wanted.level)])
    if wanted.text:
        rows = rows.filter(line__icontains=wanted.text)
    if after is not None:
        lines = list(rows.filter(id__gt=after).order_by("id")[:_CHUNK])
        return LogView(filter=wanted, lines=lines, earlier=None, last=lines[-1].pk if lines else after)
    part = LINES_OF_A_LOG.part(rows, LINES, older=LINES_OF_A_LOG.read(request.GET.get("before")))
    lines = part.rows[::-1]
    earlier = part.older[0] if part.older is not None else None
    return LogView(filter=wanted, lines=lines, earlier=earlier, last=lines[-1].pk if lines else 0)


def _line(text: str | None) -> int:
    cursor = LINES_OF_A_LOG.read(text)
    return int(cursor[0]) if cursor else 0


def _text(found: Job) -> Iterator[str]:
    """The log in chunks, each read by key, so that a slow client holds no database cursor open."""
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


_MOST_NOTICES = 5


@page("backups.view_job")
def ended(request: HttpRequest) -> HttpResponseBase:
    """The account's jobs that ended after ``since``, as notices; and the time to ask from next."""
    now = moments.now()
    since = parse_datetime(request.GET.get("since", "")[:40])
    jobs: Iterable[Job] = ()
    if since is not None and timezone.is_aware(since):
        mine = Job.objects.filter(by_id=str(request.user.pk), via=Job.Via.PAGES, state__in=Job.ENDED, finished__gt=since)
        jobs = mine.filter(finished__lte=now).order_by("finished")[:_MOST_NOTICES]
    notices = [
        {
            "text": f"{job_title(job)}: {job.get_state_display().lower()}",
            "more": str((job.error or job.warning or {}).get("message", "")),
            "tone": tone(job),
            "address": job.get_absolute_url(),
        }
        for job in jobs
    ]
    return JsonResponse({"now": now.isoformat(), "notices": notices})
