"""What is wrong, and who hears of it?"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.text import slugify

from backups.alerts import services
from backups.alerts.evaluation import accepts
from backups.identity.sign_in import actor_of
from backups.models import Alert, AlertChannel, AlertDelivery, AlertLook, AlertRule, AlertSubscription, Plan, Severity
from backups.models.listing import Filter, Keyset, chosen
from backups.monitoring.conditions import conditions, workers

from .frame import page, render, say

if TYPE_CHECKING:
    _ModelForm = forms.ModelForm[Any]
else:  # the class cannot be subscripted when it runs
    _ModelForm = forms.ModelForm

PAGE = 25
DAYS = 30

_ORDER = {severity: place for place, severity in enumerate(Severity.values)}
TONES = {Severity.INFO: "busy", Severity.WARNING: "warn", Severity.CRITICAL: "bad"}
"""Of a severity while it lasts, in the vocabulary of the style sheet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """The answer to the page's question."""

    tone: str
    text: str
    more: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A day of the picture; positions are in the picture's own units."""

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
    tells: str
    known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelLine:
    """A channel as the list shows it."""

    channel: AlertChannel
    target: str
    hears: str
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
        """Read the address; unknown values are left out."""
        return cls(
            rule=given.get("rule", "")[:64],
            severity=chosen(given, "severity", Severity.values),
            state=chosen(given, "state", ("lasting", "over")),
            text=given.get("q", "").strip()[:200],
        )

    def rows(self) -> QuerySet[Alert]:
        """The alerts that match."""
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


# Everything on one page


@page("backups.view_alert")
def overview(request: HttpRequest) -> HttpResponse:
    """What fires now, the rules, the channels, and the history."""
    now = timezone.now()
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
        "mine": services.subscription_of(request.user),
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
    watching = sum(line.rule.enabled for line in rules)
    telling = [line for line in channels if line.channel.enabled and line.channel.kind != AlertChannel.Kind.PING]
    if firing:
        worst = firing[0]
        many = "1 alert fires." if len(firing) == 1 else f"{len(firing)} alerts fire."
        unheard = "" if telling else " Nobody is told: add a channel."
        return Sentence(tone=TONES[Severity(worst.severity)], text=f"{many} {worst.text}", more=f"{worst.todo}{unheard}")
    looked = AlertLook.objects.filter(host="").values_list("at", flat=True).first()
    if workers.is_silent(looked, now):
        return Sentence(
            tone="warn",
            text="Nobody looks: the worker is silent.",
            more="Start it with manage.py serve, or see why it stopped.",
        )
    if not telling and not AlertSubscription.objects.exists():
        return Sentence(
            tone="warn", text="Nothing fires, but nobody would be told.", more="Add a channel below, and send a test."
        )
    untested = [line.channel.name for line in telling if not line.channel.tested_ok]
    said = f"{_count(watching, 'rule')} watch{'es' if watching == 1 else ''}, {_count(len(telling), 'channel')} would be told."
    more = f"Not tested, or the test failed: {', '.join(untested)}." if untested else ""
    return Sentence(tone="warn" if untested else "good", text=f"Nothing fires. {said}", more=more)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _bars(now: datetime) -> list[Bar]:
    """Alerts that fired, day by day; the colour is that of the worst."""
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
        bars.append(Bar(x=place * 10, y=50 - height, height=height, tone=tone, title=f"{day}: {_count(len(found), 'alert')}"))
    return bars


def _rule_lines(firing: Iterable[Alert], channels: Sequence[AlertChannel]) -> list[RuleLine]:
    known = conditions()
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
            tells=_tells(rule, channels),
            known=rule.kind in known,
        )
        for rule in rules
    ]
    return sorted(lines, key=lambda line: (not line.firing, line.rule.enabled is False, -_ORDER[line.rule.severity]))


def _when(rule: AlertRule) -> str:
    detector = services.condition_of(rule)
    parts = []
    if detector is not None and detector.unit:
        parts.append((detector.phrase or f"{{:g}} {detector.unit}").format(rule.threshold))
    if rule.lasting_minutes:
        parts.append(f"lasting {rule.lasting_minutes} min")
    return ", ".join(parts) or "at once"


