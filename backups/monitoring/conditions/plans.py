"""Conditions of plans: whether backups are planned often enough, and plans that fail or cannot run."""

from collections.abc import Iterator
from datetime import timedelta

from backups.engine.errors import DamageFound, NoSpace, PermissionMissing, RepositoryMissing
from backups.engine.progress import duration
from backups.jobs.types import BACKUP, HEALTH
from backups.models import Severity
from backups.monitoring.facts import CONDITIONS_FOUND, Facts, PlanFact

from . import backups, repositories
from .condition import Condition, Observation, condition, of

FAILURES_IN_A_ROW = 1.0
"""From so many failed runs in a row on, a plan counts as failed; attempts of one run count once."""

FAILURES_AT_RISK = 3.0
"""From so many on, it puts protection at risk. Failed health checks excepted: they protect nothing."""


def _backup_plans(facts: Facts, set_name: str) -> list[PlanFact]:
    return [plan for plan in facts.plans if plan.kind == BACKUP.name and plan.set == set_name]


@condition(
    "no_plan",
    "No plan makes backups of a set",
    code="plans",
    todo="Add a plan, unless another scheduler starts backups.",
    link="backups:plans",
    severity=Severity.INFO,
)
def no_plan(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.sets:
        if facts.plans and not _backup_plans(facts, one.name):
            yield Observation(subject=one.name, text=f"No plan makes backups{of(one.name, facts.sets)}.")


@condition("plans", "Backups are not planned often enough")
def too_rare(facts: Facts, threshold: float) -> Iterator[Observation]:
    allowed = timedelta(seconds=facts.promised_point + backups.LEAST_GRACE_SECONDS)
    for one in facts.sets:
        plans, which = _backup_plans(facts, one.name), of(one.name, facts.sets)
        due = min((plan.next for plan in plans if plan.next is not None), default=None)
        if not plans or (due is not None and due - facts.now <= allowed):
            continue
        paused = next((plan for plan in plans if not plan.enabled), None)
        text = (
            f"No active plan makes backups{which}."
            if due is None
            else f"The next backup{which} is due in {duration((due - facts.now).total_seconds())}."
        )
        if paused is not None:
            by = f" by {paused.paused_by}" if paused.paused_by else ""
            text = f"{paused.title or paused.name} is paused{by}. {text}"
        yield Observation(
            subject=one.name,
            text=text,
            todo="Resume it." if paused else f"Plan a backup at least every {duration(facts.promised_point)}.",
            link="backups:plan" if paused else "backups:plans",
            arguments=(paused.name,) if paused else (),
        )


_CAUSES: dict[str, tuple[Condition, float]] = {
    RepositoryMissing.code: (repositories.repository_missing, 0.0),
    PermissionMissing.code: (repositories.read_only, 0.0),
    NoSpace.code: (repositories.nearly_full, repositories.HARDLY_ANY_PERCENT),
    DamageFound.code: (backups.damage, 0.0),
}
"""Errors of jobs, and the condition that is their cause if it holds by that threshold, for which a critical rule exists."""


def _is_told(plan: PlanFact, facts: Facts) -> bool:
    """Whether another condition reports why the plan failed, and no address is to be written to if this plan fails."""
    if plan.alert_to:
        return False
    if plan.code == CONDITIONS_FOUND or any(one.code == plan.code for one in facts.probed):
        return True
    cause, threshold = _CAUSES.get(plan.code, (None, 0.0))
    return cause is not None and bool(cause.observe(facts, threshold))


@condition(
    "plan_failed",
    "A scheduled job failed",
    todo="Read the job's log.",
    link="backups:job",
    unit="times",
    phrase="{:g} or more in a row",
    default=FAILURES_IN_A_ROW,
    severity=Severity.INFO,
    check="plans",
)
def plan_failed(facts: Facts, threshold: float) -> Iterator[Observation]:
    for plan in facts.plans:
        if not plan.enabled or plan.failed_in_a_row < max(1.0, threshold, plan.alert_after) or _is_told(plan, facts):
            continue
        times = "" if plan.failed_in_a_row == 1 else f" {plan.failed_in_a_row} times in a row"
        yield Observation(
            subject=plan.name,
            text=f"{plan.title or plan.name} failed{times}: {plan.message or 'no message.'}",
            todo=plan.hint,
            arguments=(plan.last_job,),
            also=plan.alert_to,
            severity=Severity.WARNING if plan.failed_in_a_row >= FAILURES_AT_RISK and plan.kind != HEALTH.name else "",
        )


@condition(
    "plan_missed",
    "Scheduled runs were missed",
    todo="Check why no worker ran. When one runs again, it makes up for the last of the missed runs.",
    link="backups:plan",
    severity=Severity.INFO,
    check="plans",
)
def missed(facts: Facts, threshold: float) -> Iterator[Observation]:
    for plan in facts.plans:
        if plan.enabled and plan.missed:
            runs = "1 run" if plan.missed == 1 else f"{plan.missed:,} runs"
            text = f"{plan.title or plan.name} missed {runs} in the last day: no worker was there."
            if plan.missed_open:
                text += " No later run has succeeded."
            severity = Severity.WARNING if plan.missed_open else ""
            yield Observation(subject=plan.name, text=text, arguments=(plan.name,), severity=severity)


@condition("plan_never_due", "A plan is never due", todo="Correct its times.", link="backups:plan", check="plans")
def never_due(facts: Facts, threshold: float) -> Iterator[Observation]:
    for plan in facts.plans:
        if plan.cron_problem:
            text = f"The plan {plan.name} is never due: {plan.cron_problem}."
            yield Observation(subject=plan.name, text=text, arguments=(plan.name,))


@condition("plan_refused", "A plan could not run", todo="Correct its arguments.", link="backups:plan", check="plans")
def refused(facts: Facts, threshold: float) -> Iterator[Observation]:
    for plan in facts.plans:
        if plan.refused:
            text = f"The plan {plan.name} could not run: {plan.refused}"
            yield Observation(subject=plan.name, text=text, arguments=(plan.name,))
