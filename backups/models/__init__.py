"""The tables of the control database: what is to be done, what was done, and who did it.

Nothing that a restore needs is kept here: the repository is the truth, and `IndexedBackup` is an index of it. Accounts live in
the application's database, which a restore rolls back, so these tables name people by account number *and* name, without a
foreign key: after a restore the number may belong to somebody else.
"""

from .access import ApiToken, IdempotencyKey
from .alerts import (
    Alert,
    AlertChannel,
    AlertDelivery,
    AlertLook,
    AlertRule,
    AlertSubscription,
    Severity,
)
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
    "AuditEntry",
    "IdempotencyKey",
    "IndexedBackup",
    "Job",
    "JobLog",
    "Plan",
    "Severity",
    "Worker",
]
