"""What is to be told, decided: from rules, what detectors found, and the states so far.

Nothing is read here, no clock either. Called twice with the same it decides the same, and what was told is not told again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

CONTINUOUS = timedelta(minutes=10)
"""A state that has not fired yet begins anew when nobody looked for longer: what was the case meanwhile is not known."""


class Event(StrEnum):
    """What a recipient is told of a state."""

    FIRED = "fired"
    ESCALATED = "escalated"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """A time of the day, in a zone, in which nothing is told; it may pass midnight. ``begin == end`` is none."""

    begin: time
    end: time
    zone: str = "UTC"
    critical_passes: bool = True

    def holds(self, now: datetime, severity: str) -> bool:
        """Whether nothing of *severity* is told at *now*."""
        if severity == "critical" and self.critical_passes:
            return False
        local = now.astimezone(ZoneInfo(self.zone)).time()
        if self.begin <= self.end:
            return self.begin <= local < self.end
        return local >= self.begin or local < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """Somebody who is told: a channel, an account, or an address."""

    key: str
    quiet: Quiet | None = None

    def hears(self, now: datetime, severity: str) -> bool:
        """Whether this is no quiet time for *severity*."""
        return self.quiet is None or not self.quiet.holds(now, severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule, with those who hear of it."""

    name: str
    severity: str = "warning"
    lasting: timedelta = timedelta(0)
    """For how long something must be the case before it fires."""
    settle: timedelta = timedelta(0)
    """For how long it must be away before it has ended; coming back sooner it is the same state, and nobody is told."""
    recipients: tuple[Recipient, ...] = ()
    escalate_after: timedelta | None = None
    escalate_to: tuple[Recipient, ...] = ()
    enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Something that is the case: about what, in a sentence, what to do, and which page helps."""

    subject: str
    text: str
    todo: str = ""
    link: str = ""
    arguments: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    """Mail addresses that hear of it beside the rule's recipients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A subject of a rule from the first time that something was seen to its end. ``id`` is empty for a new one."""

    rule: str
    severity: str
    detection: Detection
    since: datetime
    seen: datetime
    id: str = ""
    fired: datetime | None = None
    escalated: datetime | None = None
    resolved: datetime | None = None
    ended_by: str = ""
    acknowledged: bool = False
    told: Mapping[str, Event] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether it lasts, or somebody who heard of it has not heard that it ended."""
        return self.resolved is None or any(event is not Event.RESOLVED for event in self.told.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """One recipient is told of one event."""

    recipient: str
    event: Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a state, and who hears of it. ``drop``: it was over before it fired; forget it."""

    state: State
    tells: tuple[Tell, ...] = ()
    drop: bool = False


Found = Mapping[str, tuple[Detection, ...] | None]
"""Rule -> what its detector found; None when it could not look: nothing begins or ends by that."""


def evaluate(
    rules: Iterable[Rule],
    found: Found,
    states: Iterable[State],
    now: datetime,
    directory: Mapping[str, Recipient],
) -> list[Decision]:
    """What becomes of the open *states*, and which begin. *directory* holds every recipient there is, by key.

    A rule that is switched off or gone ends its states. A recipient that is gone is told nothing.
    """
    known = {rule.name: rule for rule in rules}
    lasting: dict[tuple[str, str], State] = {}
    decisions = []
    for state in states:
        if state.resolved is None:
            lasting[state.rule, state.detection.subject] = state
        else:
            decisions.append(_told(state, known.get(state.rule), now, directory))
    for name in {*known, *(name for name, _ in lasting)}:
        rule = known.get(name)
        seen = found.get(name) if rule is not None and rule.enabled else ()
        decisions += _of_rule(name, rule, seen, lasting, now, directory)
    return decisions


def _of_rule(
    name: str,
    rule: Rule | None,
    seen: tuple[Detection, ...] | None,
    lasting: Mapping[tuple[str, str], State],
    now: datetime,
    directory: Mapping[str, Recipient],
) -> Iterator[Decision]:
    mine = {subject: state for (of, subject), state in lasting.items() if of == name}
    if seen is None:  # could not look
        for state in mine.values():
            yield _told(state, rule, now, directory)
        return
    present = {detection.subject: detection for detection in seen}
    for subject, state in mine.items():
        detection = present.pop(subject, None)
        if detection is not None and rule is not None:
            yield _told(_goes_on(state, detection, rule, now), rule, now, directory)
        elif state.fired is None:
            yield Decision(state=state, drop=True)
        else:
            yield _told(_goes_away(state, rule, now), rule, now, directory)
    if rule is not None:
        for detection in present.values():
            state = State(rule=name, severity=rule.severity, detection=detection, since=now, seen=now)
            yield _told(_goes_on(state, detection, rule, now), rule, now, directory)


def _goes_on(state: State, detection: Detection, rule: Rule, now: datetime) -> State:
    if state.fired is not None:
        return replace(state, detection=detection, seen=now)
    begun_anew = state.since > now or abs(now - state.seen) > CONTINUOUS
    state = replace(state, detection=detection, severity=rule.severity, since=now if begun_anew else state.since, seen=now)
    return replace(state, fired=now) if now - state.since >= rule.lasting else state


def _goes_away(state: State, rule: Rule | None, now: datetime) -> State:
    if rule is None or not rule.enabled:
        return replace(state, resolved=now, ended_by="The rule was removed." if rule is None else "The rule was switched off.")
    if state.seen > now:  # the clock was set back
        return replace(state, seen=now)
    return replace(state, resolved=now) if now - state.seen >= rule.settle else state


def _told(state: State, rule: Rule | None, now: datetime, directory: Mapping[str, Recipient]) -> Decision:
    """Tell of *state* whoever has not heard of it, and may hear of it now."""
    told = dict(state.told)
    tells: list[Tell] = []

    def tell(recipient: Recipient, event: Event) -> None:
        if recipient.hears(now, state.severity):
            told[recipient.key] = event
            tells.append(Tell(recipient=recipient.key, event=event))

    if state.resolved is not None:
        for key, last in state.told.items():
            if last is not Event.RESOLVED:
                recipient = directory.get(key)
                if recipient is None:
                    told[key] = Event.RESOLVED
                else:
                    tell(recipient, Event.RESOLVED)
    elif state.fired is not None and rule is not None and not state.acknowledged:
        also = tuple(Recipient(key=f"mail:{address}") for address in state.detection.also)
        for recipient in (*rule.recipients, *also):
            if recipient.key not in told:
                tell(recipient, Event.FIRED)
        if rule.escalate_after is not None and now - state.fired >= rule.escalate_after:
            state = replace(state, escalated=state.escalated or now)
            for recipient in rule.escalate_to:
                if recipient.key not in told:
                    tell(recipient, Event.ESCALATED)
    return Decision(state=replace(state, told=told), tells=tuple(tells))