def _tells(rule: AlertRule, channels: Sequence[AlertChannel]) -> str:
    named = [channel.name for channel in rule.channels.all()]
    if not named:
        named = [
            channel.name
            for channel in channels
            if channel.enabled and channel.kind != AlertChannel.Kind.PING and accepts(channel.least, rule.severity)
        ]
    said = ", ".join(named) or "nobody"
    further = ", ".join(channel.name for channel in rule.escalate_to.all())
    return f"{said}; after {rule.escalate_minutes} min {further}" if further and rule.escalate_minutes else said


def _channel_line(channel: AlertChannel) -> ChannelLine:
    last = AlertDelivery.objects.filter(recipient=f"channel:{channel.pk}").exclude(event="test").order_by("-id").first()
    if channel.kind == AlertChannel.Kind.PING:
        plans = [str(plan) for plan in channel.plans.all()]
        beat = [f"the worker, every {channel.beat_minutes} min"] if channel.beat_minutes else []
        return ChannelLine(channel=channel, target=services.masked(channel), hears=", ".join([*plans, *beat]), last=last)
    named = ", ".join(rule.title for rule in channel.rules.all())
    hears = f"{Severity(channel.least).label} and worse" if channel.least else named or "only rules that name it"
    if channel.quiet_from and channel.quiet_until:
        hears += f"; quiet {channel.quiet_from:%H:%M} to {channel.quiet_until:%H:%M} {channel.time_zone}"
    return ChannelLine(channel=channel, target=services.masked(channel), hears=hears, last=last)


# One alert


@page("backups.view_alert")
def alert(request: HttpRequest, alert_id: uuid.UUID) -> HttpResponse:
    """One alert: what was the case, who was told and what they answered, who took care."""
    found = _found(alert_id)
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
    """Take care of an alert."""
    found = services.acknowledge(actor_of(request), _found(alert_id), request.POST.get("note", ""))
    if found.resolved is not None:
        say(request, f"{found}: it was over already.")
    elif found.acknowledged_by != request.user.get_username():
        say(request, f"{found}: {found.acknowledged_by} takes care already.")
    else:
        say(request, f"{found}: acknowledged. Nobody further is told until it is over.")
    back = reverse("backups:alerts") if request.POST.get("back") == "list" else found.get_absolute_url()
    return HttpResponseRedirect(back)


def _found(alert_id: uuid.UUID) -> Alert:
    found = Alert.objects.filter(pk=alert_id, fired__isnull=False).first()
    if found is None:
        raise Http404
    return found


# Rules


class Checkboxes(forms.CheckboxSelectMultiple):
    """A list of check boxes in a fieldset."""

    use_fieldset = True


def _choice(rows: QuerySet[Any], label: str, help_text: str) -> forms.ModelMultipleChoiceField[Any]:
    return forms.ModelMultipleChoiceField(rows, widget=Checkboxes, required=False, label=label, help_text=help_text)


def _least(label: str, empty: str) -> forms.ChoiceField:
    return forms.ChoiceField(choices=[("", empty), *Severity.choices], label=label, required=False)


