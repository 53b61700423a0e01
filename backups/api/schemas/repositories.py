"""Repositories, and the jobs that concern a whole one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from backups.jobs.arguments import Count, Name

from .backups import VerifyRequest
from .base import RequestModel, ResponseModel


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


class PruneRequest(RequestModel, title="Pruning"):
    """Retention rules, at least one. `dry_run` only reports the backups that would be deleted."""

    set: Name | Literal[""] = ""
    every_set: bool = False
    keep_last: Count = 0
    keep_hourly: Count = 0
    keep_daily: Count = 0
    keep_weekly: Count = 0
    keep_monthly: Count = 0
    keep_yearly: Count = 0
    keep_within: Annotated[str, StringConstraints(pattern=r"^(\d+[hdwmy])*$", max_length=40)] = ""
    verified_floor: Count = 2
    dry_run: bool = False
