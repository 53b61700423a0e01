"""Jobs: list them, follow one, cancel it, run it again."""

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from django.http import HttpResponseBase
from django.urls import reverse
from pydantic import Field
from rest_framework.request import Request

from backups.identity import four_eyes
from backups.jobs import lifecycle, submit
from backups.jobs.types import is_dangerous, job_type
from backups.models import Job

from .authentication import actor
from .operation import Handler, Operation, reply
from .paging import FilterQuery, Page, PageQuery, page
from .permissions import require
from .problems import Refused, unknown
from .schemas import Moment, ResponseModel, Text

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
Level = Literal["info", "warning", "error"]


class JobQuery(PageQuery):
    """Filters of the list of jobs."""

    lookups = {"schedule": "plan__name", "backup": "backup_id", "since": "created__gte", "until": "created__lte"}  # noqa: RUF012

    state: Annotated[State | None, Field(description="Jobs in one state.")] = None
    kind: Annotated[Text, Field(description="Jobs of one type, such as `backup` or `restore_in_place`.")] = ""
    schedule: Annotated[Text, Field(description="Jobs of one plan, by its name.")] = ""
    repository: Annotated[Text, Field(description="Jobs on one repository.")] = ""
    set: Annotated[Text, Field(description="Jobs on one set.")] = ""
    backup: Annotated[Text, Field(description="Jobs that made or concern one backup, by its id.")] = ""
    by: Annotated[Text, Field(description="Jobs queued by one account or plan.")] = ""
    since: Annotated[Moment | None, Field(description="Queued at this time or later.")] = None
    until: Annotated[Moment | None, Field(description="Queued at this time or earlier.")] = None


class Progress(ResponseModel):
    """Progress of a job's current phase; `fraction` is from 0 to 1, null while the total is unknown."""

    phase: str
    done: int
    total: int | None
    fraction: float | None
    rate: float
    seconds_left: float | None


class JobSchema(ResponseModel, title="Job"):
    """A job."""

    id: UUID
    kind: str
    arguments: dict[str, Any]
    note: str
    state: State
    created: datetime
    started: datetime | None
    finished: datetime | None
    seconds: float | None
    via: str
    by: str
    schedule: str | None
    host: str
    repository: str
    set: str
    attempt: int
    attempts: int
    again_after: UUID | None
    cancel_asked: datetime | None
    progress: Progress
    backup_id: str | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    warning: Annotated[
        dict[str, Any] | None,
        Field(description="Of a job that succeeded with a warning: `code`, `message` and `hint`, as in `error`."),
    ] = None


class LogQuery(FilterQuery):
    """Filters of a job's log."""

    lookups = {"after": "id__gt", "text": "line__icontains"}  # noqa: RUF012

    after: Annotated[
        int, Field(ge=0, le=(1 << 63) - 1, description="Lines after this line id: `last` of the previous response.")
    ] = 0
    level: Annotated[Level | None, Field(description="Lines of one level.")] = None
    text: Annotated[Text, Field(description="Lines that contain this text, ignoring case.")] = ""
    limit: Annotated[int, Field(ge=1, le=2000, description="Maximum number of lines.")] = 500


class LogLine(ResponseModel):
    """A line of a job's log."""

    id: int
    time: datetime
    level: Level
    line: str


class Log(ResponseModel):
    """Lines of a job's log, oldest first. Repeat with `after=last` until `ended` is true and no lines are returned."""

    lines: list[LogLine]
    last: int
    ended: bool


def job_schema(row: Job) -> JobSchema:
    """A job. Fetch its plan with it (``select_related("plan")``)."""
    return JobSchema.of(
        row,
        seconds=row.took.total_seconds() if row.took else None,
        schedule=row.plan.name if row.plan else None,
        again_after=row.again_after_id,
        progress=Progress.of(row, seconds_left=row.left),
        backup_id=row.backup_id or None,
    )


def job_operation(permission: str, **declared: Any) -> Callable[[Callable[..., Job]], Handler]:
    """An `Operation` whose function returns the job that it queued; *declared* adds to its declaration."""
    queued: dict[str, Any] = {"responses": {202: JobSchema}, "headers": {202: ("Location",)}, "idempotency_key": True}
    operation = Operation(permission, **{"problems": (503,), **queued, **declared})

    def decorate(function: Callable[..., Job]) -> Handler:
        @functools.wraps(function)
        def respond(request: Request, **arguments: Any) -> HttpResponseBase:
            job = function(request, **arguments)
            return reply(job_schema(job), 202, location=reverse("backups-api:job", args=[job.pk]))

        return operation(respond)

    return decorate


def _find_job(job_id: UUID) -> Job:
    row = Job.objects.select_related("plan").filter(pk=job_id).first()
    if row is None:
        raise unknown("job", job_id, "jobs")
    return row


@Operation("backups.view_job", query=JobQuery, responses={200: Page[JobSchema]})
def list_jobs(request: Request, *, query: JobQuery) -> Page[JobSchema]:
    """List jobs, newest first."""
    rows = query.matching(Job.objects.select_related("plan"))
    return page(request, query, rows, ("created", "id"), job_schema)


@Operation("backups.view_job", responses={200: JobSchema})
def show_job(request: Request, job_id: UUID) -> JobSchema:
    """Show a job with its state, progress, and result or error."""
    return job_schema(_find_job(job_id))


@Operation("backups.cancel_job", responses={200: JobSchema, 202: JobSchema})
def cancel_job(request: Request, job_id: UUID) -> HttpResponseBase:
    """Cancel a job.

    A queued job is cancelled at once (200). A running one is stopped within about two seconds and leaves nothing behind (202).
    A finished one does not change (200).
    """
    row = lifecycle.cancel(_find_job(job_id), actor(request))
    return reply(job_schema(row), 200 if row.has_ended else 202)


def _changes(request: Request, job_id: UUID) -> bool:
    found = _find_job(job_id)
    return is_dangerous(found.kind, found.arguments)


@job_operation(
    "backups.view_job",
    needs="Needs the permission `backups.view_job` (scope `read`), and the permission of the job type with its scope.",
    dangerous=_changes,
    second=four_eyes.RUN,
    problems=(409, 503),
)
def run_job_again(request: Request, job_id: UUID) -> Job:
    """Queue a finished job again.

    The new job has the same type and arguments. A restore in place cannot be repeated: request it again.
    """
    row = _find_job(job_id)
    require(request, job_type(row.kind).permission)
    if not row.has_ended:
        raise Refused(409, "not_ended", "The job has not finished. Nothing was queued.", "Wait for it, or cancel it.")
    return submit.run_again(actor(request), row)


@Operation("backups.view_job", query=LogQuery, responses={200: Log})
def read_job_log(request: Request, job_id: UUID, *, query: LogQuery) -> Log:
    """Read a job's log.

    To follow it, repeat once a second with `after` set to `last` of the previous response, until `ended` is true and no lines
    are returned.
    """
    row = _find_job(job_id)  # before the lines: a finished job writes no more
    lines = [LogLine.model_validate(line) for line in query.matching(row.log.order_by("id"))[: query.limit]]
    return Log(lines=lines, last=lines[-1].id if lines else query.after, ended=row.has_ended)
