"""The default plans, which ``manage.py backup_plans_install`` adds.

Why these times (UTC):

- At 03:00 the full backup is queued before the hourly incremental, which then stores almost nothing on top of it.
- The weekly full runs on Sunday at 23:30. Retention keeps the newest backup of each ISO week, which ends on Sunday night: of
  each week it keeps this full backup alone, and not a chain of incrementals. If it is late or fails, the incremental of 23:00
  is kept with its chain.
- Prunes and drills run between the full hours, at different times: a prune waits for readers.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from django.db import transaction

from backups.conf import configuration
from backups.identity import audit
from backups.jobs.queue import install_tick, tick_name
from backups.jobs.types import job_types
from backups.models import AuditEntry, Plan


@dataclass(frozen=True, slots=True)
class Default:
    """A plan as it is added; later changes by people are kept."""

    name: str
    title: str
    kind: str
    cron: str
    arguments: dict[str, Any] = field(default_factory=dict)
    attempts: int = 3


_PRUNE = {"every_set": True, "keep_daily": 14, "keep_weekly": 8, "keep_monthly": 12}
DEFAULTS = (
    Default("hourly-incremental", "Hourly incremental", "backup", "0 * * * *", {"backup": "incremental"}),
    Default("daily-full", "Daily full", "backup", "0 3 * * *", {"backup": "full"}),
    Default("weekly-full", "Weekly full, kept longer", "backup", "30 23 * * 0", {"backup": "full", "note": "weekly"}),
    Default(
        "daily-control", "Daily full of the control database", "backup", "20 3 * * *", {"set": "control", "backup": "full"}
    ),
    Default("hourly-health", "Hourly health check", "health", "10 * * * *", attempts=1),
    Default(
        "daily-consistency", "Daily consistency check, with safe repairs", "check_consistency", "0 6 * * *", {"repair": "safe"}
    ),
    Default("weekly-drill", "Weekly drill", "drill", "30 7 * * 0", {"backup_id": "latest"}),
    Default("daily-prune", "Daily prune", "prune", "30 5 * * *", {**_PRUNE, "keep_hourly": 48}),
    Default(
        "daily-second", "Daily full in the second repository", "backup", "0 4 * * *", {"repository": "second", "backup": "full"}
    ),
    Default(
        "daily-prune-second", "Daily prune of the second repository", "prune", "40 5 * * *", {"repository": "second", **_PRUNE}
    ),
    Default("weekly-audit", "Weekly check of the audit", "audit_verify", "40 7 * * 0", attempts=1),
)


def install(*, again: bool = False) -> list[str]:
    """Make the default plans that are missing, and this host's tick. Returns the names of what was made.

    Plans whose job type, set or repository does not exist, or is not ready, are left out, and, unless *again*, plans that
    were removed.
    """
    config = configuration()
    made = []
    with transaction.atomic(using=config.database):
        for default in DEFAULTS:
            kind = job_types().get(default.kind)
            if kind is None or not kind.ready() or str(default.arguments.get("set", config.default_set)) not in config.sets:
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
