"""The audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from backups.api.paging import PageQuery

from .base import Moment, ResponseModel, Text


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
