"""Conditions of restores and drills."""

from collections.abc import Iterator
from datetime import timedelta

from backups.conf import called
from backups.engine.progress import duration
from backups.monitoring.facts import Facts

from .condition import Observation, condition

DRILL_OVERDUE_DAYS = 8.0
"""A drill runs every week, and may be a day late."""


_TARGET = "BACKUPS['PROMISED_RTO_MINUTES']"


@condition(
    "slow_restore",
    "A restore takes longer than the target",
    todo=f"Use a faster disk for the repository, or raise the target ({called(_TARGET)}).",
    link="backups:dashboard",
)
def slow_restore(facts: Facts, threshold: float) -> Iterator[Observation]:
    last = facts.last_restore
    if last is not None and last.seconds > facts.promised_time:
        text = f"A restore takes about {duration(last.seconds)} (target: {duration(facts.promised_time)})."
        yield Observation(subject="", text=text)


@condition(
    "drill_overdue",
    "A drill is overdue",
    todo="Run a drill, and check its plan.",
    link="backups:readiness",
    unit="days",
    phrase="none for {:g} days",
    default=DRILL_OVERDUE_DAYS,
)
def drill_overdue(facts: Facts, threshold: float) -> Iterator[Observation]:
    last, possible = facts.drills.last_good, facts.drills.could_be_since
    since = last or possible
    if since is not None and facts.now - since > timedelta(days=threshold):
        ago = f"The last drill was {duration((facts.now - since).total_seconds())} ago."
        never = "No drill has ever been run."
        if facts.drills.excluded is not None:
            never = (
                f"No drill counts: {facts.drills.excluded.id}, which the last one restored, is {facts.drills.excluded.why} now."
            )
        yield Observation(subject="", text=ago if last else never)


@condition(
    "drill_failed",
    "The last drill failed",
    todo="A restore may fail too. Read what it found, and make a full backup.",
    link="backups:readiness",
)
def drill_failed(facts: Facts, threshold: float) -> Iterator[Observation]:
    if facts.drills.failed:
        job, text = facts.drills.failed_job, f"The last drill failed: {facts.drills.message or 'no message.'}"
        yield Observation(subject="", text=text, link="backups:job" if job else "", arguments=(job,) if job else ())
