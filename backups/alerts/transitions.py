"""Decides who is notified of what: from rules, what their conditions observed, and the alerts so far.

Pure: reads no database and no clock. Called twice with the same values it decides the same, and nobody is notified twice.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from backups.monitoring.conditions import Observation

CONTINUOUS = timedelta(minutes=10)
"""An alert that has not fired starts over after a longer time without evaluation: whether it lasted meanwhile is unknown."""


class Event(StrEnum):
    """What a recipient is notified of."""

    FIRED = "fired"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietPeriod:
    """A time of the day, in a zone, without notifications. It may span midnight; ``begin == end`` means none."""

    begin: time
    end: time
    zone: str = "UTC"
    critical_passes: bool = True

    def covers(self, now: datetime, severity: str) -> bool:
        """Whether nothing of *severity* is sent at *now*."""
        if severity == "critical" and self.critical_passes:
            return False
        local = now.astimezone(ZoneInfo(self.zone)).time()
        if self.begin <= self.end:
            return self.begin <= local < self.end
        return local >= self.begin or local < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """A channel, an account or a mail address."""

    key: str
    quiet: QuietPeriod | None = None

    def accepts(self, now: datetime, severity: str) -> bool:
        """Whether *now* is outside its quiet period for *severity*."""
        return self.quiet is None or not self.quiet.covers(now, severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule with its recipients."""

    name: str
    severity: str = "warning"
    lasting: timedelta = timedelta(0)
    """How long the condition must hold before the alert fires."""
    settle: timedelta = timedelta(0)
    """How long the condition must be absent before the alert is resolved. If it returns sooner, it is the same alert."""
    recipients: tuple[Recipient, ...] = ()
    escalate_after: timedelta | None = None
    escalate_to: tuple[Recipient, ...] = ()
    enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertState:
    """An alert from the first observation to its end. ``id`` is empty for a new one."""

    rule: str
    severity: str
    observation: Observation
    since: datetime
    seen: datetime
    id: str = ""
    fired: datetime | None = None
    escalated: datetime | None = None
    resolved: datetime | None = None
    ended_by: str = ""
    acknowledged: bool = False
    notified: Mapping[str, Event] = field(default_factory=dict)
    """Recipient's key -> the last event sent to it."""

    @property
    def open(self) -> bool:
        """Whether it lasts, or a recipient has yet to be notified of its end."""
        return self.resolved is None or any(event is not Event.RESOLVED for event in self.notified.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """One event for one recipient."""

    recipient: str
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The new state of an alert, and who is notified. ``drop``: it ended before it fired, and is forgotten."""

    state: AlertState
    notifications: tuple[Notification, ...] = ()
    drop: bool = False


Observed = Mapping[str, tuple[Observation, ...] | None]
"""Rule -> what its condition observed; None if that failed: then its alerts neither begin nor end."""


def advance(
    rules: Iterable[Rule], observed: Observed, states: Iterable[AlertState], now: datetime, recipients: Mapping[str, Recipient]
) -> list[Decision]:
    """Decide how the open alerts go on, and which begin. *recipients* holds all that exist, by key.

    A rule that is disabled or removed ends its alerts. Recipients that no longer exist get nothing.
    """
    by_name = {rule.name: rule for rule in rules}
    lasting: dict[tuple[str, str], AlertState] = {}
    decisions = []
    for state in states:
        if state.resolved is None:
            lasting[state.rule, state.observation.subject] = state
        else:
            decisions.append(_notify(state, by_name.get(state.rule), now, recipients))
    for name in {*by_name, *(name for name, _ in lasting)}:
        rule = by_name.get(name)
        seen = observed.get(name) if rule is not None and rule.enabled else ()
        mine = {subject: state for (of, subject), state in lasting.items() if of == name}
        decisions += [
            decision if decision.drop else _notify(decision.state, rule, now, recipients)
            for decision in _advance_rule(name, rule, seen, mine, now)
        ]
    return decisions


def _advance_rule(
    name: str, rule: Rule | None, seen: tuple[Observation, ...] | None, lasting: Mapping[str, AlertState], now: datetime
) -> Iterator[Decision]:
    if seen is None:
        yield from (Decision(state=state) for state in lasting.values())
        return
    present = {observation.subject: observation for observation in seen}
    for subject, state in lasting.items():
        observation = present.pop(subject, None)
        if observation is not None and rule is not None:
            yield Decision(state=_continue(state, observation, rule, now))
        elif state.fired is None:
            yield Decision(state=state, drop=True)
        else:
            yield Decision(state=_recede(state, rule, now))
    if rule is not None:
        for observation in present.values():
            state = AlertState(rule=name, severity=rule.severity, observation=observation, since=now, seen=now)
            yield Decision(state=_continue(state, observation, rule, now))


def _continue(state: AlertState, observation: Observation, rule: Rule, now: datetime) -> AlertState:
    if state.fired is not None:
        return replace(state, observation=observation, seen=now)
    starts_over = state.since > now or abs(now - state.seen) > CONTINUOUS
    since = now if starts_over else state.since
    state = replace(state, observation=observation, severity=rule.severity, since=since, seen=now)
    return replace(state, fired=now) if now - state.since >= rule.lasting else state


def _recede(state: AlertState, rule: Rule | None, now: datetime) -> AlertState:
    if rule is None or not rule.enabled:
        return replace(state, resolved=now, ended_by="The rule was removed." if rule is None else "The rule was switched off.")
    if state.seen > now:  # the clock was set back
        return replace(state, seen=now)
    return replace(state, resolved=now) if now - state.seen >= rule.settle else state


def _notify(state: AlertState, rule: Rule | None, now: datetime, recipients: Mapping[str, Recipient]) -> Decision:
    """Notify the recipients that have not had the alert's latest event and accept it now."""
    notified = dict(state.notified)
    notifications: list[Notification] = []

    def notify(recipient: Recipient, event: Event) -> None:
        if recipient.accepts(now, state.severity):
            notified[recipient.key] = event
            notifications.append(Notification(recipient=recipient.key, event=event))

    if state.resolved is not None:
        for key, last in state.notified.items():
            if last is not Event.RESOLVED:
                recipient = recipients.get(key)
                if recipient is None:
                    notified[key] = Event.RESOLVED
                else:
                    notify(recipient, Event.RESOLVED)
    elif state.fired is not None and rule is not None and not state.acknowledged:
        also = tuple(Recipient(key=f"mail:{address}") for address in state.observation.also)
        for recipient in (*rule.recipients, *also):
            if recipient.key not in notified:
                notify(recipient, Event.FIRED)
        if rule.escalate_after is not None and now - state.fired >= rule.escalate_after:
            state = replace(state, escalated=state.escalated or now)
            for recipient in rule.escalate_to:
                if recipient.key not in notified:
                    notify(recipient, Event.ESCALATED)
    return Decision(state=replace(state, notified=notified), notifications=tuple(notifications))
