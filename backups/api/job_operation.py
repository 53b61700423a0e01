"""Operations that queue a job: the response is 202 with the job, and its address in the header Location."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.http import HttpResponseBase
from django.urls import reverse
from rest_framework.request import Request

from backups.models import Job

from .operation import Handler, Operation, reply
from .schemas.jobs import JobSchema, job_schema


def job_operation(
    permission: str,
    *,
    name: str = "",
    needs: str = "",
    query: Any = None,
    body: Any = None,
    problems: tuple[int, ...] = (503,),
    idempotency_key: bool = True,
) -> Callable[[Callable[..., Job]], Handler]:
    """An `Operation` whose function returns the job that it queued."""

    def decorate(function: Callable[..., Job]) -> Handler:
        @functools.wraps(function)
        def respond(request: Request, **arguments: Any) -> HttpResponseBase:
            job = function(request, **arguments)
            return reply(job_schema(job), 202, location=reverse("backups-api:job", args=[job.pk]))

        return Operation(
            permission,
            name=name,
            needs=needs,
            query=query,
            body=body,
            responses={202: JobSchema},
            problems=problems,
            idempotency_key=idempotency_key,
            headers={202: ("Location",)},
        )(respond)

    return decorate
