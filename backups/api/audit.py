"""The audit: list its entries, and verify its hash chain."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field
from rest_framework.request import Request

from backups.identity import audit
from backups.models import AuditEntry

from .operation import Operation
from .paging import Page, PageQuery, page
from .schemas import Moment, ResponseModel, Text


class AuditQuery(PageQuery):
    """Filters of the list of audit entries."""

    lookups = {"since": "time__gte", "until": "time__lte"}  # noqa: RUF012

    who: Annotated[Text, Field(description="Entries of one account or plan.")] = ""
    action: Annotated[Text, Field(description="Entries of one action, such as `backup.requested`.")] = ""
    target: Annotated[Text, Field(description="Entries about one object, such as `backup:ID` or `job:ID`.")] = ""
    since: Annotated[Moment | None, Field(description="Recorded at this time or later.")] = None
    until: Annotated[Moment | None, Field(description="Recorded at this time or earlier.")] = None


class AuditEntrySchema(ResponseModel, title="Audit"):
    """An audit entry."""

    number: int
    time: datetime
    who: str
    who_id: str
    via: str
    token: str
    address: str
    action: str
    target: str
    before: Any
    after: Any
    previous: str
    hash: str


class AuditVerdict(ResponseModel):
    """Whether the hash chain of the audit is intact; if not, the first entry that is wrong, and why."""

    holds: bool
    entries: int
    head: str
    broken_at: int | None
    why: str


@Operation("backups.view_audit", query=AuditQuery, responses={200: Page[AuditEntrySchema]})
def list_audit(request: Request, *, query: AuditQuery) -> Page[AuditEntrySchema]:
    """List audit entries, newest first."""
    return page(request, query, query.matching(AuditEntry.objects.all()), ("number",), AuditEntrySchema.model_validate)


@Operation("backups.view_audit", responses={200: AuditVerdict})
def verify_audit(request: Request) -> AuditVerdict:
    """Verify the audit's hash chain.

    Reports the first entry that was changed, removed or inserted. Takes about a second per 100,000 entries. Store `head`
    elsewhere: with write access to the whole table, an attacker can build a new chain.
    """
    _, head = audit.head()
    entries, broken = audit.verify_chain()
    return AuditVerdict(
        holds=broken is None,
        entries=entries,
        head=head,
        broken_at=broken.number if broken else None,
        why=broken.why if broken else "",
    )
