"""Plans: list, create, change, run, pause and delete them. The addresses call them schedules."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.http import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.engine.errors import UsageError
from backups.jobs.types import job_types
from backups.models import Job, Plan
from backups.plans import editing, scheduling
from backups.plans.cron import in_words, slots_after

from .authentication import actor
from .job_operation import job_operation
from .operation import Operation, reply
from .permissions import require
from .schemas.plans import CronQuery, CronTimes, NewPlan, PlanChange, PlanList, PlanQuery, PlanSchema, plan_schema

_TIMES_SHOWN = 5


def _find_plan(name: str) -> Plan:
    row = Plan.objects.filter(name=name).first()
    if row is None:
        raise NotFound(f"There is no plan {name!r}.")
    return row


def _schema(plan: Plan) -> PlanSchema:
    last = plan.jobs.order_by("-created", "-id").only("id", "state").first()
    try:
        words = in_words(plan.cron)
        times = slots_after(plan.cron, plan.time_zone, timezone.now(), _TIMES_SHOWN) if plan.enabled else []
    except ValueError as problem:
        words, times = str(problem), []
    return plan_schema(plan, words, times, last)


@Operation("backups.view_plan", query=PlanQuery, responses={200: PlanList})
def list_schedules(request: Request, *, query: PlanQuery) -> PlanList:
    """List plans by name, with their next times and the state of their last job."""
    rows = Plan.objects.all()
    if query.kind:
        rows = rows.filter(kind=query.kind)
    if query.enabled is not None:
        rows = rows.filter(enabled=query.enabled)
    return PlanList(items=[_schema(row) for row in rows.order_by("name")])


@Operation(
    "backups.change_plan",
    needs="Needs the permission `backups.change_plan` (scope `plans`), and the permission of the job type with its scope.",
    body=NewPlan,
    responses={201: PlanSchema},
    problems=(409,),
    idempotency_key=True,
    headers={201: ("Location",)},
)
def create_schedule(request: Request, *, body: NewPlan) -> HttpResponseBase:
    """Create a plan."""
    values = body.model_dump()
    _require_job_type(request, body.kind)
    plan = editing.make_plan(actor(request), values.pop("name"), **values)
    return reply(_schema(plan), 201, location=reverse("backups-api:schedule", args=[plan.name]))


@Operation("backups.view_plan", responses={200: PlanSchema})
def show_schedule(request: Request, name: str) -> PlanSchema:
    """Show a plan."""
    return _schema(_find_plan(name))


@Operation(
    "backups.change_plan",
    needs="Needs the permission `backups.change_plan` (scope `plans`). A change of the job type or its arguments also needs "
    "the permission of the job type with its scope.",
    body=PlanChange,
    responses={200: PlanSchema},
)
def change_schedule(request: Request, name: str, *, body: PlanChange) -> PlanSchema:
    """Change a plan.

    Members that are not sent do not change.
    """
    plan = _find_plan(name)
    values: dict[str, Any] = {key: value for key, value in body.model_dump(exclude_unset=True).items() if value is not None}
    if (values.get("kind", plan.kind), values.get("arguments", plan.arguments)) != (plan.kind, plan.arguments):
        _require_job_type(request, plan.kind)
        _require_job_type(request, values.get("kind", plan.kind))
    return _schema(editing.change_plan(actor(request), plan, **values))


@Operation("backups.change_plan", responses={204: None})
def delete_schedule(request: Request, name: str) -> None:
    """Delete a plan.

    Its jobs stay. To stop a built-in plan, pause it.
    """
    editing.remove_plan(actor(request), _find_plan(name))


@job_operation("backups.run_plan")
def run_schedule(request: Request, name: str) -> Job:
    """Run a plan now.

    Queues its job. The times of the plan do not change.
    """
    return scheduling.run(_find_plan(name), actor(request))


@Operation("backups.run_plan", responses={200: PlanSchema})
def pause_schedule(request: Request, name: str) -> PlanSchema:
    """Pause a plan until it is resumed."""
    return _schema(editing.pause_plan(actor(request), _find_plan(name)))


@Operation("backups.run_plan", responses={200: PlanSchema})
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
        words = in_words(query.cron)
        times = slots_after(query.cron, query.time_zone, timezone.now(), query.count)
    except ValueError as problem:
        raise UsageError(f"{problem}.", hint="Write minute, hour, day of month, month, day of week: 0 3 * * *.") from None
    return CronTimes(cron=query.cron, time_zone=query.time_zone, in_words=words, next=times)


def _require_job_type(request: Request, kind: str) -> None:
    """Require the permission of a job type: a plan runs with the permissions of its author.

    Without this check, a token limited to plans could delete backups by a plan that prunes. Unknown types are refused later.
    """
    job_type = job_types().get(kind)
    if job_type is not None:
        require(request, job_type.permission)
