"""Jobs: what happened, what is running, and how to follow it."""

from __future__ import annotations

from uuid import UUID

from django.http import HttpResponseBase
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.jobs import submit
from backups.models import Job as JobRow

from . import schemas
from .authentication import actor
from .backups import queued
from .operation import Resource, operation, reply
from .paging import Page, page
from .permissions import require
from .problems import Refused
from .schemas import JobQuery, JobShape, LogQuery


def found(job_id: UUID) -> JobRow:
    """The job of an address. Raises `NotFound`."""
    row = JobRow.objects.select_related("plan").filter(pk=job_id).first()
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return row


class Jobs(Resource):
    """All of them."""

    tag = "Jobs"

    @operation("list_jobs", "backups.view_job", query=JobQuery, answers={200: Page[JobShape]})
    def get(self, request: Request, *, query: JobQuery) -> HttpResponseBase:
        """List jobs, newest first."""
        same = {
            "state": query.state,
            "kind": query.kind,
            "plan__name": query.schedule,
            "repository": query.repository,
            "set": query.set,
            "backup_id": query.backup,
            "by": query.by,
        }
        rows = JobRow.objects.select_related("plan").filter(**{name: value for name, value in same.items() if value})
        if query.since:
            rows = rows.filter(created__gte=query.since)
        if query.until:
            rows = rows.filter(created__lte=query.until)
        items, following = page(rows, ("created", "id"), query, request.path)
        return reply(Page[JobShape](items=[schemas.job(row) for row in items], next=following))


class Job(Resource):
    """One of them."""

    tag = "Jobs"

    @operation("show_job", "backups.view_job", answers={200: JobShape})
    def get(self, request: Request, job_id: UUID) -> HttpResponseBase:
        """Show a job: its state, progress, result or error."""
        return reply(schemas.job(found(job_id)))


class Cancel(Resource):
    """End it."""

    tag = "Jobs"

    @operation("cancel_job", "backups.cancel_job", answers={200: JobShape, 202: JobShape})
    def post(self, request: Request, job_id: UUID) -> HttpResponseBase:
        """Cancel a job.

        A waiting one has ended with the answer (200). A running one is asked to end (202), which takes about two seconds, and
        leaves nothing behind. One that has ended stays as it is (200).
        """
        row = submit.cancel(actor(request), found(job_id))
        return reply(schemas.job(row), 200 if row.has_ended else 202)


class Again(Resource):
    """Do it again."""

    tag = "Jobs"

    @operation(
        "run_job_again",
        "backups.view_job",
        depends="Needs the permission `backups.view_job` (scope `read`), and the one that the job's kind takes.",
        answers={202: JobShape},
        problems=(409, 503),
        once=True,
        headers={202: ("Location",)},
    )
    def post(self, request: Request, job_id: UUID) -> HttpResponseBase:
        """Queue a new job with the same kind and arguments as one that has ended.

        A restore in place is asked for anew, not again.
        """
        row = found(job_id)
        require(request, submit.permission_for(row.kind))
        if not row.has_ended:
            raise Refused(409, "not_ended", "The job has not ended. Nothing was queued.", "Wait for it, or cancel it.")
        return queued(request, submit.run_again(actor(request), row))


class Log(Resource):
    """What it wrote."""

    tag = "Jobs"

    @operation("read_job_log", "backups.view_job", query=LogQuery, answers={200: schemas.Log})
    def get(self, request: Request, job_id: UUID, *, query: LogQuery) -> HttpResponseBase:
        """Read a job's log, or follow it.

        To follow: ask with `after` set to the `last` of the answer before, once a second, until `ended` is true and no line
        came.
        """
        row = found(job_id)  # before its lines: what it writes after it was found to have ended is nothing
        lines = row.log.filter(id__gt=query.after)
        if query.level:
            lines = lines.filter(level=query.level)
        if query.text:
            lines = lines.filter(line__icontains=query.text)
        told = [schemas.line(line) for line in lines.order_by("id")[: query.limit]]
        return reply(schemas.Log(lines=told, last=told[-1].id if told else query.after, ended=row.has_ended))
