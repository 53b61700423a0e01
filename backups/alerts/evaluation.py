"""The look of every minute: read the facts, decide, and put what is to be told into the outbox."""

from __future__ import annotations

import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from backups.conf import configuration
from backups.engine.runtime import processes
from backups.models import Alert, AlertChannel, AlertDelivery, AlertLook, AlertRule, AlertSubscription, Severity
from backups.models.alerts import QuietHours

from . import facts as known
from . import messages, outbox, switches
from .detectors import Detector, detectors
from .transitions import Decision, Detection, Event, Found, Quiet, Recipient, Rule, State, evaluate

_log = logging.getLogger(__name__)

AT_MOST_EVERY = timedelta(seconds=30)
"""Several hosts share the look: one of them does it each minute."""

JUMP = 5.0
"""Seconds by which two clocks may run apart between two looks before it is noted."""

GAP = timedelta(minutes=3)
"""Time between two looks of a host after which its worker counts as having been away."""

_ORDER = {severity: place for place, severity in enumerate(Severity.values)}
_MOST_OPEN = 2_000
_KEPT_TIDY = 500


def evaluate_rules(host: str, now: datetime) -> list[Decision]:
    """Look, decide, and write down. Called by every host's tick; the hosts take turns. Returns what was decided."""
    note_clock(host, now, time.clock_gettime(time.CLOCK_BOOTTIME), processes.current().partition(":")[0])
    switches.beat(now)
    decisions = decide(now) if _my_turn(now) else []
    _tidy(now)
    outbox.take_up(now)
    if outbox.waiting(now):
        outbox.ring()
    return decisions


def decide(now: datetime) -> list[Decision]:
    """Read the facts, and bring the states to what they say. What a detector raises becomes an alert of its own."""
    every = detectors()
    facts = _gathered(every, now)
    found, broken = detect(AlertRule.objects.filter(enabled=True), every, facts)
    if broken:
        facts = replace(facts, broken={**facts.broken, **broken})
        telling = AlertRule.objects.filter(enabled=True, kind="detector_broken")
        found = {**found, **detect(telling, every, facts)[0]}
    with transaction.atomic(using=configuration().database):
        rules, directory, names = _rules()
        states = {str(alert.pk): alert for alert in Alert.objects.filter(open=True)[:_MOST_OPEN]}
        decisions = evaluate(rules, found, [state_of(alert) for alert in states.values()], now, directory)
        _write(decisions, states, {rule.name: rule for rule in AlertRule.objects.all()}, names, now)
    return decisions


def detect(rules: Iterable[AlertRule], every: dict[str, Detector], facts: known.Facts) -> tuple[Found, dict[str, str]]:
    """What each rule's detector finds, None where it could not look; and the detectors that could not, with why."""
    found: dict[str, tuple[Detection, ...] | None] = {}
    broken: dict[str, str] = {}
    for rule in rules:
        detector = every.get(rule.kind)
        if detector is None:
            found[rule.name] = None
            broken[rule.kind] = "it is not installed any more (BACKUPS['ALERT_DETECTORS'])."
        elif rule.kind in facts.broken:
            found[rule.name] = None
        else:
            try:
                found[rule.name] = tuple({one.subject: one for one in detector.find(facts, rule.threshold)}.values())
            except Exception as problem:  # noqa: BLE001  # a detector of the project must not silence the others
                _log.exception("The detector %s raised", rule.kind)
                found[rule.name] = None
                broken[rule.kind] = f"{type(problem).__name__}: {problem}"[:300]
    return found, broken


def _gathered(every: dict[str, Detector], now: datetime) -> known.Facts:
    more: dict[str, Any] = {}
    broken: dict[str, str] = {}
    for detector in every.values():
        if detector.gather is None:
            continue
        try:
            more[detector.name] = detector.gather(now)
        except Exception as problem:  # noqa: BLE001  # as above
            _log.exception("The detector %s could not read", detector.name)
            broken[detector.name] = f"{type(problem).__name__}: {problem}"[:300]
    return replace(known.gather(now), more=more, broken=broken)


# Rows and values


def state_of(alert: Alert) -> State:
    """A row as a value."""
    return State(
        id=str(alert.pk),
        rule=alert.rule,
        severity=alert.severity,
        detection=Detection(
            subject=alert.subject,
            text=alert.text,
            todo=alert.todo,
            link=alert.link,
            arguments=tuple(alert.arguments),
            also=tuple(alert.also),
        ),
        since=alert.since,
        seen=alert.seen,
        fired=alert.fired,
        escalated=alert.escalated,
        resolved=alert.resolved,
        ended_by=alert.ended_by,
        acknowledged=alert.acknowledged is not None,
        told={key: Event(event) for key, event in alert.told.items()},
    )


def _values(state: State) -> dict[str, Any]:
    """What the look writes of a state; an acknowledgement is not among it."""
    detection = state.detection
    return {
        "severity": state.severity,
        "text": detection.text,
        "todo": detection.todo,
        "link": detection.link,
        "arguments": list(detection.arguments),
        "also": list(detection.also),
        "since": state.since,
        "seen": state.seen,
        "fired": state.fired,
        "escalated": state.escalated,
        "resolved": state.resolved,
        "ended_by": state.ended_by,
        "told": {key: event.value for key, event in state.told.items()},
        "open": state.open,
    }


def _quiet(hours: QuietHours) -> Quiet | None:
    if hours.quiet_from is None or hours.quiet_until is None or hours.quiet_from == hours.quiet_until:
        return None
    return Quiet(begin=hours.quiet_from, end=hours.quiet_until, zone=hours.time_zone, critical_passes=hours.critical_passes)


