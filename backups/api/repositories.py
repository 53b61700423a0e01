"""Repositories: list, show, rescan, verify and prune them."""

import shutil
from datetime import datetime
from typing import Annotated, Any, Literal

from django.db import models
from pydantic import Field, StringConstraints
from rest_framework.request import Request

from backups.catalog import missing
from backups.conf import configuration
from backups.engine.errors import EngineError, UsageError
from backups.identity import four_eyes
from backups.identity.step_up import always
from backups.jobs import submit
from backups.jobs.arguments import BackupId, Name, Retention
from backups.models import IndexedBackup, Job

from .authentication import actor
from .backups import VerifyRequest
from .jobs import job_operation
from .operation import Operation
from .problems import unknown
from .schemas import RequestModel, ResponseModel, Text


class RepositorySchema(ResponseModel, title="Repository"):
    """A repository and its disk. `problem` says why it cannot be used; unknown sizes are null."""

    name: str
    default: bool
    usable: bool
    problem: str
    free: int | None
    size: int | None


class RepositoryList(ResponseModel):
    """All repositories, the default one first."""

    items: list[RepositorySchema]


class SetSummary(ResponseModel):
    """The backups of one set in a repository."""

    name: str
    backups: int
    bytes_stored: int
    newest: datetime | None


class RepositoryDetails(RepositorySchema, title="WholeRepository"):
    """A repository with its contents as recorded in the index."""

    sets: list[SetSummary]
    bytes_stored: int


class VerifySetRequest(VerifyRequest, title="SetProving"):
    """The backups of a repository to verify."""

    set: Name | Literal[""] = ""
    everything: Annotated[bool, Field(description="All backups of the set, or only its newest.")] = False


class PruneRequest(Retention, RequestModel, title="Pruning"):
    """Retention rules, at least one. `dry_run` only reports the backups that would be deleted."""

    set: Name | Literal[""] = ""
    keep_within: Annotated[str, StringConstraints(pattern=r"^(\d+[hdwmy])*$", max_length=40)] = ""


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
    names = configuration().repositories
    if name not in names:
        raise unknown("repository", name, "repositories")
    return name


def _opened(name: str) -> str:
    """The same name. Raises `RepositoryMissing` while it is not available, because a job would only fail."""
    configuration().open(_checked(name))
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
    counted = rows.annotate(backups=models.Count("pk"), stored=models.Sum("bytes_stored"), newest=models.Max("time"))
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
    return submit.reindex(actor(request), repository=_opened(name))


class ForgetRequest(RequestModel, title="Forgetting"):
    """The missing backups to forget; by default all of the repository."""

    ids: Annotated[tuple[BackupId, ...], Field(max_length=500, description="Only these.")] = ()
    set: Annotated[Text, Field(description="Only of this set.")] = ""


class Forgotten(ResponseModel):
    """The backups that were forgotten, newest first."""

    ids: list[str]


@Operation(
    "backups.delete_backup",
    dangerous=always,
    second=four_eyes.DELETE,
    body=ForgetRequest,
    responses={200: Forgotten},
    problems=(503,),
)
def forget_missing(request: Request, name: str, *, body: ForgetRequest) -> Forgotten:
    """Confirm that missing backups are lost, and forget them.

    Backups that vanish from a repository though nobody deleted them stay listed as `missing`, and a critical alert stays open,
    until this is called. The repository is read first; what has come back is kept.
    """
    found = missing.forget_missing(actor(request), repository=_checked(name), set=body.set, backup_ids=body.ids)
    return Forgotten(ids=found)


@job_operation("backups.verify_backup", body=VerifySetRequest)
def verify_repository(request: Request, name: str, *, body: VerifySetRequest) -> Job:
    """Verify all backups of a set, or the newest one."""
    return submit.verify(actor(request), repository=_opened(name), set=body.set, everything=body.everything, depth=body.depth)


def _deletes(request: Request, *, body: PruneRequest, **_: Any) -> bool:
    return not body.dry_run


@job_operation("backups.delete_backup", dangerous=_deletes, second=four_eyes.DELETE, body=PruneRequest)
def prune_repository(request: Request, name: str, *, body: PruneRequest) -> Job:
    """Delete the backups that no retention rule keeps, or only report them.

    Held backups, backups that others need, and the newest verified ones (`verified_floor`) always stay.
    """
    rules = body.model_dump()
    if not any(value for rule, value in rules.items() if rule.startswith("keep_")):
        raise UsageError(
            "Without a retention rule every backup would be deleted. Nothing was done.", hint="Send a rule such as keep_daily."
        )
    return submit.prune(actor(request), repository=_opened(name), **rules)
