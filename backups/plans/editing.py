"""Changes to plans by people: each is validated, and recorded in the audit."""

from typing import Any

from django.db import transaction

from backups import moments
from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.identity import audit
from backups.identity.audit import Actor
from backups.jobs import types
from backups.models import Plan

from . import validation

_CHANGE = "backups.change_plan"


def needs(*kinds: str) -> tuple[str, ...]:
    """The permissions that adding, changing or removing a plan needs: for plans, and for the work of its job type.

    A plan runs with the permissions of its author: without the second, who may change plans could delete backups by a plan that
    prunes. *kinds* are the job types before and after. An unknown one needs no permission of its own.
    """
    known = types.job_types()
    return (_CHANGE, *sorted({known[kind].permission for kind in kinds if kind in known} - {_CHANGE}))


def is_dangerous(plan: Plan) -> bool:
    """Whether the jobs of a plan delete or change existing data."""
    return types.is_dangerous(plan.kind, plan.arguments)


def pause_plan(actor: Actor, plan: Plan) -> Plan:
    """Pause a plan."""
    return _switch(actor, plan, enabled=False)


def resume_plan(actor: Actor, plan: Plan) -> Plan:
    """Resume a plan from its next due time; times that passed while it was paused are skipped."""
    return _switch(actor, plan, enabled=True)


def make_plan(actor: Actor, name: str, **values: Any) -> Plan:
    """Add a plan; *values* as `validation.WRITABLE`, and ``enabled``. Raises one `UsageError` that names every problem."""
    plan = Plan(name=name, **values)
    plan.paused_by = "" if plan.enabled else actor.name
    validation.check(plan)
    with transaction.atomic(using=configuration().database):
        if Plan.objects.filter(name=name).exists():
            raise UsageError(f"There is already a plan {name!r}.", hint="Change that plan, or choose another name.")
        plan.save(force_insert=True)
        audit.record(actor, "plan.made", f"plan:{plan.name}", after={**validation.described(plan), "enabled": plan.enabled})
    return plan


def change_plan(actor: Actor, plan: Plan, **values: Any) -> Plan:
    """Change the fields in *values*, of `validation.WRITABLE`. A plan whose times change is next due after now.

    Raises one `UsageError` that names every problem.
    """
    with transaction.atomic(using=configuration().database):
        plan = Plan.objects.select_for_update().get(pk=plan.pk)
        before = validation.described(plan)
        for name, value in values.items():
            if name not in validation.WRITABLE:
                raise UsageError(f"The field {name} of a plan cannot be changed.", hint="Nothing was changed.")
            setattr(plan, name, value)
        validation.check(plan)
        after = validation.described(plan)
        changed = [name for name in validation.WRITABLE if before[name] != after[name]]
        if not changed:
            return plan
        if {"cron", "time_zone"} & set(changed):
            plan.served = moments.now()
        plan.save()
        audit.record(
            actor,
            "plan.changed",
            f"plan:{plan.name}",
            before={name: before[name] for name in changed},
            after={name: after[name] for name in changed},
        )
    return plan


def remove_plan(actor: Actor, plan: Plan) -> None:
    """Remove a plan; its jobs are kept. A removed default plan returns only with ``backup_plans_install --again``."""
    with transaction.atomic(using=configuration().database):
        audit.record(actor, "plan.removed", f"plan:{plan.name}", before=validation.described(plan))
        plan.delete()


def _switch(actor: Actor, plan: Plan, *, enabled: bool) -> Plan:
    if plan.enabled != enabled:
        before = {"enabled": plan.enabled}
        plan.enabled, plan.paused_by = enabled, "" if enabled else actor.name
        if enabled:
            plan.served = moments.now()
        plan.save(update_fields=["enabled", "paused_by", "served", "changed"])
        audit.record(
            actor, "plan.resumed" if enabled else "plan.paused", f"plan:{plan.name}", before=before, after={"enabled": enabled}
        )
    return plan
