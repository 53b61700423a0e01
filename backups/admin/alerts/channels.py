"""Alert channels: add, change, test and remove."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups.alerts import services
from backups.alerts.signature import new_key
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.models import AlertChannel, AlertDelivery, Plan

from ..frame import found_or_404, page, render, say
from ..step_up import dangerous
from .forms import QuietHoursForm, multiple_choice, severity_choice


class ChannelForm(QuietHoursForm):
    """The fields of a channel. A secret that is left empty keeps its value."""

    class Meta:
        model = AlertChannel
        fields = (
            *("name", "target", "key", "least", "plans", "beat_minutes"),
            *("quiet_from", "quiet_until", "time_zone", "critical_passes", "enabled"),
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kind, known = self.instance.kind, bool(self.instance.pk)
        self.fields["least"] = severity_choice("Minimum severity", "Only rules that name this channel")
        self.fields["enabled"].label = "Enabled"
        if kind == AlertChannel.Kind.MAIL:
            self.fields["target"] = forms.CharField(
                label="Mail addresses", widget=forms.Textarea(attrs={"rows": 4}), help_text="One per line."
            )
        else:
            shown = f"Current address: {services.masked(self.instance)} (leave empty to keep it)." if known else "https://…"
            widget = forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})
            self.fields["target"] = forms.CharField(label="Address", required=not known, widget=widget, help_text=shown)
            self.initial["target"] = ""
        self.fields["key"] = forms.CharField(
            label="Signing key",
            required=False,
            widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
            help_text="Leave empty to keep the current key."
            if known
            else "whsec_ followed by base64. Leave empty to generate one.",
        )
        self.initial["key"] = ""
        plans = Plan.objects.order_by("name")
        self.fields["plans"] = multiple_choice(
            plans,
            "Plans",
            "Called when a job of one of these plans starts and ends. Add a switch for each plan that is monitored.",
        )
        self.fields["beat_minutes"].label = "Heartbeat of the worker (minutes)"
        self.fields["beat_minutes"].help_text = "How often to call while the worker is alive; 0 for never."
        unused = {
            AlertChannel.Kind.PING: ("key", "least", "quiet_from", "quiet_until", "time_zone", "critical_passes"),
            AlertChannel.Kind.WEBHOOK: ("plans", "beat_minutes"),
        }.get(AlertChannel.Kind(kind), ("key", "plans", "beat_minutes"))
        for name in unused:
            del self.fields[name]

    def clean(self) -> dict[str, Any] | None:
        """Keep secrets that were left empty, and report the problems that `services.problems` finds."""
        values = super().clean() or {}
        for name in ("target", "key"):
            if name in self.fields and not values.get(name):
                values[name] = getattr(self.instance, name)
        made = AlertChannel(**{k: v for k, v in values.items() if k != "plans"}, kind=self.instance.kind)
        if made.kind == AlertChannel.Kind.WEBHOOK and not made.key:
            made.key = values["key"] = new_key()
        if not self.errors:
            for name, problem in services.problems(made, list(values.get("plans", ()))).items():
                self.add_error(name if name in self.fields else None, problem)
        return values


@page("backups.change_alert", methods=("GET", "POST"))
@dangerous(second=four_eyes.RECIPIENTS)
def channel_new(request: HttpRequest, kind: str) -> HttpResponse:
    """Add a channel of a kind."""
    if kind not in AlertChannel.Kind.values:
        raise Http404
    return _channel_form(request, AlertChannel(kind=kind), f"Add a channel: {AlertChannel.Kind(kind).label}")


@page("backups.change_alert", methods=("GET", "POST"))
@dangerous(second=four_eyes.RECIPIENTS)
def channel(request: HttpRequest, pk: int) -> HttpResponse:
    """One channel with its form, and its latest messages."""
    found = found_or_404(AlertChannel.objects.all(), "channel", pk=pk)
    return _channel_form(request, found, found.name)


def _channel_form(request: HttpRequest, found: AlertChannel, title: str, *, key: str = "") -> HttpResponse:
    saving = request.method == "POST" and not key
    form = ChannelForm(request.POST if saving else None, instance=found)
    if saving and form.is_valid():
        known = bool(found.pk)
        made = services.save_channel(actor_of(request), form.save(commit=False), list(form.cleaned_data.get("plans", ())))
        say(request, f"{made.name} saved." if known else f"{made.name} added. Send a test now.")
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
    """Send a test, and show the answer of the receiver."""
    found = found_or_404(AlertChannel.objects.all(), "channel", pk=pk)
    answer = services.send_test(actor_of(request), found)
    if answer.ok:
        say(request, f"Test of {found.name} accepted. The receiver answered: {services.answer_line(answer)}")
    else:
        say(request, f"Test of {found.name} failed: {services.answer_line(answer)}", level=messages.ERROR)
    back = reverse("backups:alerts") + "#channels" if request.POST.get("back") == "list" else found.get_absolute_url()
    return HttpResponseRedirect(back)


@page("backups.change_alert", methods=("POST",))
@dangerous()
def channel_key(request: HttpRequest, pk: int) -> HttpResponse:
    """Show the signing key of a webhook."""
    found = found_or_404(AlertChannel.objects.all(), "channel", pk=pk)
    if found.kind != AlertChannel.Kind.WEBHOOK:
        raise Http404
    return _channel_form(request, found, found.name, key=services.reveal_key(actor_of(request), found))


@page("backups.change_alert", methods=("POST",))
@dangerous(second=four_eyes.RECIPIENTS)
def channel_remove(request: HttpRequest, pk: int) -> HttpResponse:
    """Delete a channel."""
    found = found_or_404(AlertChannel.objects.all(), "channel", pk=pk)
    name = found.name
    services.remove_channel(actor_of(request), found)
    say(request, f"{name} deleted.")
    return HttpResponseRedirect(reverse("backups:alerts") + "#channels")
