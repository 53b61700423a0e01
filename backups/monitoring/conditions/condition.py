"""What a condition is: something about the backups that needs attention, and how it is found in the facts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.urls import NoReverseMatch, reverse

from backups.models import Severity
from backups.monitoring.facts import Facts


class Level(StrEnum):
    """How safe the data is."""

    PROTECTED = "protected"
    AT_RISK = "at_risk"
    UNPROTECTED = "unprotected"

    @property
    def word(self) -> str:
        """For people."""
        return {"protected": "Protected", "at_risk": "At risk", "unprotected": "Unprotected"}[self.value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One subject for which a condition holds. `Condition.observe` fills in what the condition's finder left empty."""

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
    """For programs."""
    severity: str = ""
    """One of `Severity`."""
    unprotected: bool | None = None
    """Whether the data cannot be recovered, or only in a state that is far too old."""
    kind: str = ""
    """The condition's name."""

    @property
    def level(self) -> Level:
        """What the verdict says while this holds."""
        if self.unprotected:
            return Level.UNPROTECTED
        return Level.PROTECTED if self.severity == Severity.INFO else Level.AT_RISK

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
                yield Observation(subject="", text="Too many unread papers.")

        CONDITION = Condition(
            name="papers_unread", title="Unread papers", unit="papers", default=100, todo="Read one.", link="library:papers",
            find=find, gather=lambda now: count(),
        )
    """

    name: str
    """Unique; alert rules refer to it as their ``kind``."""
    title: str
    find: Callable[[Facts, float], Iterable[Observation]]
    """Yields an observation for each subject for which the condition holds. Reads the facts and the threshold, nothing else."""
    todo: str = ""
    """What to do about it, as far as an observation does not say."""
    link: str = ""
    """URL name of the page that helps, as far as an observation does not say."""
    query: str = ""
    unit: str = ""
    """Unit of the threshold; empty: the condition has none."""
    phrase: str = ""
    """How a rule states its threshold: ``less than {:g} % free``."""
    default: float = 0.0
    """The threshold that every view uses; an alert rule may have its own."""
    severity: Severity = Severity.WARNING
    """How urgent it is. INFO: worth knowing, and no finding of `backup_health`."""
    unprotected: bool = False
    """Whether the data is unprotected while it holds with severity CRITICAL; otherwise it is at risk."""
    code: str = ""
    """For programs, in the JSON of status and health; the name when empty."""
    check: str = "safety"
    """Which of the checks of `backup_health` reports it."""
    before_first_backup: bool = False
    """Whether it matters before the first backup: whether that backup can be made."""
    summarize: Callable[[Facts], Observation | None] | None = None
    """One observation in place of many, or none, for views that show everything at once."""
    gather: Callable[[datetime], Any] | None = None
    """For a project's condition: reads ``facts.more[name]``, once a minute. Must be quick."""
    unknown: Callable[[Any], bool] | None = None
    """For a project's condition: whether what `gather` read does not tell if it holds."""

    def observe(self, facts: Facts, threshold: float | None = None) -> tuple[Observation, ...]:
        """All subjects for which it holds by *threshold*, or by its default; each subject once."""
        seen = self.find(facts, self.default if threshold is None else threshold)
        return tuple({one.subject: self.complete(one) for one in seen}.values())

    def complete(self, seen: Observation) -> Observation:
        """*seen* with everything filled in that the finder left empty."""
        severity = seen.severity or self.severity
        return replace(
            seen,
            kind=self.name,
            code=seen.code or self.code or self.name,
            severity=severity,
            unprotected=self.unprotected and severity == Severity.CRITICAL if seen.unprotected is None else seen.unprotected,
            todo=seen.todo or self.todo,
            link=seen.link or self.link,
            query=seen.query or ("" if seen.link else self.query),
        )


def condition(name: str, title: str, **entry: Any) -> Callable[[Callable[[Facts, float], Iterable[Observation]]], Condition]:
    """Makes the decorated finder a `Condition`; *entry* are its other fields."""
    return lambda find: Condition(name=name, title=title, find=find, **entry)


def of(name: str, among: Iterable[object]) -> str:
    """`` of NAME`` when there are several to tell apart."""
    return f" of {name}" if len(tuple(among)) > 1 else ""
