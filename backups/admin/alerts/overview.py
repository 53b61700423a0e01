"""Alerts: all on one page with the channels, the rules and the history; and one alert, which can be acknowledged."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import reverse
from django.utils import timezone

from backups import moments
from backups.alerts import services
from backups.alerts.evaluation import accepts
from backups.conf import WORKER, called
from backups.engine.progress import counted
from backups.identity.sign_in import actor_of
from backups.models import Alert, AlertChannel, AlertDelivery, AlertLook, AlertRule, AlertSubscription, Severity
from backups.models.listing import Filter, Keyset, chosen
from backups.monitoring.conditions import conditions, unjudged, workers

from ..frame import found_or_404, page, render, say

PAGE = 25
DAYS = 30
_ORDER = {severity: place for place, severity in enumerate(Severity.values)}
TONES = {Severity.INFO: "busy", Severity.WARNING: "warn", Severity.CRITICAL: "bad"}
"""Severity of a firing alert -> class in the style sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """The summary at the top of the page."""

    tone: str
    text: str
    more: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A day of the chart, in the chart's own units."""

    x: int
    y: int
    height: int
    tone: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleLine:
    """A rule as the list shows it."""

    rule: AlertRule
    when: str
    firing: int
    last: datetime | None
    recipients: str
    known: bool
    unjudged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLine:
    """A channel as the list shows it."""

    channel: AlertChannel
    target: str
    receives: str
    last: AlertDelivery | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFilter(Filter):
    """Which alerts the history shows."""

    rule: str = ""
    severity: str = ""
    state: str = ""
    text: str = ""

    @classmethod
    def of(cls, given: QueryDict) -> AlertFilter:
        return cls(
            rule=given.get("rule", "")[:64],
            severity=chosen(given, "severity", Severity.values),
            state=chosen(given, "state", ("lasting", "over")),
            text=given.get("q", "").strip()[:200],
        )

    def rows(self) -> QuerySet[Alert]:
        rows = Alert.objects.filter(fired__isnull=False)
        if self.rule:
            rows = rows.filter(rule=self.rule)
        if self.severity:
            rows = rows.filter(severity=self.severity)
        if self.state:
            rows = rows.filter(resolved__isnull=self.state == "lasting")
        if self.text:
            rows = rows.filter(Q(subject__icontains=self.text) | Q(text__icontains=self.text))
        return rows


ALERTS = Keyset(Alert, "fired", "id")


@page("backups.view_alert")
def overview(request: HttpRequest) -> HttpResponse:
    """Firing alerts, channels, rules and history."""
    now = moments.now()
    firing = sorted(services.firing(), key=lambda alert: (-_ORDER[alert.severity], alert.fired or now))
    channels = [_channel_line(channel) for channel in AlertChannel.objects.prefetch_related("rules", "plans")]
    rules = _rule_lines(firing, [line.channel for line in channels])
    wanted = AlertFilter.of(request.GET)
    older, newer = ALERTS.read(request.GET.get("before")), ALERTS.read(request.GET.get("after"))
    history = ALERTS.part(wanted.rows(), PAGE, older=older, newer=newer)
    context = {
        "sentence": _sentence(firing, rules, channels, now),
        "firing": firing,
        "tones": TONES,
        "bars": _bars(now),
        "rules": rules,
        "channels": channels,
        "kinds": AlertChannel.Kind.choices,
        "history": history.rows,
        "wanted": wanted,
        "severities": Severity.choices,
        "newer": wanted.as_query(after=ALERTS.write(history.newer)) if history.newer else "",
        "older": wanted.as_query(before=ALERTS.write(history.older)) if history.older else "",
        "may_change": request.user.has_perm("backups.change_alert"),
        "may_acknowledge": request.user.has_perm("backups.acknowledge_alert"),
    }
    return render(request, "backups/alerts.html", "Alerts", context)


def _sentence(firing: Sequence[Alert], rules: Sequence[RuleLine], channels: Sequence[ChannelLine], now: datetime) -> Sentence:
    enabled = sum(line.rule.enabled for line in rules)
    sending = [line for line in channels if line.channel.enabled and line.channel.kind != AlertChannel.Kind.PING]
    if firing:
        worst = firing[0]
        many = f"{counted(len(firing), 'alert')} firing."
        unsent = "" if sending else " No messages are sent: add a channel."
        return Sentence(tone=TONES[Severity(worst.severity)], text=f"{many} {worst.text}", more=f"{worst.todo}{unsent}")
    looked = AlertLook.objects.filter(host="").values_list("at", flat=True).first()
    if workers.is_silent(looked, now):
        return Sentence(
            tone="warn",
            text="Rules are not evaluated: the worker is not running.",
            more=f"Start it with {called(WORKER)}, or read its log.",
        )
    if not sending and not AlertSubscription.objects.exists():
        return Sentence(
            tone="warn",
            text="No alerts, but nobody would be notified.",
            more="Add a channel below, and send a test.",
        )
    untested = [line.channel.name for line in sending if not line.channel.tested_ok]
    counts = f"{counted(enabled, 'rule')} enabled, {counted(len(sending), 'channel')}."
    more = f"Not tested successfully: {', '.join(untested)}." if untested else ""
    return Sentence(tone="warn" if untested else "good", text=f"No alerts. {counts}", more=more)