class RuleForm(_ModelForm):
    """A rule as a person writes it."""

    class Meta:
        model = AlertRule
        fields = (
            *("title", "kind", "threshold", "lasting_minutes", "settle_minutes", "severity"),
            *("channels", "escalate_minutes", "escalate_to", "enabled"),
        )
        labels = {  # noqa: RUF012
            "kind": "What is looked at",
            "lasting_minutes": "Fires after so many minutes",
            "settle_minutes": "Has ended when away for so many minutes",
            "escalate_minutes": "Escalates after so many minutes",
            "enabled": "It watches",
        }
        help_texts = {  # noqa: RUF012
            "lasting_minutes": "0: at once.",
            "settle_minutes": "What comes back sooner is the same alert, and nobody is told again.",
            "escalate_minutes": "Unless somebody has acknowledged it. Empty: never.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        telling = AlertChannel.objects.exclude(kind=AlertChannel.Kind.PING)
        self.fields["channels"] = _choice(telling, "Tells", "None: every channel that hears of its severity.")
        self.fields["escalate_to"] = _choice(telling, "Then tells", "")
        if self.instance.pk:
            del self.fields["kind"]
            detector = services.condition_of(self.instance)
            if detector is not None and not detector.unit:
                del self.fields["threshold"]
            elif detector is not None:
                self.fields["threshold"].label = f"Threshold ({detector.unit})"
                self.fields["threshold"].help_text = ""
                self.initial["threshold"] = f"{self.instance.threshold:g}"
        else:
            choices = [
                (one.name, f"{one.title}{f' ({one.unit}; usually {one.default:g})' if one.unit else ''}")
                for one in conditions().values()
            ]
            self.fields["kind"] = forms.ChoiceField(choices=choices, label="What is looked at")
            self.fields["threshold"].help_text = "In the unit that stands with what is looked at."

    def clean(self) -> dict[str, Any] | None:
        """Escalation names both when and whom."""
        values = super().clean() or {}
        if values.get("escalate_minutes") and not values.get("escalate_to"):
            self.add_error("escalate_to", "Choose whom to tell then.")
        return values


@page("backups.view_alert", methods=("GET", "POST"))
def rule(request: HttpRequest, name: str) -> HttpResponse:
    """One rule, to be read or changed."""
    found = AlertRule.objects.filter(name=name).first()
    if found is None:
        raise Http404
    return _rule_form(request, found, found.title)


@page("backups.change_alert", methods=("GET", "POST"))
def rule_new(request: HttpRequest) -> HttpResponse:
    """A new rule."""
    return _rule_form(request, AlertRule(), "A new rule")


def _rule_form(request: HttpRequest, found: AlertRule, title: str) -> HttpResponse:
    may_change = request.user.has_perm("backups.change_alert")
    if request.method == "POST" and not may_change:
        raise PermissionDenied
    form = RuleForm(request.POST or None, instance=found)
    if request.method == "POST" and form.is_valid():
        made = form.save(commit=False)
        if not made.name:
            made.name = _free_name(made.title)
        services.save_rule(actor_of(request), made, form.cleaned_data["channels"], form.cleaned_data["escalate_to"])
        say(request, f"{made.title}: kept. It counts from the next look on, within a minute.")
        return HttpResponseRedirect(reverse("backups:alerts") + "#rules")
    context = {"form": form, "rule": found, "may_change": may_change}
    return render(request, "backups/alert_rule.html", title, context, status=400 if form.errors else 200)


def _free_name(title: str) -> str:
    base = slugify(title)[:56] or "rule"
    taken = {"new", *AlertRule.objects.filter(name__startswith=base).values_list("name", flat=True)}
    return next(name for number in range(1, 10_000) if (name := base if number == 1 else f"{base}-{number}") not in taken)


@page("backups.change_alert", methods=("POST",))
def rule_switch(request: HttpRequest, name: str) -> HttpResponse:
    """Let a rule rest, or watch again."""
    found = AlertRule.objects.filter(name=name).first()
    if found is None:
        raise Http404
    enabled = request.POST.get("enabled") == "yes"
    services.switch_rule(actor_of(request), found, enabled=enabled)
    say(request, f"{found.title}: {'it watches' if enabled else 'switched off; what it told of ends with the next look'}.")
    return HttpResponseRedirect(reverse("backups:alerts") + "#rules")


@page("backups.change_alert", methods=("POST",))
def rule_remove(request: HttpRequest, name: str) -> HttpResponse:
    """Remove a rule that a person made."""
    found = AlertRule.objects.filter(name=name).first()
    if found is None:
        raise Http404
    services.remove_rule(actor_of(request), found)
    say(request, f"{found.title}: removed.")
    return HttpResponseRedirect(reverse("backups:alerts") + "#rules")


# Channels


class QuietMixin(_ModelForm):
    """Fields of quiet hours."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, label in (("quiet_from", "Quiet from"), ("quiet_until", "Quiet until")):
            widget = forms.TimeInput(attrs={"type": "time"}, format="%H:%M")
            self.fields[name] = forms.TimeField(required=False, label=label, widget=widget)
        self.fields["time_zone"].label = "Time zone"
        self.fields["time_zone"].help_text = "Such as UTC or Europe/Berlin."
        self.fields["critical_passes"].label = "Critical alerts pass at any time"
        self.fields["critical_passes"].help_text = ""


class ChannelForm(QuietMixin):
    """A channel as a person writes it. A secret that is left empty stays as it was."""

    class Meta:
        model = AlertChannel
        fields = (
            *("name", "target", "key", "least", "plans", "beat_minutes"),
            *("quiet_from", "quiet_until", "time_zone", "critical_passes", "enabled"),
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kind, known = self.instance.kind, bool(self.instance.pk)
        self.fields["least"] = _least("Hears of every alert from", "Only of rules that name it")
        self.fields["enabled"].label = "In use"
        if kind == AlertChannel.Kind.MAIL:
            self.fields["target"] = forms.CharField(
                label="Mail addresses", widget=forms.Textarea(attrs={"rows": 4}), help_text="One a line."
            )
        else:
            shown = f"Now {services.masked(self.instance)}. Empty: it stays." if known else "https://…"
            widget = forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})
            self.fields["target"] = forms.CharField(label="Address", required=not known, widget=widget, help_text=shown)
            self.initial["target"] = ""
        self.fields["key"] = forms.CharField(
            label="Signing key",
            required=False,
            widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
            help_text="Empty: it stays as it is." if known else "whsec_ and base64. Empty: one is made.",
        )
        self.initial["key"] = ""
        plans = Plan.objects.order_by("name")
        self.fields["plans"] = _choice(
            plans, "Called for the jobs of", "A monitor expects one plan's calls: make a switch for each."
        )
        self.fields["beat_minutes"].label = "Called while the worker is alive, every so many minutes"
        self.fields["beat_minutes"].help_text = "0: not at all."
        unused = {
            AlertChannel.Kind.PING: ("key", "least", "quiet_from", "quiet_until", "time_zone", "critical_passes"),
            AlertChannel.Kind.WEBHOOK: ("plans", "beat_minutes"),
        }.get(AlertChannel.Kind(kind), ("key", "plans", "beat_minutes"))
        for name in unused:
            del self.fields[name]

    def clean(self) -> dict[str, Any] | None:
        """What was left empty stays; the rest is what `desk.problems` says."""
        values = super().clean() or {}
        for name in ("target", "key"):
            if name in self.fields and not values.get(name):
                values[name] = getattr(self.instance, name)
        made = AlertChannel(**{k: v for k, v in values.items() if k != "plans"}, kind=self.instance.kind)
        if made.kind == AlertChannel.Kind.WEBHOOK and not made.key:
            from backups.alerts.signature import new_key

            made.key = values["key"] = new_key()
        if not self.errors:
            for name, problem in services.problems(made, list(values.get("plans", ()))).items():
                self.add_error(name if name in self.fields else None, problem)
        return values


@page("backups.change_alert", methods=("GET", "POST"))
def channel_new(request: HttpRequest, kind: str) -> HttpResponse:
    """A new channel of a kind."""
    if kind not in AlertChannel.Kind.values:
        raise Http404
    return _channel_form(request, AlertChannel(kind=kind), f"A new channel: {AlertChannel.Kind(kind).label}")


@page("backups.change_alert", methods=("GET", "POST"))
def channel(request: HttpRequest, pk: int) -> HttpResponse:
    """One channel, to be changed, and what it was sent."""
    found = _channel(pk)
    return _channel_form(request, found, found.name)


def _channel(pk: int) -> AlertChannel:
    found = AlertChannel.objects.filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def _channel_form(request: HttpRequest, found: AlertChannel, title: str, *, key: str = "") -> HttpResponse:
    saving = request.method == "POST" and not key
    form = ChannelForm(request.POST if saving else None, instance=found)
    if saving and form.is_valid():
        known = bool(found.pk)
        made = services.save_channel(actor_of(request), form.save(commit=False), list(form.cleaned_data.get("plans", ())))
        say(request, f"Kept: {made.name}." if known else f"Kept: {made.name}. Now send a test.")
        return HttpResponseRedirect(made.get_absolute_url())
    context = {
        "form": form,
        "channel": found,
        "key": key,
        "deliveries": AlertDelivery.objects.filter(recipient=f"channel:{found.pk}").order_by("-id")[:30] if found.pk else (),
    }
    return render(request, "backups/alert_channel.html", title, context, status=400 if form.errors else 200)


@page("backups.change_alert", methods=("POST",))
def channel_test(request: HttpRequest, pk: int) -> HttpResponse:
    """Send a test, and show what the receiver answered."""
    found = _channel(pk)
    answer = services.send_test(actor_of(request), found)
    if answer.ok:
        say(request, f"The test of {found.name} was taken. The receiver answered: {services.answer_line(answer)}")
    else:
        say(request, f"The test of {found.name} was not taken: {services.answer_line(answer)}", level=messages.ERROR)
    back = reverse("backups:alerts") + "#channels" if request.POST.get("back") == "list" else found.get_absolute_url()
    return HttpResponseRedirect(back)


@page("backups.change_alert", methods=("POST",))
def channel_key(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the signing key of a webhook."""
    found = _channel(pk)
    if found.kind != AlertChannel.Kind.WEBHOOK:
        raise Http404
    return _channel_form(request, found, found.name, key=services.reveal_key(actor_of(request), found))


@page("backups.change_alert", methods=("POST",))
def channel_remove(request: HttpRequest, pk: int) -> HttpResponse:
    """Remove a channel."""
    found = _channel(pk)
    name = found.name
    services.remove_channel(actor_of(request), found)
    say(request, f"Removed: {name}.")
    return HttpResponseRedirect(reverse("backups:alerts") + "#channels")


# A person's own


class MineForm(QuietMixin):
    """What an account wants to hear of."""

    class Meta:
        model = AlertSubscription
        fields = ("least", "rules", "quiet_from", "quiet_until", "time_zone", "critical_passes")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["least"] = _least("Every alert from", "Only the rules below")
        self.fields["rules"] = _choice(AlertRule.objects.order_by("title"), "And these rules", "")

    def clean(self) -> dict[str, Any] | None:
        """Quiet hours are whole."""
        values = super().clean() or {}
        if not self.errors:
            hours = AlertSubscription(**{k: v for k, v in values.items() if k != "rules"})
            for name, problem in services.quiet_problems(hours).items():
                self.add_error(name, problem)
        return values


@page("backups.view_alert", methods=("GET", "POST"))
def mine(request: HttpRequest) -> HttpResponse:
    """What this account hears of by mail."""
    found = services.subscription_of(request.user)
    form = MineForm(request.POST or None, instance=found)
    if request.method == "POST" and form.is_valid():
        services.subscribe(actor_of(request), form.save(commit=False), form.cleaned_data["rules"])
        say(request, "Kept. It counts from the next look on, within a minute.")
        return HttpResponseRedirect(reverse("backups:alerts_mine"))
    context = {"form": form, "address": getattr(request.user, "email", "")}
    return render(request, "backups/alert_mine.html", "My alerts", context, status=400 if form.errors else 200)


urlpatterns: list[URLPattern] = [
    path("alerts/", overview, name="alerts"),
    path("alerts/mine/", mine, name="alerts_mine"),
    path("alerts/rules/new/", rule_new, name="alert_rule_new"),
    path("alerts/rules/<str:name>/", rule, name="alert_rule"),
    path("alerts/rules/<str:name>/switch/", rule_switch, name="alert_rule_switch"),
    path("alerts/rules/<str:name>/remove/", rule_remove, name="alert_rule_remove"),
    path("alerts/channels/new/<str:kind>/", channel_new, name="alert_channel_new"),
    path("alerts/channels/<int:pk>/", channel, name="alert_channel"),
    path("alerts/channels/<int:pk>/test/", channel_test, name="alert_channel_test"),
    path("alerts/channels/<int:pk>/key/", channel_key, name="alert_channel_key"),
    path("alerts/channels/<int:pk>/remove/", channel_remove, name="alert_channel_remove"),
    path("alerts/<uuid:alert_id>/", alert, name="alert"),
    path("alerts/<uuid:alert_id>/acknowledge/", acknowledge, name="alert_acknowledge"),
]
