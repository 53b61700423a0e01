"""Conditions of the control plane itself: the audit, alert channels and detectors."""

from collections.abc import Iterator

from backups.models import Severity
from backups.monitoring.facts import Facts

from .condition import Observation, condition

MESSAGES_GIVEN_UP = 1.0
"""From so many messages given up in the last two days on, a channel counts as failing."""


@condition(
    "audit_broken",
    "The audit was changed",
    todo="The control database was tampered with or is damaged. Compare it with its backups.",
    link="backups:audit",
    severity=Severity.CRITICAL,
    check="audit",
)
def audit_broken(facts: Facts, threshold: float) -> Iterator[Observation]:
    if facts.audit_break is not None:
        entry, why = facts.audit_break.entry, facts.audit_break.why
        yield Observation(subject="", text=f"The audit was changed from entry {entry} on: {why}.")


@condition(
    "emergency",
    "One person goes ahead alone",
    todo="Talk to this person now. The request can be rejected until it is carried out, an hour after it began.",
    link="backups:approvals",
    severity=Severity.CRITICAL,
)
def emergency(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.approvals:
        if one.emergency:
            text = f"{one.by} declared an emergency, to do alone what takes two: {one.title}. Reason: {one.reason}"
            yield Observation(subject=one.id, text=text)


@condition(
    "approval_waits",
    "A request waits for a second person",
    todo="Look at it, and approve or reject it.",
    link="backups:approvals",
    severity=Severity.INFO,
)
def approval_waits(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.approvals:
        if not (one.emergency or one.decided_by or one.used):
            yield Observation(subject=one.id, text=f"{one.by} asks for approval: {one.title}. Reason: {one.reason}")


@condition(
    "approval_given",
    "A request was approved",
    todo="Check that this was meant. Until it is carried out, it can be rejected.",
    link="backups:approvals",
    severity=Severity.INFO,
)
def approval_given(facts: Facts, threshold: float) -> Iterator[Observation]:
    for one in facts.approvals:
        if one.decided_by:
            yield Observation(subject=one.id, text=f"{one.decided_by} approved for {one.by}: {one.title}. Reason: {one.reason}")


@condition(
    "channel_unheard",
    "Messages to a channel fail",
    todo="Send a test, and correct its address.",
    link="backups:alert_channel",
    unit="messages",
    phrase="{:g} or more not delivered",
    default=MESSAGES_GIVEN_UP,
    severity=Severity.INFO,
)
def channel_failing(facts: Facts, threshold: float) -> Iterator[Observation]:
    for channel in facts.failing_channels:
        if channel.count >= max(1.0, threshold):
            text = f"Messages to {channel.name} fail: {channel.answer or 'no answer.'}"
            yield Observation(subject=channel.name, text=text, arguments=(str(channel.id),))


@condition(
    "detector_broken",
    "A detector failed",
    todo="Its alerts neither begin nor end until it works. The worker's log has the traceback.",
    severity=Severity.INFO,
)
def detector_broken(facts: Facts, threshold: float) -> Iterator[Observation]:
    for name, why in facts.broken.items():
        yield Observation(subject=name, text=f"The detector {name} failed: {why}")
