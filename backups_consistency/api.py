"""Consistency below ``/api/v1/consistency/``: checks, findings and repairs.

They are not in the app `consistency`, which does not depend on the tokens, jobs and API of backups.
"""

from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from django.db.models import Model
from django.urls import URLPattern, path
from pydantic import BeforeValidator, Field
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

import backups.api.urls as _urls  # registers the converter used below
from backups.api.authentication import actor
from backups.api.jobs import job_operation
from backups.api.operation import Operation
from backups.api.paging import Page, PageQuery, page
from backups.api.permissions import require
from backups.api.problems import Refused, unknown
from backups.api.resource import resource
from backups.api.schemas import RequestModel, ResponseModel, Text
from backups.identity.step_up import always
from backups.models import Job
from consistency.engine.errors import ConsistencyError
from consistency.engine.findings import Cause, FindingKind, Severity, State
from consistency.engine.findings import Repair as Action
from consistency.frame import Work
from consistency.models import Check, Finding, Repair
from consistency.repairs import plan

from .frame import queue_once

assert _urls.app_name

M = TypeVar("M", bound=Model)
Number = Annotated[int, Field(ge=1, le=(1 << 63) - 1)]
_LAST_CHECK = "By default the latest check of the live stores."


class CheckQuery(PageQuery):
    """Filters of the list of checks."""

    source: Annotated[Text, Field(description="`live`, or the id of a backup.")] = ""
    state: Annotated[Literal["running", "done", "failed", "cancelled"] | None, Field(description="Checks in one state.")] = None
    verdict: Annotated[State | None, Field(description="Checks with one verdict.")] = None


class NewCheck(RequestModel):
    """A check to run."""

    repair: Annotated[
        Literal["", "safe"], Field(description="`safe`: then apply the safe repairs, unless a critical finding is found.")
    ] = ""


class CheckSchema(ResponseModel, title="ConsistencyCheck"):
    """A check. `kinds` and `severities` count its findings."""

    id: int
    source: str
    state: str
    verdict: Annotated[State | None, BeforeValidator(lambda verdict: verdict or None)]
    by: Annotated[str, Field(validation_alias="actor")]
    started: datetime
    ended: datetime | None
    seconds: float
    records: int
    findings: Annotated[int, Field(validation_alias="findings_count")]
    in_flight: int
    kinds: dict[str, int]
    severities: dict[str, int]
    mappings: dict[str, Any]
    error: dict[str, Any] | None


class FindingQuery(PageQuery):
    """Filters of the list of findings."""

    lookups = {"check": ""}  # noqa: RUF012

    check: Annotated[Number | None, Field(description=f"Findings of this check. {_LAST_CHECK}")] = None
    kind: Annotated[FindingKind | None, Field(description="Findings of one kind.")] = None
    severity: Annotated[Severity | None, Field(description="Findings of one severity; `info` means in flight.")] = None
    state: Annotated[Literal["open", "repaired", "gone"] | None, Field(description="Findings in one state.")] = None
    mapping: Annotated[Text, Field(description="Findings of one mapping.")] = ""
    record: Annotated[Text, Field(description="Findings of one record.")] = ""
    safe: Annotated[bool | None, Field(description="Findings with a safe repair, or the others.")] = None


class FindingSchema(ResponseModel, title="Issue"):
    """A finding. `repair` is the action that repairs it; `safe`: without confirmation."""

    id: Annotated[int, Field(validation_alias="pk")]
    check: Annotated[int, Field(validation_alias="belongs_to_id")]
    kind: FindingKind
    severity: Severity
    mapping: str
    record: str
    parent: str
    message: str
    cause: Cause
    differences: list[str]
    repair: Action
    safe: bool
    state: str


class FindingDetails(FindingSchema, title="WholeIssue"):
    """A finding with the record on each side; null where it is missing."""

    sqlite: dict[str, Any] | None
    chroma: dict[str, Any] | None