def _rules() -> tuple[list[Rule], dict[str, Recipient], dict[str, str]]:
    """The rules with their recipients, every recipient by key, and how each is called."""
    channels = {
        channel.pk: channel for channel in AlertChannel.objects.filter(enabled=True).exclude(kind=AlertChannel.Kind.PING)
    }
    people = list(AlertSubscription.objects.prefetch_related("rules"))
    of_channel = {pk: Recipient(key=f"channel:{pk}", quiet=_quiet(channel)) for pk, channel in channels.items()}
    of_person = {person.pk: Recipient(key=f"person:{person.pk}", quiet=_quiet(person)) for person in people}
    names = {f"channel:{pk}": channel.name for pk, channel in channels.items()}
    names |= {f"person:{person.pk}": person.username for person in people}
    rules = []
    for row in AlertRule.objects.prefetch_related("channels", "escalate_to"):
        named = [channel.pk for channel in row.channels.all()]
        if not named:
            named = [pk for pk, channel in channels.items() if hears(channel.least, row.severity)]
        hearing = [of_channel[pk] for pk in named if pk in of_channel]
        for person in people:
            if hears(person.least, row.severity) or row in person.rules.all():
                hearing.append(of_person[person.pk])
        rules.append(
            Rule(
                name=row.name,
                severity=row.severity,
                lasting=timedelta(minutes=row.lasting_minutes),
                settle=timedelta(minutes=row.settle_minutes),
                recipients=tuple(hearing),
                escalate_after=timedelta(minutes=row.escalate_minutes) if row.escalate_minutes else None,
                escalate_to=tuple(of_channel[c.pk] for c in row.escalate_to.all() if c.pk in of_channel),
                enabled=row.enabled,
            )
        )
    everybody = {recipient.key: recipient for recipient in (*of_channel.values(), *of_person.values())}
    also = {f"mail:{address}" for alert in Alert.objects.filter(open=True).only("also") for address in alert.also}
    return rules, everybody | {key: Recipient(key=key) for key in also}, names


def hears(least: str, severity: str) -> bool:
    """Whether somebody who hears from *least* on hears of *severity*; an empty *least* hears of nothing by itself."""
    return bool(least) and _ORDER[severity] >= _ORDER[least]


def _write(
    decisions: Iterable[Decision],
    alerts: dict[str, Alert],
    rules: dict[str, AlertRule],
    names: dict[str, str],
    now: datetime,
) -> None:
    tells: dict[tuple[str, str, str], list[Alert]] = defaultdict(list)
    for decision in decisions:
        state = decision.state
        if decision.drop:
            Alert.objects.filter(pk=state.id).delete()
            continue
        if state.id:
            alert = alerts[state.id]
            changed = {name: value for name, value in _values(state).items() if getattr(alert, name) != value}
            for name, value in changed.items():
                setattr(alert, name, value)
            if changed:
                alert.save(update_fields=list(changed))
        else:
            title = rules[state.rule].title
            alert = Alert.objects.create(rule=state.rule, title=title, subject=state.detection.subject[:200], **_values(state))
        for tell in decision.tells:
            tells[state.rule, tell.recipient, tell.event.value].append(alert)
    for (rule, recipient, event), told in tells.items():
        name = names.get(recipient) or recipient.partition(":")[2]
        outbox.write(event, recipient, name, messages.about(event, told, now), now, thread=f"{recipient} {rule}", alerts=told)


# Clocks and turns


def note_clock(host: str, now: datetime, uptime: float, boot: str) -> AlertLook:
    """Compare the clock that people set with the one that only counts, and note jumps and times in which nobody looked."""
    last = AlertLook.objects.filter(host=host).first()
    if last is None:
        return AlertLook.objects.create(host=host, at=now, uptime=uptime, boot=boot)
    passed = (now - last.at).total_seconds()
    if boot == last.boot and uptime >= last.uptime:
        really = uptime - last.uptime
        jump = passed - really
    else:  # started anew: how long it was off is known to the clock alone, and that it did not run backwards
        really = max(passed, 0.0)
        jump = min(passed, 0.0)
    if abs(jump) > JUMP:
        last.jumped, last.jumped_by = now, jump
    if really > GAP.total_seconds():
        last.silent_from, last.silent_until = now - timedelta(seconds=really), now
    last.at, last.uptime, last.boot = now, uptime, boot
    last.save()
    return last


def _my_turn(now: datetime) -> bool:
    """Whether no host has looked just now; true for one of several that ask at once."""
    if AlertLook.objects.get_or_create(host="", defaults={"at": now})[1]:
        return True
    due = Q(at__lte=now - AT_MOST_EVERY) | Q(at__gt=now + AT_MOST_EVERY)
    return bool(AlertLook.objects.filter(due, host="").update(at=now))


def _tidy(now: datetime) -> None:
    """Remove a portion of what has outlived its time: messages after ``KEEP_LOGS_DAYS``, alerts after ``KEEP_JOBS_DAYS``."""
    found = configuration()
    sent = AlertDelivery.objects.filter(
        created__lt=now - timedelta(days=found.keep_logs_days),
        state__in=(AlertDelivery.State.DELIVERED, AlertDelivery.State.GIVEN_UP, AlertDelivery.State.DROPPED),
    )
    AlertDelivery.objects.filter(pk__in=list(sent.order_by("created").values_list("pk", flat=True)[:_KEPT_TIDY])).delete()
    ended = Alert.objects.filter(open=False, fired__lt=now - timedelta(days=found.keep_jobs_days))
    gone = list(itertools.islice(ended.order_by("fired").values_list("pk", flat=True), _KEPT_TIDY))
    Alert.objects.filter(pk__in=gone).delete()
