"""What a condition is: something about the backups that needs attention, and how it is found in the facts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.urls import NoReverseMatch, reverse

from backups.models import Severity
from backups.monitoring.facts import Facts

NO_BACKUP = "nothing"
"""Code of the observation that a set has no backup at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One subject for which a condition holds."""

    subject: str
    """Set, backup, plan, host, repository or job; empty where there is only one."""
    text: str
    """One sentence, as shown on pages and in messages."""
    todo: str = ""
    """What to do about it."""
    link: str = ""
    """URL name of the page that helps."""
    arguments: tuple[str, ...] = ()
    query: str = ""
    also: tuple[str, ...] = ()
    """Mail addresses that get the alert in addition to the rule's recipients."""
    code: str = ""
    """For programs; filled in with the condition's code when empty."""
    severity: Severity | None = None
    """Filled in with the condition's severity when None."""

    @property
    def address(self) -> str:
        """URL of the page that helps; empty if this site does not have it."""
        try:
            return reverse(self.link, args=self.arguments) + (f"?{self.query}" if self.query else "") if self.link else ""
        except NoReverseMatch:
            return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """An entry of the table of conditions. Pure but for ``gather``.

    A project adds its own with ``BACKUPS["ALERT_DETECTORS"]``, a list of import paths::

        def find(facts, threshold):
            if facts.more["papers_unread"] > threshold:
                yield Observation(subject="", text="Too many unread papers.", todo="Read one.", link="library:papers")

        CONDITION = Condition(
            name="papers_unread", title="Unread papers", unit="papers", default=100, find=find, gather=lambda now: count()
        )
    """

    name: str
    """Unique; alert rules refer to it as their ``kind``."""
    title: str
    find: Callable[[Facts, float], Iterable[Observation]]
    """Yields an observation for each subject for which the condition holds. Reads the facts and the threshold, nothing else."""
    unit: str = ""
    """Unit of the threshold; empty: the condition has none."""
    phrase: str = ""
    """How a rule states its threshold: ``less than {:g} % free``."""
    default: float = 0.0
    """The threshold, in ``unit``. An alert rule may have a threshold of its own; every other view uses this one."""
    severity: Severity = Severity.WARNING
    """What it means for the data. INFO: worth knowing; WARNING: protection is at risk; CRITICAL: the data is unprotected."""
    code: str = ""
    """For programs, in the JSON of status and health; the name when empty."""
    check: str = "safety"
    """Which of the checks of `backup_health` reports it."""
    before_first_backup: bool = False
    """Whether it matters before the first backup: whether that backup can be made."""
    summarize: Callable[[Facts], Observation] | None = None
    """One observation in place of many, for views that show everything at once."""
    gather: Callable[[datetime], Any] | None = None
    """For a project's condition: reads ``facts.more[name]``, once a minute. Must be quick."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """A condition with one of its observations; code and severity are filled in."""

    condition: Condition
    observation: Observation
    code: str = field(init=False)
    severity: Severity = field(init=False)

    def __post_init__(self) -> None:
        seen, condition = self.observation, self.condition
        object.__setattr__(self, "code", seen.code or condition.code or condition.name)
        object.__setattr__(self, "severity", Severity(seen.severity or condition.severity))


def of(name: str, among: Iterable[object]) -> str:
    """`` of NAME`` when there are several to tell apart."""
    return f" of {name}" if len(tuple(among)) > 1 else ""