class RepairRequest(RequestModel, title="Repairing"):
    """The findings of a check to repair; by default all that are safe to repair."""

    check: Annotated[Number | None, Field(description=_LAST_CHECK)] = None
    scope: Annotated[
        Literal["safe", "all", "rows"],
        Field(
            description="`all` also deletes vectors whose rows are missing, and rebuilds broken indexes, which cannot be "
            "undone; `rows` restores these rows from backups."
        ),
    ] = "safe"
    kinds: Annotated[
        tuple[FindingKind, ...], Field(max_length=len(FindingKind), description="Only findings of these kinds.")
    ] = ()
    issues: Annotated[tuple[Number, ...], Field(max_length=500, description="Only these findings.")] = ()


class RepairPlan(ResponseModel):
    """The effect of a repair. `asks` counts deletions of vectors and indexes to rebuild, `rebuilds` the latter, and
    `without_row` the records without a row that rebuilding loses. `left` counts the findings that no repair fixes, and `lost`
    those whose row may be restored from a backup (scope `rows`).
    """

    check: int
    repairs: int
    actions: dict[str, int]
    kinds: dict[str, int]
    asks: int
    rebuilds: int
    without_row: int
    left: int
    critical: int
    lost: int
    snapshot: bool


class RepairSchema(ResponseModel, title="MadeRepair"):
    """A repair. `steps` counts its records by state; `snapshot` is the backup made before it."""

    id: int
    check: Annotated[int, Field(validation_alias="of_check_id")]
    state: str
    by: Annotated[str, Field(validation_alias="actor")]
    snapshot: str
    started: datetime
    ended: datetime | None
    undone: datetime | None
    undone_by: str
    steps: Annotated[dict[str, int], Field(validation_alias="counts"), BeforeValidator(lambda counts: counts())]


_LISTS: dict[type[Model], str] = {Check: "checks", Finding: "issues", Repair: "repairs"}


def _find(model: type[M], number: int) -> M:
    row = model._default_manager.filter(pk=number).first()
    if row is None:
        raise unknown(str(model._meta.model_name), number, f"consistency/{_LISTS[model]}")
    return row


def _check_or_latest(number: int | None) -> Check:
    if number is not None:
        return _find(Check, number)
    row = Check.objects.filter(source=Check.LIVE, state=Check.State.DONE).order_by("-started", "-pk").first()
    if row is None:
        raise NotFound("The live stores have not been checked yet: start a check first.")
    return row


@Operation("consistency.view_check", query=CheckQuery, responses={200: Page[CheckSchema]})
def list_checks(request: Request, *, query: CheckQuery) -> Page[CheckSchema]:
    """List checks, newest first."""
    return page(request, query, query.matching(Check.objects.all()), ("pk",), CheckSchema.model_validate)


def _repairs(request: Request, *, body: NewCheck) -> bool:
    return bool(body.repair)


@job_operation(
    "consistency.run_check",
    needs="Needs the permission `consistency.run_check`, with `repair` also `consistency.repair_finding`; a token needs the "
    "scope `consistency`.",
    body=NewCheck,
    dangerous=_repairs,
)
def start_check(request: Request, *, body: NewCheck) -> Job:
    """Queue a check.

    Compares every row with every vector. The `result` of the job has the number of the check as `id`. If the same check is
    already queued or running, its job is returned.
    """
    if body.repair:
        require(request, "consistency.repair_finding")
    return queue_once(actor(request), Work(do="check", everything=bool(body.repair)))


@Operation("consistency.view_check", responses={200: CheckSchema})
def show_check(request: Request, number: int) -> CheckSchema:
    """Show a check with its verdict and the number of findings of each kind."""
    return CheckSchema.model_validate(_find(Check, number))


@Operation("consistency.view_check", query=FindingQuery, responses={200: Page[FindingSchema]}, problems=(404,))
def list_issues(request: Request, *, query: FindingQuery) -> Page[FindingSchema]:
    """List the findings of a check, newest first."""
    rows = query.matching(_check_or_latest(query.check).findings.defer("sqlite", "chroma"))
    return page(request, query, rows, ("pk",), FindingSchema.model_validate)


@Operation("consistency.view_check", responses={200: FindingDetails})
def show_issue(request: Request, number: int) -> FindingDetails:
    """Show a finding with the record on each side."""
    return FindingDetails.model_validate(_find(Finding, number))


