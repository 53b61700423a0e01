"""Consistency below ``/api/v1/consistency/``: checks, what they found, and repairs.

The consistency app knows nothing of tokens, jobs and the API of backups; so its routes are the project's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from django.http import HttpResponseBase
from django.urls import URLPattern, path
from pydantic import Field
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

import backups.api.urls as _urls  # its converters are used below
from backups.api.authentication import actor
from backups.api.backups import queued
from backups.api.operation import Resource, operation, reply
from backups.api.paging import Page, PageQuery, page
from backups.api.permissions import require
from backups.api.problems import Refused
from backups.api.schemas import JobShape, RequestModel, ResponseModel, Text
from consistency.engine.errors import ConsistencyError
from consistency.engine.findings import Cause, FindingKind, Severity, State
from consistency.engine.findings import Repair as Action
from consistency.frame import Work
from consistency.models import Check, Finding, Repair
from consistency.repairs.plan import plan_repair
from refserver.consistency_frame import ask

assert _urls.app_name

_MOST = (1 << 63) - 1
_QUEUED = {202: ("Location",)}
Number = Annotated[int, Field(ge=1, le=_MOST)]


class ConsistencyCheck(ResponseModel):
    """A check. `state` is how far it is, `verdict` its outcome; `kinds` and `severities` count what it found."""

    id: int
    source: str
    state: str
    verdict: State | None
    by: str
    started: datetime
    ended: datetime | None
    seconds: float
    records: int
    findings: int
    in_flight: int
    kinds: dict[str, int]
    severities: dict[str, int]
    mappings: dict[str, Any]
    error: dict[str, Any] | None


class IssueShape(ResponseModel):
    """One thing that a check found. `repair` is what mends it; `safe`: without a question."""

    id: int
    check: int
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


class WholeIssue(IssueShape):
    """A finding with what each side says; null where it has nothing."""

    sqlite: dict[str, Any] | None
    chroma: dict[str, Any] | None


class MadeRepair(ResponseModel):
    """A repair. `steps` says how many records are in which state; `snapshot` is the backup that was made before."""

    id: int
    check: int
    state: str
    by: str
    snapshot: str
    started: datetime
    ended: datetime | None
    undone: datetime | None
    undone_by: str
    steps: dict[str, int]


class RepairPlan(ResponseModel):
    """What a repair would do. `asks` delete a vector; `left` are those that no repair mends."""

    check: int
    repairs: int
    actions: dict[str, int]
    kinds: dict[str, int]
    asks: int
    left: int
    critical: int
    snapshot: bool


class CheckQuery(PageQuery):
    """Which checks."""

    source: Annotated[Text, Field(description="`live`, or a backup's id.")] = ""
    state: Annotated[Literal["running", "done", "failed", "cancelled"] | None, Field(description="Checks in one state.")] = None
    verdict: Annotated[State | None, Field(description="Checks that came to that.")] = None


class IssueQuery(PageQuery):
    """Which findings."""

    check: Annotated[Number | None, Field(description="Of that check; the last one of the live stores if none is given.")] = (
        None
    )
    kind: Annotated[FindingKind | None, Field(description="Findings of one kind.")] = None
    severity: Annotated[Severity | None, Field(description="Findings of one severity; `info` are in flight.")] = None
    state: Annotated[Literal["open", "repaired", "gone", "undone"] | None, Field(description="What became of them.")] = None
    mapping: Annotated[Text, Field(description="Findings of one mapping.")] = ""
    record: Annotated[Text, Field(description="Findings of one record.")] = ""
    safe: Annotated[bool | None, Field(description="Those whose repair needs no question, or the others.")] = None


class NewCheck(RequestModel):
    """A check to be made."""

    repair: Annotated[
        Literal["", "safe"], Field(description="`safe`: then repair what needs no question, if nothing critical is found.")
    ] = ""


class Repairing(RequestModel):
    """What to repair of what a check found. Nothing named: all that is safe."""

    check: Annotated[Number | None, Field(description="The last one of the live stores if none is given.")] = None
    scope: Annotated[Literal["safe", "all"], Field(description="`all` deletes vectors whose rows are gone, too.")] = "safe"
    kinds: Annotated[
        tuple[FindingKind, ...], Field(max_length=len(FindingKind), description="Only findings of these kinds.")
    ] = ()
    issues: Annotated[tuple[Number, ...], Field(max_length=500, description="Only these findings.")] = ()


def _told_check(row: Check) -> ConsistencyCheck:
    return ConsistencyCheck(
        id=row.pk,
        source=row.source,
        state=row.state,
        verdict=State(row.verdict) if row.verdict else None,
        by=row.actor,
        started=row.started,
        ended=row.ended,
        seconds=row.seconds,
        records=row.records,
        findings=row.findings_count,
        in_flight=row.in_flight,
        kinds=row.kinds,
        severities=row.severities,
        mappings=row.mappings,
        error=row.error,
    )


def _issue_values(row: Finding) -> dict[str, Any]:
    names = ("kind", "severity", "mapping", "record", "parent", "message", "cause", "differences", "repair", "safe", "state")
    return {"id": row.pk, "check": row.belongs_to_id, **{name: getattr(row, name) for name in names}}


def _told_repair(row: Repair) -> MadeRepair:
    names = ("state", "snapshot", "started", "ended", "undone", "undone_by")
    values = {name: getattr(row, name) for name in names}
    return MadeRepair(id=row.pk, check=row.of_check_id, by=row.actor, steps=row.counts(), **values)


def _check(number: int) -> Check:
    row = Check.objects.filter(pk=number).first()
    if row is None:
        raise NotFound(f"There is no check {number}.")
    return row


def _last(number: int | None) -> Check:
    """The check that was named, or the last of the live stores that came to its end. Raises `NotFound`."""
    if number is not None:
        return _check(number)
    row = Check.objects.filter(source=Check.LIVE, state=Check.State.DONE).order_by("-started", "-pk").first()
    if row is None:
        raise NotFound("Nothing was checked yet: make a check first.")
    return row


def _repair(number: int) -> Repair:
    row = Repair.objects.filter(pk=number).first()
    if row is None:
        raise NotFound(f"There is no repair {number}.")
    return row


def _refused(problem: ConsistencyError) -> Refused:
    return Refused(409, problem.code, f"{problem.message} Nothing was done.", problem.hint)


class Checks(Resource):
    """All of them."""

    tag = "Consistency"

    @operation("list_checks", "consistency.view_check", query=CheckQuery, answers={200: Page[ConsistencyCheck]})
    def get(self, request: Request, *, query: CheckQuery) -> HttpResponseBase:
        """List checks, newest first."""
        same = {"source": query.source, "state": query.state, "verdict": query.verdict}
        rows = Check.objects.filter(**{name: value for name, value in same.items() if value})
        items, following = page(rows, ("pk",), query, request.path)
        return reply(Page[ConsistencyCheck](items=[_told_check(row) for row in items], next=following))

    @operation(
        "start_check",
        "consistency.run_check",
        depends="Needs the permission `consistency.run_check`, with `repair` also `consistency.repair_finding`, and of a token "
        "the scope `consistency`.",
        body=NewCheck,
        answers={202: JobShape},
        problems=(503,),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, *, body: NewCheck) -> HttpResponseBase:
        """Compare every row with every vector.

        The job's `result` has the check's number as `id`. A check that waits or runs already is answered instead of a second.
        """
        if body.repair:
            require(request, "consistency.repair_finding")
        return queued(request, ask(actor(request), Work(do="check", everything=bool(body.repair))))


class OneCheck(Resource):
    """One of them."""

    tag = "Consistency"

    @operation("show_check", "consistency.view_check", answers={200: ConsistencyCheck})
    def get(self, request: Request, number: int) -> HttpResponseBase:
        """Show a check: its verdict, and how many findings it has of each kind."""
        return reply(_told_check(_check(number)))


class Issues(Resource):
    """What a check found."""

    tag = "Consistency"

    @operation("list_issues", "consistency.view_check", query=IssueQuery, answers={200: Page[IssueShape]}, problems=(404,))
    def get(self, request: Request, *, query: IssueQuery) -> HttpResponseBase:
        """List findings of a check, the last one first."""
        names = ("kind", "severity", "state", "mapping", "record")
        same = {name: value for name in names if (value := getattr(query, name))}
        rows = _last(query.check).findings.filter(**same).defer("sqlite", "chroma")
        if query.safe is not None:
            rows = rows.filter(safe=query.safe)
        items, following = page(rows, ("pk",), query, request.path)
        return reply(Page[IssueShape](items=[IssueShape(**_issue_values(row)) for row in items], next=following))


class OneIssue(Resource):
    """One of them."""

    tag = "Consistency"

    @operation("show_issue", "consistency.view_check", answers={200: WholeIssue})
    def get(self, request: Request, number: int) -> HttpResponseBase:
        """Show a finding with what each side says."""
        row = Finding.objects.filter(pk=number).first()
        if row is None:
            raise NotFound(f"There is no finding {number}.")
        return reply(WholeIssue(**_issue_values(row), sqlite=row.sqlite, chroma=row.chroma))


class Repairs(Resource):
    """All of them."""

    tag = "Consistency"

    @operation("list_repairs", "consistency.view_check", query=PageQuery, answers={200: Page[MadeRepair]})
    def get(self, request: Request, *, query: PageQuery) -> HttpResponseBase:
        """List repairs, newest first."""
        items, following = page(Repair.objects.all(), ("pk",), query, request.path)
        return reply(Page[MadeRepair](items=[_told_repair(row) for row in items], next=following))

    @operation(
        "start_repair",
        "consistency.repair_finding",
        body=Repairing,
        answers={202: JobShape},
        problems=(404, 409, 503),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, *, body: Repairing) -> HttpResponseBase:
        """Repair what a check found, after a snapshot.

        Each record is looked at again first: what is no longer wrong is passed over. The job's `result` names the repair.
        """
        check = _last(body.check)
        if not _plan(body, check).repairs:
            raise Refused(409, "repair_refused", "There is nothing to repair. Nothing was done.", "Look at the plan first.")
        work = Work(
            do="repair",
            check=check.pk,
            everything=body.scope == "all",
            kinds=tuple(str(kind) for kind in body.kinds),
            findings=body.issues,
        )
        return queued(request, ask(actor(request), work))


def _plan(body: Repairing, check: Check) -> RepairPlan:
    if check.source != Check.LIVE or check.state != Check.State.DONE:
        raise Refused(
            409,
            "repair_refused",
            f"Check {check.pk} is not a check of the live stores that is done. Nothing was done.",
            "Check the live stores to the end, and repair what that finds.",
        )
    try:
        planned = plan_repair(check, only_safe=body.scope == "safe", kinds=body.kinds, findings=body.issues)
    except ConsistencyError as problem:
        raise _refused(problem) from problem
    return RepairPlan(**planned.as_json())


class Plan(Resource):
    """What a repair would do."""

    tag = "Consistency"

    @operation("plan_repair", "consistency.view_check", body=Repairing, answers={200: RepairPlan}, problems=(404, 409))
    def post(self, request: Request, *, body: Repairing) -> HttpResponseBase:
        """Say what a repair would do. Changes nothing."""
        return reply(_plan(body, _last(body.check)))


class OneRepair(Resource):
    """One of them."""

    tag = "Consistency"

    @operation("show_repair", "consistency.view_check", answers={200: MadeRepair})
    def get(self, request: Request, number: int) -> HttpResponseBase:
        """Show a repair, and how far it is."""
        return reply(_told_repair(_repair(number)))


class Undo(Resource):
    """Take it back."""

    tag = "Consistency"

    @operation(
        "undo_repair",
        "consistency.repair_finding",
        answers={202: JobShape},
        problems=(409, 503),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, number: int) -> HttpResponseBase:
        """Put back what a repair replaced; what somebody changed since stays as it is."""
        row = _repair(number)
        if row.state == Repair.State.UNDONE:
            raise Refused(409, "repair_refused", f"Repair {row.pk} is undone already. Nothing was done.")
        return queued(request, ask(actor(request), Work(do="undo", repair=row.pk)))


class Resume(Resource):
    """Go on with it."""

    tag = "Consistency"

    @operation(
        "resume_repair",
        "consistency.repair_finding",
        answers={202: JobShape},
        problems=(409, 503),
        once=True,
        headers=_QUEUED,
    )
    def post(self, request: Request, number: int) -> HttpResponseBase:
        """Go on with a repair, or with undoing one, that was cut short."""
        row = _repair(number)
        if row.state in (Repair.State.DONE, Repair.State.UNDONE):
            raise Refused(409, "repair_refused", f"Repair {row.pk} is at its end. Nothing was done.")
        return queued(request, ask(actor(request), Work(do="resume", repair=row.pk)))


urlpatterns: list[URLPattern] = [
    path("checks", Checks.as_view()),
    path("checks/<rb_number:number>", OneCheck.as_view()),
    path("issues", Issues.as_view()),
    path("issues/<rb_number:number>", OneIssue.as_view()),
    path("repairs", Repairs.as_view()),
    path("repairs/plan", Plan.as_view()),
    path("repairs/<rb_number:number>", OneRepair.as_view()),
    path("repairs/<rb_number:number>/undo", Undo.as_view()),
    path("repairs/<rb_number:number>/resume", Resume.as_view()),
]
