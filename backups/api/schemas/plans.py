"""Plans, which the addresses of this interface call schedules."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from backups.jobs.arguments import Name
from backups.models import Job, Plan

from .base import RequestModel, ResponseModel, Text
from .jobs import State

Cron = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Zone = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Title = Annotated[str, StringConstraints(max_length=120)]
JobTypeName = Annotated[str, StringConstraints(max_length=40)]
Host = Annotated[str, StringConstraints(max_length=255)]
Attempts = Annotated[int, Field(ge=1, le=20)]
Minutes = Annotated[int, Field(ge=1, le=40_000)]
Addresses = Annotated[list[Annotated[str, StringConstraints(max_length=254)]], Field(max_length=50)]
Failures = Annotated[int, Field(ge=1, le=1000)]

_CRON_FIELDS = "Minute, hour, day of month, month, day of week: `0 3 * * *`."


class PlanQuery(RequestModel):
    """Filters of the list of plans."""

    kind: Annotated[Text, Field(description="Plans with one job type.")] = ""
    enabled: Annotated[bool | None, Field(description="Enabled plans, or paused ones.")] = None


class PlanSchema(ResponseModel, title="Schedule"):
    """A plan: a job that is queued at the times of a cron expression. `next` has the next five, none while it is paused."""

    name: str
    title: str
    kind: str
    arguments: dict[str, Any]
    cron: str
    time_zone: str
    in_words: str
    enabled: bool
    paused_by: str
    host: str
    attempts: int
    limit_minutes: int
    alert_to: list[str]
    alert_after: int
    builtin: bool
    next: list[datetime]
    last_job: UUID | None
    last_state: State | None


class PlanList(ResponseModel, title="Schedules"):
    """All plans that match, by name."""

    items: list[PlanSchema]


class NewPlan(RequestModel, title="NewSchedule"):
    """A plan to create. `arguments` are those of the job type."""

    name: Name
    title: Title = ""
    kind: JobTypeName
    arguments: dict[str, Any] = Field(default_factory=dict)
    cron: Annotated[Cron, Field(description=_CRON_FIELDS)]
    time_zone: Zone = "UTC"
    enabled: bool = True
    host: Host = ""
    attempts: Attempts = 3
    limit_minutes: Minutes = 1440
    alert_to: Addresses = Field(default_factory=list)
    alert_after: Failures = 1


class PlanChange(RequestModel, title="ScheduleChange"):
    """The members of a plan to change; the others stay."""

    title: Title | None = None
    kind: JobTypeName | None = None
    arguments: dict[str, Any] | None = None
    cron: Cron | None = None
    time_zone: Zone | None = None
    host: Host | None = None
    attempts: Attempts | None = None
    limit_minutes: Minutes | None = None
    alert_to: Addresses | None = None
    alert_after: Failures | None = None


class CronQuery(RequestModel):
    """A cron expression to explain."""

    cron: Annotated[Cron, Field(description=_CRON_FIELDS)]
    time_zone: Annotated[Zone, Field(description="Time zone of the expression.")] = "UTC"
    count: Annotated[int, Field(ge=1, le=50, description="Number of times to return.")] = 5


class CronTimes(ResponseModel, title="Times"):
    """A cron expression in words, and the next times that it matches."""

    cron: str
    time_zone: str
    in_words: str
    next: list[datetime]


def plan_schema(plan: Plan, in_words: str, next_times: list[datetime], last: Job | None) -> PlanSchema:
    """A plan with its cron expression *in_words*, its *next_times*, and its *last* job."""
    values: dict[str, Any] = {name: getattr(plan, name) for name in _SAME_NAMES}
    values |= {"last_job": last.pk, "last_state": last.state} if last else {"last_job": None, "last_state": None}
    return PlanSchema(**values, in_words=in_words, next=next_times)


_SAME_NAMES = (
    *("name", "title", "kind", "arguments", "cron", "time_zone", "enabled", "paused_by", "host", "attempts", "limit_minutes"),
    *("alert_to", "alert_after", "builtin"),
)
