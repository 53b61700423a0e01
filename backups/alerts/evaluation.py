"""Evaluates the alert rules every minute: reads the facts, decides, and puts notifications into the outbox."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import transaction
from django.db.models import Q

from backups.conf import configuration
from backups.engine.runtime import processes
from backups.models import Alert, AlertChannel, AlertDelivery, AlertLook, AlertRule, AlertSubscription, Severity
from backups.models.alerts import QuietHours
from backups.monitoring.conditions import Condition, Observation, conditions, guarded
from backups.monitoring.conditions.workers import AWAY_MINUTES
from backups.monitoring.facts import Facts
from backups.monitoring.gathering import gather

from . import messages, outbox, switches
from .transitions import AlertState, Decision, Event, Observed, QuietPeriod, Recipient, Rule, advance

_log = logging.getLogger(__name__)

AT_MOST_EVERY = timedelta(seconds=30)
"""Several hosts share the evaluation: each minute one of them does it."""

JUMP = 5.0
"""Seconds by which the wall clock and the time since boot may drift apart between two evaluations before that is noted."""

_ORDER = {severity: place for place, severity in enumerate(Severity.values)}
_MOST_OPEN = 2_000
_TIDY_AT_ONCE = 500


def evaluate_rules(host: str, now: datetime) -> list[Decision]:
    """Evaluate all rules and write down what follows. Called by every host's tick; the hosts take turns.

    Returns the decisions; none if another host has just evaluated.
    """
    note_clock(host, now, time.clock_gettime(time.CLOCK_BOOTTIME), processes.current().partition(":")[0])
    switches.beat(now)
    decisions = decide(now) if _my_turn(now) else []
    _tidy(now)
    outbox.take_up(now)
    if outbox.waiting(now):
        outbox.ring()
    return decisions


def decide(now: datetime) -> list[Decision]:
    """Read the facts, and advance the alerts. A condition that raises becomes an alert of its own (`detector_broken`)."""
    known = conditions()
    facts = gather(now)
    observed, broken = observe_rules(AlertRule.objects.filter(enabled=True), known, facts)
    if broken:
        facts = replace(facts, broken={**facts.broken, **broken})
        again = AlertRule.objects.filter(enabled=True, kind="detector_broken")
        observed = {**observed, **observe_rules(again, known, facts)[0]}
    with transaction.atomic(using=configuration().database):
        rules, recipients, names = _rules()
        alerts = {str(alert.pk): alert for alert in Alert.objects.filter(open=True)[:_MOST_OPEN]}
        decisions = advance(rules, observed, [state_of(alert) for alert in alerts.values()], now, recipients)
        _write(decisions, alerts, {rule.name: rule for rule in AlertRule.objects.all()}, names, now)
    return decisions


def observe_rules(rules: Iterable[AlertRule], known: Mapping[str, Condition], facts: Facts) -> tuple[Observed, dict[str, str]]:
    """What each rule's condition observes by the rule's threshold, None if it failed; and why, by the condition's name."""
    observed: dict[str, tuple[Observation, ...] | None] = {}
    broken: dict[str, str] = {}
    for rule in rules:
        condition = known.get(rule.kind)
        observed[rule.name] = None
        if condition is None:
            broken[rule.kind] = "it is no longer installed (BACKUPS['ALERT_DETECTORS'])."
        elif rule.kind not in facts.broken:
            observed[rule.name] = guarded(rule.kind, broken, partial(condition.observe, facts, rule.threshold))
    return observed, broken


# Rows and values


_SAME = ("severity", "since", "seen", "fired", "escalated", "resolved", "ended_by")
_OF_OBSERVATION = ("text", "todo", "link")
"""Attributes that a row and its state or observation have under the same name."""


def state_of(alert: Alert) -> AlertState:
    """A row as a value."""
    texts = {name: getattr(alert, name) for name in _OF_OBSERVATION}
    return AlertState(
        id=str(alert.pk),
        rule=alert.rule,
        observation=Observation(subject=alert.subject, arguments=tuple(alert.arguments), also=tuple(alert.also), **texts),
        acknowledged=alert.acknowledged is not None,
        notified={key: Event(event) for key, event in alert.told.items()},
        **{name: getattr(alert, name) for name in _SAME},
    )


def _values(state: AlertState) -> dict[str, Any]:
    """The columns that evaluation writes; an acknowledgement is not among them."""
    observation = state.observation
    return {
        **{name: getattr(state, name) for name in _SAME},
        **{name: getattr(observation, name) for name in _OF_OBSERVATION},
        "arguments": list(observation.arguments),
        "also": list(observation.also),
        "told": {key: event.value for key, event in state.notified.items()},
        "open": state.open,
    }


