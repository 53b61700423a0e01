"""Jobs and their logs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field

from backups.api.paging import PageQuery
from backups.models import Job

from .base import Moment, RequestModel, ResponseModel, Text

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


class LogQuery(RequestModel):
    """Filters of a job's log."""

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
    took = row.took
    return JobSchema(
        id=row.pk,
        kind=row.kind,
        arguments=row.arguments,
        note=row.note,
        state=row.state,  # type: ignore[arg-type]  # the choices are those of the literal
        created=row.created,
        started=row.started,
        finished=row.finished,
        seconds=took.total_seconds() if took else None,
        via=row.via,
        by=row.by,
        schedule=row.plan.name if row.plan else None,
        host=row.host,
        repository=row.repository,
        set=row.set,
        attempt=row.attempt,
        attempts=row.attempts,
        again_after=row.again_after_id,
        cancel_asked=row.cancel_asked,
        progress=Progress(
            phase=row.phase, done=row.done, total=row.total, fraction=row.fraction, rate=row.rate, seconds_left=row.left
        ),
        backup_id=row.backup_id or None,
        result=row.result,
        error=row.error,
    )
