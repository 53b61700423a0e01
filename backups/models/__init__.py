"""The tables of the control database: jobs, plans, alerts, tokens, the index of backups, and the audit.

A restore needs none of them: the repository is authoritative, and `IndexedBackup` is an index of it. Accounts are in the
application's database, which a restore rolls back, so these tables name people by primary key *and* name, without a foreign
key: after a restore the key may belong to another account.
"""

from .access import ApiToken, IdempotencyKey, KnownAccount
from .alerts import Alert, AlertChannel, AlertDelivery, AlertLook, AlertRule, AlertSubscription, Severity
from .approvals import Approval
from .audit import AuditEntry
from .index import IndexedBackup
from .jobs import Job, JobLog, Worker
from .plans import Plan

__all__ = [
    "Alert",
    "AlertChannel",
    "AlertDelivery",
    "AlertLook",
    "AlertRule",
    "AlertSubscription",
    "ApiToken",
    "Approval",
    "AuditEntry",
    "IdempotencyKey",
    "IndexedBackup",
    "Job",
    "JobLog",
    "KnownAccount",
    "Plan",
    "Severity",
    "Worker",
]
