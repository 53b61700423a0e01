"""The audit: who did what."""

from __future__ import annotations

from django.http import HttpResponseBase
from rest_framework.request import Request

from backups.identity import audit
from backups.models import AuditEntry

from . import schemas
from .operation import Resource, operation, reply
from .paging import Page, page
from .schemas import AuditQuery, AuditShape, AuditVerdict
from .throttling import AnonymousRate, AuditVerifyRate, CallerRate


class Audit(Resource):
    """All of it."""

    tag = "Audit"

    @operation("list_audit", "backups.view_audit", query=AuditQuery, answers={200: Page[AuditShape]})
    def get(self, request: Request, *, query: AuditQuery) -> HttpResponseBase:
        """List the entries of the audit, newest first."""
        same = {"who": query.who, "action": query.action, "target": query.target}
        rows = AuditEntry.objects.filter(**{name: value for name, value in same.items() if value})
        if query.since:
            rows = rows.filter(time__gte=query.since)
        if query.until:
            rows = rows.filter(time__lte=query.until)
        items, following = page(rows, ("number",), query, request.path)
        return reply(Page[AuditShape](items=[schemas.entry(row) for row in items], next=following))


class Verify(Resource):
    """Whether it holds."""

    tag = "Audit"
    throttle_classes = (AnonymousRate, CallerRate, AuditVerifyRate)

    @operation("verify_audit", "backups.view_audit", answers={200: AuditVerdict})
    def get(self, request: Request) -> HttpResponseBase:
        """Read the whole chain of the audit, and name the first entry that was changed, removed or slipped in.

        Takes about a second for a hundred thousand entries. Keep `head` elsewhere: whoever can rewrite the whole table can make
        a new chain.
        """
        _, head = audit.head()
        entries, broken = audit.verify_chain()
        return reply(
            AuditVerdict(
                holds=broken is None,
                entries=entries,
                head=head,
                broken_at=broken.number if broken else None,
                why=broken.why if broken else "",
            )
        )
