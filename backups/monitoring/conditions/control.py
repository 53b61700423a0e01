"""Conditions of the control plane itself: the audit, alert channels and detectors."""

from __future__ import annotations

from collections.abc import Iterator

from backups.models import Severity
from backups.monitoring.facts import Facts

from .condition import Condition, Observation

MESSAGES_GIVEN_UP = 1.0
"""From so many messages given up in the last two days on, a channel counts as failing."""


def _audit_broken(facts: Facts, threshold: float) -> Iterator[Observation]:
    if facts.audit_break is not None:
        entry, why = facts.audit_break.entry, facts.audit_break.why
        yield Observation(subject="", text=f"The audit was changed from entry {entry} on: {why}.")


def _channel_failing(facts: Facts, threshold: float) -> Iterator[Observation]:
    for channel in facts.failing_channels:
        if channel.count >= max(1.0, threshold):
            text = f"Messages to {channel.name} fail: {channel.answer or 'no answer.'}"
            yield Observation(subject=channel.name, text=text, arguments=(str(channel.id),))


def _detector_broken(facts: Facts, threshold: float) -> Iterator[Observation]:
    for name, why in facts.broken.items():
        yield Observation(subject=name, text=f"The detector {name} failed: {why}")


AUDIT_BROKEN = Condition(
    name="audit_broken",
    title="The audit was changed",
    todo="The control database was tampered with or is damaged. Compare it with its backups.",
    link="backups:audit",
    find=_audit_broken,
    severity=Severity.CRITICAL,
    check="audit",
)
CHANNEL_FAILING = Condition(
    name="channel_unheard",
    title="Messages to a channel fail",
    todo="Send a test, and correct its address.",
    link="backups:alert_channel",
    unit="messages",
    phrase="{:g} given up",
    default=MESSAGES_GIVEN_UP,
    find=_channel_failing,
    severity=Severity.INFO,
)
DETECTOR_BROKEN = Condition(
    name="detector_broken",
    title="A detector failed",
    todo="Its alerts neither begin nor end until it works. The worker's log has the traceback.",
    find=_detector_broken,
    severity=Severity.INFO,
)