def _bars(now: datetime) -> list[Bar]:
    """Alerts that fired on each day; the colour is that of the highest severity."""
    zone = timezone.get_current_timezone()
    today = now.astimezone(zone).date()
    days: dict[Any, list[str]] = {today - timedelta(days=back): [] for back in range(DAYS - 1, -1, -1)}
    for fired, severity in Alert.objects.filter(fired__gte=now - timedelta(days=DAYS)).values_list("fired", "severity")[:5000]:
        if fired is not None and (day := fired.astimezone(zone).date()) in days:
            days[day].append(severity)
    most = max(3, *(len(found) for found in days.values()))
    bars = []
    for place, (day, found) in enumerate(days.items()):
        height = max(2, round(48 * len(found) / most)) if found else 2
        worst = max(found, key=_ORDER.__getitem__, default="")
        tone = TONES[Severity(worst)] if worst else "none"
        bars.append(Bar(x=place * 10, y=50 - height, height=height, tone=tone, title=f"{day}: {counted(len(found), 'alert')}"))
    return bars


def _rule_lines(firing: Iterable[Alert], channels: Sequence[AlertChannel]) -> list[RuleLine]:
    known, unsure = conditions(), unjudged(moments.now())
    counts: dict[str, int] = {}
    for alert in firing:
        counts[alert.rule] = counts.get(alert.rule, 0) + 1
    last = Alert.objects.filter(rule=OuterRef("name"), fired__isnull=False).order_by("-fired").values("fired")[:1]
    rules = AlertRule.objects.prefetch_related("channels", "escalate_to").annotate(last=Subquery(last))
    lines = [
        RuleLine(
            rule=rule,
            when=_when(rule),
            firing=counts.get(rule.name, 0),
            last=rule.last,
            recipients=_recipients(rule, channels),
            known=rule.kind in known,
            unjudged=rule.kind in unsure,
        )
        for rule in rules
    ]
    return sorted(lines, key=lambda line: (not line.firing, line.rule.enabled is False, -_ORDER[line.rule.severity]))


def _when(rule: AlertRule) -> str:
    condition = services.condition_of(rule)
    parts = []
    if condition is not None and condition.unit:
        parts.append((condition.phrase or f"{{:g}} {condition.unit}").format(rule.threshold))
    if rule.lasting_minutes:
        parts.append(f"for {rule.lasting_minutes} min")
    return ", ".join(parts) or "immediately"


def _recipients(rule: AlertRule, channels: Sequence[AlertChannel]) -> str:
    named = [channel.name for channel in rule.channels.all()]
    if not named:
        named = [
            channel.name
            for channel in channels
            if channel.enabled and channel.kind != AlertChannel.Kind.PING and accepts(channel.least, rule.severity)
        ]
    recipients = ", ".join(named) or "no channel"
    further = ", ".join(channel.name for channel in rule.escalate_to.all())
    return f"{recipients}; after {rule.escalate_minutes} min {further}" if further and rule.escalate_minutes else recipients


def _channel_line(channel: AlertChannel) -> ChannelLine:
    last = AlertDelivery.objects.filter(recipient=f"channel:{channel.pk}").exclude(event="test").order_by("-id").first()
    if channel.kind == AlertChannel.Kind.PING:
        plans = [str(plan) for plan in channel.plans.all()]
        beat = [f"worker heartbeat every {channel.beat_minutes} min"] if channel.beat_minutes else []
        return ChannelLine(channel=channel, target=services.masked(channel), receives=", ".join([*plans, *beat]), last=last)
    named = ", ".join(rule.title for rule in channel.rules.all())
    receives = f"{Severity(channel.least).label} and above" if channel.least else named or "only rules that name it"
    if channel.quiet_from and channel.quiet_until:
        receives += f"; quiet {channel.quiet_from:%H:%M} to {channel.quiet_until:%H:%M} {channel.time_zone}"
    return ChannelLine(channel=channel, target=services.masked(channel), receives=receives, last=last)


def _find(alert_id: uuid.UUID) -> Alert:
    return found_or_404(Alert.objects.filter(fired__isnull=False), "alert", pk=alert_id)


@page("backups.view_alert")
def alert(request: HttpRequest, alert_id: uuid.UUID) -> HttpResponse:
    """One alert and its messages."""
    found = _find(alert_id)
    context = {
        "alert": found,
        "tone": TONES[Severity(found.severity)],
        "deliveries": found.deliveries.order_by("id")[:200],
        "rule": AlertRule.objects.filter(name=found.rule).first(),
        "may_acknowledge": request.user.has_perm("backups.acknowledge_alert"),
        "may_change": request.user.has_perm("backups.change_alert"),
    }
    return render(request, "backups/alert.html", str(found), context)


@page("backups.acknowledge_alert", methods=("POST",))
def acknowledge(request: HttpRequest, alert_id: uuid.UUID) -> HttpResponse:
    """Acknowledge an alert, which stops further messages and escalation."""
    found = services.acknowledge(
        actor_of(request),
        _find(alert_id),
        request.POST.get("note", ""),
    )
    if found.resolved is not None:
        say(request, f"{found}: already resolved.")
    elif found.acknowledged_by != request.user.get_username():
        say(request, f"{found}: already acknowledged by {found.acknowledged_by}.")
    else:
        say(request, f"{found}: acknowledged. No more messages are sent until it is resolved.")
    back = reverse("backups:alerts") if request.POST.get("back") == "list" else found.get_absolute_url()
    return HttpResponseRedirect(back)
