"""Requests that wait for a second person: list them, show one, and decide about it."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field
from rest_framework.request import Request

from backups.identity import four_eyes
from backups.identity.step_up import always
from backups.models import Approval

from .authentication import actor, token_of
from .operation import Operation
from .paging import Page, PageQuery, page
from .permissions import allowed
from .problems import Refused, unknown
from .schemas import Note, RequestModel, ResponseModel


class ApprovalSchema(ResponseModel, title="Approval"):
    """A request that takes two people. `content` is empty for accounts that may not decide about it."""

    id: UUID
    subject: str
    title: str
    method: str
    address: str
    content: list[list[str]]
    digest: str
    reason: str
    username: str
    asked: datetime
    expires: datetime
    state: Literal["waiting", "approved", "rejected", "used"]
    open: Annotated[bool, Field(description="Whether it can still be decided about or carried out.")]
    decided_by: str
    decided: datetime | None
    decision: str
    emergency: datetime | None
    used: datetime | None


class Decision(RequestModel):
    """What to do about a request."""

    do: Annotated[
        Literal["approve", "reject", "emergency"],
        Field(description="`emergency`: the account that asked goes ahead alone an hour later; everybody is alerted."),
    ]
    reason: Annotated[Note, Field(description="Required for `reject`.")] = ""


def _schema(request: Request, row: Approval) -> ApprovalSchema:
    subject = four_eyes.SUBJECTS[row.subject]
    content = row.content if allowed(request, subject.permission) else []
    content = [[name, "" if name == "key" else value] for name, value in content]
    return ApprovalSchema.of(row, title=subject.title, content=content, open=row.is_open)


def _find(approval_id: UUID) -> Approval:
    row = Approval.objects.filter(pk=approval_id).first()
    if row is None:
        raise unknown("approval", approval_id, "approvals")
    return row


@Operation("backups.view_audit", query=PageQuery, responses={200: Page[ApprovalSchema]})
def list_approvals(request: Request, *, query: PageQuery) -> Page[ApprovalSchema]:
    """List requests that take two people, newest first."""
    described: Any = lambda row: _schema(request, row)  # noqa: E731
    return page(request, query, Approval.objects.all(), ("asked", "id"), described)


@Operation("backups.view_audit", responses={200: ApprovalSchema})
def show_approval(request: Request, approval_id: UUID) -> ApprovalSchema:
    """Show a request that takes two people."""
    return _schema(request, _find(approval_id))


@Operation(
    "backups.view_audit",
    needs="Needs a session, and the permission of the request that is decided about.",
    dangerous=always,
    body=Decision,
    responses={200: ApprovalSchema},
    problems=(409,),
)
def decide_approval(request: Request, approval_id: UUID, *, body: Decision) -> ApprovalSchema:
    """Approve or reject a request, or go ahead alone.

    Tokens cannot. Nobody approves what they asked for themselves.
    """
    row = _find(approval_id)
    if token_of(request) is not None:
        raise Refused(403, "session_needed", "A token cannot decide about requests. Nothing was done.", "Sign in.")
    if body.do == "approve":
        four_eyes.approve(actor(request), request.user, row)
    elif body.do == "reject":
        four_eyes.reject(actor(request), request.user, row, body.reason)
    else:
        four_eyes.declare_emergency(actor(request), row)
    return _schema(request, row)
