"""Schedules: what is done by itself, and when. In the pages they are called plans."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.http import HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from pydantic import BaseModel
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.engine.errors import UsageError
from backups.jobs.types import job_types
from backups.models import Plan
from backups.plans import editing
from backups.plans.cron import in_words, slots_after

from . import schemas
from .authentication import actor
from .backups import queued
from .operation import Resource, operation, reply
from .permissions import require
from .schemas import JobShape, NewSchedule, ScheduleChange, ScheduleQuery, ScheduleShape, Times, TimesQuery

_TIMES = 5


class Schedules(BaseModel):
    """All schedules that were asked for, by name."""

    items: list[ScheduleShape]


def found(name: str) -> Plan:
    """The plan of an address. Raises `NotFound`."""
    row = Plan.objects.filter(name=name).first()
    if row is None:
        raise NotFound(f"There is no schedule {name!r}.")
    return row


def shape(plan: Plan) -> ScheduleShape:
    """A plan with its next times."""
    last = plan.jobs.order_by("-created", "-id").only("id", "state").first()
    try:
        words = in_words(plan.cron)
        times = slots_after(plan.cron, plan.time_zone, timezone.now(), _TIMES) if plan.enabled else []
    except ValueError as problem:
        words, times = str(problem), []
    return schemas.plan(plan, words, times, last)


class ScheduleList(Resource):
    """All of them."""

    tag = "Schedules"

    @operation("list_schedules", "backups.view_plan", query=ScheduleQuery, answers={200: Schedules})
    def get(self, request: Request, *, query: ScheduleQuery) -> HttpResponseBase:
        """List schedules by name, with their next times and how their last job ended."""
        rows = Plan.objects.all()
        if query.kind:
            rows = rows.filter(kind=query.kind)
        if query.enabled is not None:
            rows = rows.filter(enabled=query.enabled)
        return reply(Schedules(items=[shape(row) for row in rows.order_by("name")]))

    @operation(
        "create_schedule",
        "backups.change_plan",
        depends="Needs the permission `backups.change_plan` (scope `plans`), and the one that the kind of job takes, with its "
        "scope.",
        body=NewSchedule,
        answers={201: ScheduleShape},
        problems=(409,),
        once=True,
        headers={201: ("Location",)},
    )
    def post(self, request: Request, *, body: NewSchedule) -> HttpResponseBase:
        """Make a schedule."""
        values = body.model_dump()
        _may_plan(request, body.kind)
        plan = editing.make_plan(actor(request), values.pop("name"), **values)
        return reply(shape(plan), 201, Location=reverse("backups-api:schedule", args=[plan.name]))


class Schedule(Resource):
    """One of them."""

    tag = "Schedules"

    @operation("show_schedule", "backups.view_plan", answers={200: ScheduleShape})
    def get(self, request: Request, name: str) -> HttpResponseBase:
        """Show a schedule."""
        return reply(shape(found(name)))

    @operation(
        "change_schedule",
        "backups.change_plan",
        depends="Needs the permission `backups.change_plan` (scope `plans`), and, when kind or arguments change, the one "
        "that the kind of job takes, with its scope.",
        body=ScheduleChange,
        answers={200: ScheduleShape},
    )
    def patch(self, request: Request, name: str, *, body: ScheduleChange) -> HttpResponseBase:
        """Change what is named of a schedule; the rest stays."""
        plan = found(name)
        values: dict[str, Any] = {key: value for key, value in body.model_dump(exclude_unset=True).items() if value is not None}
        if (values.get("kind", plan.kind), values.get("arguments", plan.arguments)) != (plan.kind, plan.arguments):
            _may_plan(request, plan.kind)
            _may_plan(request, values.get("kind", plan.kind))
        return reply(shape(editing.change_plan(actor(request), plan, **values)))

    @operation("delete_schedule", "backups.change_plan", answers={204: None})
    def delete(self, request: Request, name: str) -> HttpResponseBase:
        """Delete a schedule; its jobs stay.

        A built-in one is made anew by `install_schedules`: pause it instead.
        """
        editing.remove_plan(actor(request), found(name))
        return reply(None, 204)


class Run(Resource):
    """Do it now."""

    tag = "Schedules"

    @operation(
        "run_schedule",
        "backups.run_plan",
        answers={202: JobShape},
        problems=(503,),
        once=True,
        headers={202: ("Location",)},
    )
    def post(self, request: Request, name: str) -> HttpResponseBase:
        """Queue a job of a schedule now; its times stay as they are."""
        return queued(request, editing.run_plan(actor(request), found(name)))


class Pause(Resource):
    """Let it rest."""

    tag = "Schedules"

    @operation("pause_schedule", "backups.run_plan", answers={200: ScheduleShape})
    def post(self, request: Request, name: str) -> HttpResponseBase:
        """Let a schedule rest until it is resumed."""
        return reply(shape(editing.pause_plan(actor(request), found(name))))


class Resume(Resource):
    """Let it go on."""

    tag = "Schedules"

    @operation("resume_schedule", "backups.run_plan", answers={200: ScheduleShape})
    def post(self, request: Request, name: str) -> HttpResponseBase:
        """Let a schedule run again, from its next time on."""
        return reply(shape(editing.resume_plan(actor(request), found(name))))


class TimesOf(Resource):
    """Look at a cron expression."""

    tag = "Schedules"

    @operation("preview_schedule", "backups.view_plan", query=TimesQuery, answers={200: Times})
    def get(self, request: Request, *, query: TimesQuery) -> HttpResponseBase:
        """Say a cron expression in plain words, with the next times at which it is due."""
        try:
            if len(query.cron.split()) != 5 or query.time_zone not in available_timezones():
                raise ValueError(
                    f"{query.cron!r} in {query.time_zone!r} is no time: five fields, and a zone such as Europe/Berlin"
                )
            words = in_words(query.cron)
            times = slots_after(query.cron, query.time_zone, timezone.now(), query.count)
        except ValueError as problem:
            raise UsageError(f"{problem}.", hint="Write minute, hour, day of month, month, day of week: 0 3 * * *.") from None
        return reply(Times(cron=query.cron, time_zone=query.time_zone, in_words=words, next=times))


def _may_plan(request: Request, kind: str) -> None:
    """What a plan does it does with the rights of whoever wrote it: they must have them, by way of their token too, or a token
    for plans alone could delete by a plan that prunes. An unknown kind is refused later.
    """
    known = job_types().get(kind)
    if known is not None:
        require(request, known.permission)
