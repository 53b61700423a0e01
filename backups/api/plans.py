"""Plans: list, create, change, run, pause and delete them. The addresses call them schedules."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import available_timezones

from django.http import HttpResponseBase
from django.urls import reverse
from pydantic import Field, StringConstraints
from rest_framework.request import Request

from backups import moments
from backups.engine.errors import UsageError
from backups.identity import four_eyes
from backups.identity.step_up import always
from backups.jobs.arguments import Name
from backups.models import Job, Plan
from backups.plans import editing, scheduling
from backups.plans.cron import slots_after
from backups.plans.cron_words import in_words

from .authentication import actor
from .jobs import State, job_operation
from .operation import Operation, reply
from .paging import FilterQuery
from .permissions import require
from .problems import unknown
from .schemas import RequestModel, ResponseModel, Text

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


class PlanQuery(FilterQuery):
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


_TIMES_SHOWN = 5
_NEEDS = "Needs the permission `backups.change_plan` (scope `plans`), and the permission of the job type with its scope."


def _find_plan(name: str) -> Plan:
    row = Plan.objects.filter(name=name).first()
    if row is None:
        raise unknown("plan", name, "schedules")
    return row


def _schema(plan: Plan) -> PlanSchema:
    last = plan.jobs.order_by("-created", "-id").only("id", "state").first()
    try:
        words = in_words(plan.cron, plan.time_zone)
        times = slots_after(plan.cron, plan.time_zone, moments.now(), _TIMES_SHOWN) if plan.enabled else []
    except ValueError as problem:
        words, times = str(problem), []
    job = {"last_job": last.pk if last else None, "last_state": last.state if last else None}
    return PlanSchema.of(plan, in_words=words, next=times, **job)


@Operation("backups.view_plan", query=PlanQuery, responses={200: PlanList})
def list_schedules(request: Request, *, query: PlanQuery) -> PlanList:
    """List plans by name, with their next times and the state of their last job."""
    return PlanList(items=[_schema(row) for row in query.matching(Plan.objects.order_by("name"))])


@Operation(
    "backups.change_plan",
    needs=_NEEDS,
    dangerous=always,
    second=four_eyes.PLANS,
    body=NewPlan,
    responses={201: PlanSchema},
    problems=(409,),
    idempotency_key=True,
    headers={201: ("Location",)},
)
def create_schedule(request: Request, *, body: NewPlan) -> HttpResponseBase:
    """Create a plan."""
    values = body.model_dump()
    _require_rights(request, body.kind)
    plan = editing.make_plan(actor(request), values.pop("name"), **values)
    return reply(_schema(plan), 201, location=reverse("backups-api:schedule", args=[plan.name]))


@Operation("backups.view_plan", responses={200: PlanSchema})
def show_schedule(request: Request, name: str) -> PlanSchema:
    """Show a plan."""
    return _schema(_find_plan(name))


@Operation(
    "backups.change_plan",
    needs=_NEEDS,
    dangerous=always,
    second=four_eyes.PLANS,
    body=PlanChange,
    responses={200: PlanSchema},
)
def change_schedule(request: Request, name: str, *, body: PlanChange) -> PlanSchema:
    """Change a plan.

    Members that are not sent do not change.
    """
    plan = _find_plan(name)
    values: dict[str, Any] = {key: value for key, value in body.model_dump(exclude_unset=True).items() if value is not None}
    _require_rights(request, plan.kind, values.get("kind", plan.kind))
    return _schema(editing.change_plan(actor(request), plan, **values))


@Operation("backups.change_plan", needs=_NEEDS, dangerous=always, second=four_eyes.PLANS, responses={204: None})
def delete_schedule(request: Request, name: str) -> None:
    """Delete a plan.

    Its jobs stay. To stop a built-in plan, pause it.
    """
    plan = _find_plan(name)
    _require_rights(request, plan.kind)
    editing.remove_plan(actor(request), plan)


def _changes(request: Request, name: str) -> bool:
    return editing.is_dangerous(_find_plan(name))


@job_operation("backups.run_plan", dangerous=_changes, second=four_eyes.RUN)
def run_schedule(request: Request, name: str) -> Job:
    """Run a plan now.

    Queues its job. The times of the plan do not change.
    """
    return scheduling.run(_find_plan(name), actor(request))


@Operation("backups.run_plan", dangerous=always, second=four_eyes.PLANS, responses={200: PlanSchema})
def pause_schedule(request: Request, name: str) -> PlanSchema:
    """Pause a plan until it is resumed."""
    return _schema(editing.pause_plan(actor(request), _find_plan(name)))


@Operation("backups.run_plan", dangerous=always, second=four_eyes.PLANS, responses={200: PlanSchema})
def resume_schedule(request: Request, name: str) -> PlanSchema:
    """Resume a plan.

    Times that passed while it was paused are skipped.
    """
    return _schema(editing.resume_plan(actor(request), _find_plan(name)))


@Operation("backups.view_plan", query=CronQuery, responses={200: CronTimes})
def preview_schedule(request: Request, *, query: CronQuery) -> CronTimes:
    """Explain a cron expression in words, with the next times that it matches."""
    try:
        if len(query.cron.split()) != 5 or query.time_zone not in available_timezones():
            raise ValueError(f"{query.cron!r} in {query.time_zone!r} is not five fields in a time zone such as Europe/Berlin")
        words = in_words(query.cron, query.time_zone)
        times = slots_after(query.cron, query.time_zone, moments.now(), query.count)
    except ValueError as problem:
        raise UsageError(f"{problem}.", hint="Write minute, hour, day of month, month, day of week: 0 3 * * *.") from None
    return CronTimes(cron=query.cron, time_zone=query.time_zone, in_words=words, next=times)


def _require_rights(request: Request, *kinds: str) -> None:
    for permission in editing.needs(*kinds):
        require(request, permission)