def _quiet(hours: QuietHours) -> QuietPeriod | None:
    if hours.quiet_from is None or hours.quiet_until is None or hours.quiet_from == hours.quiet_until:
        return None
    return QuietPeriod(
        begin=hours.quiet_from, end=hours.quiet_until, zone=hours.time_zone, critical_passes=hours.critical_passes
    )


def _rules() -> tuple[list[Rule], dict[str, Recipient], dict[str, str]]:
    """The rules with their recipients, every recipient by key, and each one's name."""
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
            named = [pk for pk, channel in channels.items() if accepts(channel.least, row.severity)]
        receiving = [of_channel[pk] for pk in named if pk in of_channel]
        for person in people:
            if accepts(person.least, row.severity) or row in person.rules.all():
                receiving.append(of_person[person.pk])
        rules.append(
            Rule(
                name=row.name,
                severity=row.severity,
                lasting=timedelta(minutes=row.lasting_minutes),
                settle=timedelta(minutes=row.settle_minutes),
                recipients=tuple(receiving),
                escalate_after=timedelta(minutes=row.escalate_minutes) if row.escalate_minutes else None,
                escalate_to=tuple(of_channel[c.pk] for c in row.escalate_to.all() if c.pk in of_channel),
                enabled=row.enabled,
            )
        )
    every = {recipient.key: recipient for recipient in (*of_channel.values(), *of_person.values())}
    also = {f"mail:{address}" for alert in Alert.objects.filter(open=True).only("also") for address in alert.also}
    return rules, every | {key: Recipient(key=key) for key in also}, names


def accepts(least: str, severity: str) -> bool:
    """Whether *severity* reaches the minimum severity *least*; an empty minimum accepts only rules that name the recipient."""
    return bool(least) and _ORDER[severity] >= _ORDER[least]


def _write(
    decisions: Iterable[Decision], alerts: dict[str, Alert], rules: dict[str, AlertRule], names: dict[str, str], now: datetime
) -> None:
    notified: dict[tuple[str, str, str], list[Alert]] = defaultdict(list)
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
            alert = Alert.objects.create(
                rule=state.rule, title=title, subject=state.observation.subject[:200], **_values(state)
            )
        for one in decision.notifications:
            notified[state.rule, one.recipient, one.event.value].append(alert)
    for (rule, recipient, event), about in notified.items():
        name = names.get(recipient) or recipient.partition(":")[2]
        outbox.write(event, recipient, name, messages.about(event, about, now), now, thread=f"{recipient} {rule}", alerts=about)


# Clocks and turns


def note_clock(host: str, now: datetime, uptime: float, boot: str) -> AlertLook:
    """Compare the wall clock with the seconds since boot, and note jumps and times in which this worker did not run."""
    last = AlertLook.objects.filter(host=host).first()
    if last is None:
        return AlertLook.objects.create(host=host, at=now, uptime=uptime, boot=boot)
    passed = (now - last.at).total_seconds()
    if boot == last.boot and uptime >= last.uptime:
        really = uptime - last.uptime
        jump = passed - really
    else:  # rebooted: only the wall clock knows how long it was off, and it cannot have run backwards
        really = max(passed, 0.0)
        jump = min(passed, 0.0)
    if abs(jump) > JUMP:
        last.jumped, last.jumped_by = now, jump
    if really > AWAY_MINUTES * 60:
        last.silent_from, last.silent_until = now - timedelta(seconds=really), now
    last.at, last.uptime, last.boot = now, uptime, boot
    last.save()
    return last


def _my_turn(now: datetime) -> bool:
    """Whether no host has evaluated just now; true for one of several that ask at once."""
    if AlertLook.objects.get_or_create(host="", defaults={"at": now})[1]:
        return True
    due = Q(at__lte=now - AT_MOST_EVERY) | Q(at__gt=now + AT_MOST_EVERY)
    return bool(AlertLook.objects.filter(due, host="").update(at=now))


def _tidy(now: datetime) -> None:
    """Remove some of the oldest messages (``KEEP_LOGS_DAYS``) and alerts (``KEEP_JOBS_DAYS``)."""
    config = configuration()
    sent = AlertDelivery.objects.filter(
        created__lt=now - timedelta(days=config.keep_logs_days),
        state__in=(AlertDelivery.State.DELIVERED, AlertDelivery.State.GIVEN_UP, AlertDelivery.State.DROPPED),
    )
    AlertDelivery.objects.filter(pk__in=list(sent.order_by("created").values_list("pk", flat=True)[:_TIDY_AT_ONCE])).delete()
    ended = Alert.objects.filter(open=False, fired__lt=now - timedelta(days=config.keep_jobs_days))
    gone = list(ended.order_by("fired").values_list("pk", flat=True)[:_TIDY_AT_ONCE])
    Alert.objects.filter(pk__in=gone).delete()
