"""Repositories: where backups are, and how much room is left there."""

from __future__ import annotations

import shutil

from django.db.models import Count, Max, Sum
from django.http import HttpResponseBase
from pydantic import BaseModel
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from backups.conf import configuration
from backups.engine.errors import EngineError, UsageError
from backups.jobs import submit
from backups.models import IndexedBackup

from .authentication import actor
from .backups import queued
from .operation import Resource, operation, reply
from .schemas import JobShape, Pruning, RepositoryShape, SetProving, SetSummary, WholeRepository


class RepositoryList(BaseModel):
    """All repositories; the first is the default one."""

    items: list[RepositoryShape]


def _about(name: str) -> RepositoryShape:
    known = configuration()
    try:
        known.open(name)
        problem = ""
    except EngineError as found:
        problem = found.message
    try:
        disk = shutil.disk_usage(known.repositories[name])
    except OSError:
        disk = None
    return RepositoryShape(
        name=name,
        default=name == known.default_repository,
        usable=not problem,
        problem=problem,
        free=disk.free if disk else None,
        size=disk.total if disk else None,
    )


def _known(name: str) -> str:
    if name not in configuration().repositories:
        raise NotFound(f"No repository is named {name!r}. There are: {', '.join(configuration().repositories)}.")
    return name


class Repositories(Resource):
    """All of them."""

    tag = "Repositories"

    @operation("list_repositories", "backups.view_backup", answers={200: RepositoryList})
    def get(self, request: Request) -> HttpResponseBase:
        """List the repositories, the default one first."""
        return reply(RepositoryList(items=[_about(name) for name in configuration().repositories]))


class Repository(Resource):
    """One of them."""

    tag = "Repositories"

    @operation("show_repository", "backups.view_backup", answers={200: WholeRepository})
    def get(self, request: Request, name: str) -> HttpResponseBase:
        """Show a repository: its sets, what they take, and what is left of the disk."""
        about = _about(_known(name))
        rows = (
            IndexedBackup.objects.filter(repository=name)
            .order_by()
            .values("set")
            .annotate(backups=Count("pk"), stored=Sum("bytes_stored"), newest=Max("time"))
        )
        sets = [
            SetSummary(name=row["set"], backups=row["backups"], bytes_stored=row["stored"] or 0, newest=row["newest"])
            for row in sorted(rows, key=lambda row: row["set"])
        ]
        return reply(WholeRepository(**about.model_dump(), sets=sets, bytes_stored=sum(one.bytes_stored for one in sets)))


class Reindex(Resource):
    """Read it anew."""

    tag = "Repositories"

    @operation(
        "reindex_repository",
        "backups.create_backup",
        answers={202: JobShape},
        problems=(503,),
        once=True,
        headers={202: ("Location",)},
    )
    def post(self, request: Request, name: str) -> HttpResponseBase:
        """Read a repository anew, for backups that were made or deleted elsewhere."""
        return queued(request, submit.reindex(actor(request), repository=_known(name)))


class Verify(Resource):
    """Prove what is in it."""

    tag = "Repositories"

    @operation(
        "verify_repository",
        "backups.verify_backup",
        body=SetProving,
        answers={202: JobShape},
        problems=(503,),
        once=True,
        headers={202: ("Location",)},
    )
    def post(self, request: Request, name: str, *, body: SetProving) -> HttpResponseBase:
        """Verify all backups of a set, or its newest."""
        arguments = {"repository": _known(name), "set": body.set, "everything": body.everything, "depth": body.depth}
        return queued(request, submit.verify(actor(request), **arguments))


class Prune(Resource):
    """Make room in it."""

    tag = "Repositories"

    @operation(
        "prune_repository",
        "backups.delete_backup",
        body=Pruning,
        answers={202: JobShape},
        problems=(503,),
        once=True,
        headers={202: ("Location",)},
    )
    def post(self, request: Request, name: str, *, body: Pruning) -> HttpResponseBase:
        """Delete the backups that no rule keeps, or only say which they are.

        Held backups, those that others need, and the newest verified ones (`verified_floor`) always stay.
        """
        rules = body.model_dump()
        if not any(value for name, value in rules.items() if name.startswith("keep_")):
            raise UsageError(
                "No rule says what to keep, so everything would go. Nothing was done.", hint="Give keep_daily or the like."
            )
        return queued(request, submit.prune(actor(request), repository=_known(name), **rules))
