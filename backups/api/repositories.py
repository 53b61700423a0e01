"""Repositories: list, show, rescan, verify and prune them."""

from __future__ import annotations

import shutil

from django.db.models import Count, Max, Sum
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.conf import configuration
from backups.engine.errors import EngineError, UsageError
from backups.jobs import submit
from backups.models import IndexedBackup, Job

from .authentication import actor
from .job_operation import job_operation
from .operation import Operation
from .schemas.repositories import (
    PruneRequest,
    RepositoryDetails,
    RepositoryList,
    RepositorySchema,
    SetSummary,
    VerifySetRequest,
)


def _schema(name: str) -> RepositorySchema:
    config = configuration()
    try:
        config.open(name)
        message = ""
    except EngineError as problem:
        message = problem.message
    try:
        disk = shutil.disk_usage(config.repositories[name])
    except OSError:
        disk = None
    return RepositorySchema(
        name=name,
        default=name == config.default_repository,
        usable=not message,
        problem=message,
        free=disk.free if disk else None,
        size=disk.total if disk else None,
    )


def _checked(name: str) -> str:
    """*name*, if it is a repository. Raises `NotFound`."""
    names = configuration().repositories
    if name not in names:
        raise NotFound(f"There is no repository {name!r}. Repositories: {', '.join(names)}.")
    return name


@Operation("backups.view_backup", responses={200: RepositoryList})
def list_repositories(request: Request) -> RepositoryList:
    """List repositories, the default one first."""
    return RepositoryList(items=[_schema(name) for name in configuration().repositories])


@Operation("backups.view_backup", responses={200: RepositoryDetails})
def show_repository(request: Request, name: str) -> RepositoryDetails:
    """Show a repository with its sets, their size, and the free disk space."""
    repository = _schema(_checked(name))
    rows = IndexedBackup.objects.filter(repository=name).order_by().values("set")
    counted = rows.annotate(backups=Count("pk"), stored=Sum("bytes_stored"), newest=Max("time"))
    sets = [
        SetSummary(name=row["set"], backups=row["backups"], bytes_stored=row["stored"] or 0, newest=row["newest"])
        for row in sorted(counted, key=lambda row: row["set"])
    ]
    return RepositoryDetails(**repository.model_dump(), sets=sets, bytes_stored=sum(one.bytes_stored for one in sets))


@job_operation("backups.create_backup")
def reindex_repository(request: Request, name: str) -> Job:
    """Rescan a repository.

    Finds backups that were made or deleted elsewhere.
    """
    return submit.reindex(actor(request), repository=_checked(name))


@job_operation("backups.verify_backup", body=VerifySetRequest)
def verify_repository(request: Request, name: str, *, body: VerifySetRequest) -> Job:
    """Verify all backups of a set, or the newest one."""
    return submit.verify(actor(request), repository=_checked(name), set=body.set, everything=body.everything, depth=body.depth)


@job_operation("backups.delete_backup", body=PruneRequest)
def prune_repository(request: Request, name: str, *, body: PruneRequest) -> Job:
    """Delete the backups that no retention rule keeps, or only report them.

    Held backups, backups that others need, and the newest verified ones (`verified_floor`) always stay.
    """
    rules = body.model_dump()
    if not any(value for rule, value in rules.items() if rule.startswith("keep_")):
        raise UsageError(
            "Without a retention rule every backup would be deleted. Nothing was done.", hint="Send a rule such as keep_daily."
        )
    return submit.prune(actor(request), repository=_checked(name), **rules)
