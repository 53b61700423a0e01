"""Shows the consistency pages in the frame of the backup pages, and queues their work as jobs (``CONSISTENCY["FRAME"]``)."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from backups.admin import frame, running, step_up
from backups.engine.errors import EngineError
from backups.identity.audit import Actor
from backups.identity.sign_in import actor_of
from backups.jobs import lifecycle
from backups.jobs.job_type import JobType
from backups.models import Job
from consistency.engine.errors import ConsistencyError
from consistency.frame import Frame, View, Work

from .jobs import CHECK, REPAIR, RESUME, UNDO

_JOB_TYPES = (CHECK, REPAIR, UNDO, RESUME)


def queue_once(actor: Actor, work: Work) -> Job:
    """Queue *work* and return its job; if the same job is queued or running already, return that one.

    Raises `EngineError`.
    """
    job_type, values = _job_of(work)
    arguments = job_type.parse(values).model_dump(mode="json")
    for job in Job.objects.filter(kind=job_type.name, state__in=(Job.State.QUEUED, Job.State.RUNNING)).order_by("created"):
        if job.arguments == arguments:
            return job
    return lifecycle.enqueue(job_type, values, actor)


def _job_of(work: Work) -> tuple[JobType[Any], dict[str, Any]]:
    if work.do == "repair":
        scope = "rows" if work.rows else "all" if work.everything else "safe"
        return REPAIR, {"of_check": work.check, "scope": scope, "kinds": list(work.kinds), "findings": list(work.findings)}
    if work.do == "undo":
        return UNDO, {"repair": work.repair}
    if work.do == "resume":
        return RESUME, {}
    return CHECK, {"repair": "safe" if work.everything else ""}


class BackupsFrame(Frame):
    """The frame of the backup pages."""

    queues = True

    def page(self, permission: str, methods: tuple[str, ...], *, dangerous: bool = False) -> Callable[[View], View]:
        guard = frame.page(permission, methods=methods)
        return (lambda view: guard(step_up.dangerous()(view))) if dangerous else guard

    def render(self, request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
        return frame.render(request, template, title, context)

    def queue(self, request: HttpRequest, work: Work) -> str:
        try:
            queue_once(actor_of(request), work)
        except EngineError as problem:
            raise ConsistencyError(problem.message, hint=problem.hint) from problem
        return reverse("consistency:overview")

    def running(self, request: HttpRequest) -> dict[str, Any]:
        """Cards of the queued and running jobs; without any, the last job if it failed."""
        names = [job_type.name for job_type in _JOB_TYPES]
        active = Job.objects.filter(kind__in=names, state__in=(Job.State.RUNNING, Job.State.QUEUED)).select_related("plan")
        cards = [running.live(job) for job in active.order_by("created", "id")[:5]]
        last = None
        if not cards:
            last = Job.objects.filter(kind__in=names).order_by("-created", "-id").first()
        return {"cards": cards, "failed": last if last is not None and last.state == Job.State.FAILED else None}

    def snapshot(self, name: str) -> str:
        return reverse("backups:backup", args=[name])
