"""The pages of the consistency app among those of backups: the same frame, and work as jobs (``CONSISTENCY["FRAME"]``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from backups.admin import frame, running
from backups.engine.errors import EngineError
from backups.identity.audit import Actor
from backups.identity.sign_in import actor_of
from backups.jobs import lifecycle
from backups.jobs.types import JobType
from backups.models import Job
from consistency.engine.errors import ConsistencyError
from consistency.frame import Frame, View, Work
from refserver.jobs import CHECK, REPAIR, RESUME, UNDO

_KINDS = (CHECK, REPAIR, UNDO, RESUME)


def ask(actor: Actor, work: Work) -> Job:
    """Queue *work*; a job that does the same already, or waits to, is answered instead of a second one.

    Raises `EngineError`.
    """
    kind, values = _job_of(work)
    wanted = kind.parse(values).model_dump(mode="json")
    for job in Job.objects.filter(kind=kind.name, state__in=(Job.State.QUEUED, Job.State.RUNNING)).order_by("created"):
        if job.arguments == wanted:
            return job
    return lifecycle.enqueue(kind, values, actor)


def _job_of(work: Work) -> tuple[JobType[Any], dict[str, Any]]:
    if work.do == "repair":
        scope = "all" if work.everything else "safe"
        return REPAIR, {"of_check": work.check, "scope": scope, "kinds": list(work.kinds), "findings": list(work.findings)}
    if work.do == "undo":
        return UNDO, {"repair": work.repair}
    if work.do == "resume":
        return RESUME, {}
    return CHECK, {"repair": "safe" if work.everything else ""}


class Joined(Frame):
    """As the pages of backups."""

    queues = True

    def page(self, permission: str, methods: tuple[str, ...]) -> Callable[[View], View]:
        """The same guard as theirs."""
        return frame.page(permission, methods=methods)

    def render(self, request: HttpRequest, template: str, title: str, context: dict[str, Any]) -> HttpResponse:
        """With the navigation."""
        return frame.render(request, template, title, context)

    def queue(self, request: HttpRequest, work: Work) -> str:
        """A job; the overview shows it while it runs."""
        try:
            ask(actor_of(request), work)
        except EngineError as problem:
            raise ConsistencyError(problem.message, hint=problem.hint) from problem
        return reverse("consistency:overview")

    def running(self, request: HttpRequest) -> dict[str, Any]:
        """Cards of the jobs that wait or run, and the last one when it did not end well."""
        names = [kind.name for kind in _KINDS]
        waiting = Job.objects.filter(kind__in=names, state__in=(Job.State.RUNNING, Job.State.QUEUED)).select_related("plan")
        cards = [running.live(job) for job in waiting.order_by("created", "id")[:5]]
        last = None
        if not cards:
            last = Job.objects.filter(kind__in=names).order_by("-created", "-id").first()
        return {"cards": cards, "failed": last if last is not None and last.state == Job.State.FAILED else None}

    def snapshot(self, name: str) -> str:
        """Its page."""
        return reverse("backups:backup", args=[name])