@Operation("consistency.view_check", query=PageQuery, responses={200: Page[RepairSchema]})
def list_repairs(request: Request, *, query: PageQuery) -> Page[RepairSchema]:
    """List repairs, newest first."""
    return page(request, query, Repair.objects.all(), ("pk",), RepairSchema.model_validate)


@Operation("consistency.view_check", body=RepairRequest, responses={200: RepairPlan}, problems=(404, 409))
def plan_repair(request: Request, *, body: RepairRequest) -> RepairPlan:
    """Plan a repair: show what it would do.

    Changes nothing.
    """
    return _plan(body, _check_or_latest(body.check))


@job_operation("consistency.repair_finding", body=RepairRequest, problems=(404, 409, 503), dangerous=always)
def start_repair(request: Request, *, body: RepairRequest) -> Job:
    """Queue a repair of findings.

    Makes a snapshot first. Each record is checked again, and skipped if it is consistent by then. The job's `result` names
    the repair.
    """
    check = _check_or_latest(body.check)
    if not _plan(body, check).repairs:
        raise _refused("There is nothing to repair.", "See the plan of the repair.")
    work = Work(
        do="repair",
        check=check.pk,
        everything=body.scope == "all",
        rows=body.scope == "rows",
        kinds=tuple(str(kind) for kind in body.kinds),
        findings=body.issues,
    )
    return queue_once(actor(request), work)


def _plan(body: RepairRequest, check: Check) -> RepairPlan:
    if check.source != Check.LIVE or check.state != Check.State.DONE:
        raise _refused(
            f"Check {check.pk} is not a finished check of the live stores.", "Check the live stores, and repair its findings."
        )
    try:
        planned = plan.plan_repair(
            check, only_safe=body.scope == "safe", restore_rows=body.scope == "rows", kinds=body.kinds, findings=body.issues
        )
    except ConsistencyError as problem:
        raise Refused(409, problem.code, f"{problem.message} Nothing was done.", problem.hint) from problem
    return RepairPlan(**planned.as_json())


@Operation("consistency.view_check", responses={200: RepairSchema})
def show_repair(request: Request, number: int) -> RepairSchema:
    """Show a repair and its progress."""
    return RepairSchema.model_validate(_find(Repair, number))


@job_operation("consistency.repair_finding", problems=(409, 503), dangerous=always)
def undo_repair(request: Request, number: int) -> Job:
    """Undo a repair.

    Records that changed since then stay as they are.
    """
    row = _find(Repair, number)
    if row.state == Repair.State.UNDONE:
        raise _refused(f"Repair {row.pk} has already been undone.")
    if not row.can_be_undone:
        raise _refused(f"Repair {row.pk} cannot be undone: it changed nothing, or rebuilt an index.")
    return queue_once(actor(request), Work(do="undo", repair=row.pk))


@job_operation("consistency.repair_finding", problems=(409, 503), dangerous=always)
def resume_repair(request: Request, number: int) -> Job:
    """Resume an interrupted repair, or an interrupted undo."""
    row = _find(Repair, number)
    if row.state in (Repair.State.DONE, Repair.State.UNDONE):
        raise _refused(f"Repair {row.pk} is finished.")
    return queue_once(actor(request), Work(do="resume", repair=row.pk))


def _refused(detail: str, hint: str = "") -> Refused:
    return Refused(409, "repair_refused", f"{detail} Nothing was done.", hint)


TAG = "Consistency"
urlpatterns: list[URLPattern] = [
    path("checks", resource(TAG, get=list_checks, post=start_check)),
    path("checks/<rb_number:number>", resource(TAG, get=show_check)),
    path("issues", resource(TAG, get=list_issues)),
    path("issues/<rb_number:number>", resource(TAG, get=show_issue)),
    path("repairs", resource(TAG, get=list_repairs, post=start_repair)),
    path("repairs/plan", resource(TAG, post=plan_repair)),
    path("repairs/<rb_number:number>", resource(TAG, get=show_repair)),
    path("repairs/<rb_number:number>/undo", resource(TAG, post=undo_repair)),
    path("repairs/<rb_number:number>/resume", resource(TAG, post=resume_repair)),
]
