"""The audit: list its entries, and verify its hash chain."""

from __future__ import annotations

from rest_framework.request import Request

from backups.identity import audit
from backups.models import AuditEntry

from .operation import Operation
from .paging import Page, page
from .schemas.audit import AuditEntrySchema, AuditQuery, AuditVerdict


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
