"""Jobs: list them, follow one, cancel it, run it again."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponseBase
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.jobs import lifecycle, submit
from backups.jobs.types import job_type
from backups.models import Job

from .authentication import actor
from .job_operation import job_operation
from .operation import Operation, reply
from .paging import Page, page
from .permissions import require
from .problems import Refused
from .schemas.jobs import JobQuery, JobSchema, Log, LogLine, LogQuery, job_schema


def _find_job(job_id: UUID) -> Job:
    row = Job.objects.select_related("plan").filter(pk=job_id).first()
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
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


@job_operation(
    "backups.view_job",
    needs="Needs the permission `backups.view_job` (scope `read`), and the permission of the job type with its scope.",
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
    rows = row.log.filter(id__gt=query.after)
    if query.level:
        rows = rows.filter(level=query.level)
    if query.text:
        rows = rows.filter(line__icontains=query.text)
    lines = [LogLine.model_validate(line) for line in rows.order_by("id")[: query.limit]]
    return Log(lines=lines, last=lines[-1].id if lines else query.after, ended=row.has_ended)
