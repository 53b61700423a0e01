"""The default plans, which ``manage.py install_schedules`` adds.

Why these times (UTC):

- At 03:00 the full backup is queued before the hourly incremental, which then stores almost nothing on top of it.
- The weekly full runs on Sunday at 23:30. Retention keeps the newest backup of each ISO week, which ends on Sunday night: of
  each week it keeps this full backup alone, and not a chain of incrementals. If it is late or fails, the incremental of 23:00
  is kept with its chain.
- Prunes and drills run between the full hours, at different times: a prune waits for readers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import transaction

from backups.conf import configuration
from backups.identity import audit
from backups.jobs.queue import install_tick, tick_name
from backups.jobs.types import job_types
from backups.models import AuditEntry, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Default:
    """A plan as it is added; later changes by people are kept."""

    name: str
    title: str
    kind: str
    cron: str
    arguments: dict[str, Any] = field(default_factory=dict)
    attempts: int = 3


DEFAULTS: tuple[Default, ...] = (
    Default(
        name="hourly-incremental",
        title="Hourly incremental",
        kind="backup",
        cron="0 * * * *",
        arguments={"backup": "incremental"},
    ),
    Default(name="daily-full", title="Daily full", kind="backup", cron="0 3 * * *", arguments={"backup": "full"}),
    Default(
        name="weekly-full",
        title="Weekly full, kept longer",
        kind="backup",
        cron="30 23 * * 0",
        arguments={"backup": "full", "note": "weekly"},
    ),
    Default(
        name="daily-control",
        title="Daily full of the control database",
        kind="backup",
        cron="20 3 * * *",
        arguments={"set": "control", "backup": "full"},
    ),
    Default(name="hourly-health", title="Hourly health check", kind="health", cron="10 * * * *", attempts=1),
    Default(
        name="daily-consistency",
        title="Daily consistency check, with safe repairs",
        kind="check_consistency",
        cron="0 6 * * *",
        arguments={"repair": "safe"},
    ),
    Default(
        name="weekly-drill", title="Weekly test restore", kind="drill", cron="30 7 * * 0", arguments={"backup_id": "latest"}
    ),
    Default(
        name="daily-prune",
        title="Daily prune",
        kind="prune",
        cron="30 5 * * *",
        arguments={"every_set": True, "keep_hourly": 48, "keep_daily": 14, "keep_weekly": 8, "keep_monthly": 12},
    ),
    Default(
        name="daily-second",
        title="Daily full in the second repository",
        kind="backup",
        cron="0 4 * * *",
        arguments={"repository": "second", "backup": "full"},
    ),
    Default(
        name="daily-prune-second",
        title="Daily prune of the second repository",
        kind="prune",
        cron="40 5 * * *",
        arguments={"repository": "second", "every_set": True, "keep_daily": 14, "keep_weekly": 8, "keep_monthly": 12},
    ),
    Default(name="weekly-audit", title="Weekly check of the audit", kind="audit_verify", cron="40 7 * * 0", attempts=1),
)


def install(*, again: bool = False) -> list[str]:
    """Make the default plans that are missing, and this host's tick. Returns the names of what was made.

    Plans whose job type, set or repository does not exist are left out, and, unless *again*, plans that were removed.
    """
    config = configuration()
    made = []
    with transaction.atomic(using=config.database):
        for default in DEFAULTS:
            if default.kind not in job_types() or str(default.arguments.get("set", config.default_set)) not in config.sets:
                continue
            if str(default.arguments.get("repository", config.default_repository)) not in config.repositories:
                continue
            if not again and AuditEntry.objects.filter(target=f"plan:{default.name}", action="plan.removed").exists():
                continue
            values = {**asdict(default), "builtin": True}
            del values["name"]
            if Plan.objects.get_or_create(name=default.name, defaults=values)[1]:
                made.append(default.name)
                audit.record(audit.SYSTEM, "plan.made", f"plan:{default.name}", after=values)
        if install_tick(config.host):
            made.append(tick_name(config.host))
    return made
