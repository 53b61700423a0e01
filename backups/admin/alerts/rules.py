"""Alert rules: read, add, change, switch and remove."""

from typing import Any

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.text import slugify

from backups.alerts import services
from backups.identity import four_eyes
from backups.identity.sign_in import actor_of
from backups.models import AlertChannel, AlertRule
from backups.monitoring.conditions import conditions

from ..frame import found_or_404, page, render, say
from ..step_up import dangerous
from .forms import ModelForm, multiple_choice


class RuleForm(ModelForm):
    """The fields of a rule. The condition of an existing rule cannot be changed."""

    class Meta:
        model = AlertRule
        fields = (
            *("title", "kind", "threshold", "lasting_minutes", "settle_minutes", "severity"),
            *("channels", "escalate_minutes", "escalate_to", "enabled"),
        )
        labels = {  # noqa: RUF012
            "kind": "Condition",
            "lasting_minutes": "Fires after (minutes)",
            "settle_minutes": "Resolves after (minutes)",
            "escalate_minutes": "Escalates after (minutes)",
            "enabled": "Enabled",
        }
        help_texts = {  # noqa: RUF012
            "lasting_minutes": "How long the condition must last; 0 fires immediately.",
            "settle_minutes": "If the condition returns within this time, the alert continues and no new message is sent.",
            "escalate_minutes": "If the alert is not acknowledged by then. Leave empty to never escalate.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channels = AlertChannel.objects.exclude(kind=AlertChannel.Kind.PING)
        self.fields["channels"] = multiple_choice(
            channels, "Channels", "If none is selected: all channels whose minimum severity matches."
        )
        self.fields["escalate_to"] = multiple_choice(channels, "Escalates to", "")
        self.initial["threshold"] = f"{self.instance.threshold:g}"
        if self.instance.pk:
            del self.fields["kind"]
            condition = services.condition_of(self.instance)
            if condition is not None and not condition.unit:
                del self.fields["threshold"]
            elif condition is not None:
                self.fields["threshold"].label = f"Threshold ({condition.unit})"
                self.fields["threshold"].help_text = ""
        else:
            choices = [
                (one.name, f"{one.title}{f' ({one.unit}; default {one.default:g})' if one.unit else ''}")
                for one in conditions().values()
            ]
            self.fields["kind"] = forms.ChoiceField(choices=choices, label="Condition")
            self.fields["threshold"].help_text = "In the unit of the condition."

    def clean(self) -> dict[str, Any] | None:
        values = super().clean() or {}
        if values.get("escalate_minutes") and not values.get("escalate_to"):
            self.add_error("escalate_to", "Select the channels to escalate to.")
        return values


@page("backups.view_alert", methods=("GET", "POST"))
@dangerous(second=four_eyes.RECIPIENTS)
def rule(request: HttpRequest, name: str) -> HttpResponse:
    """One rule, with its form for accounts that may change it."""
    found = found_or_404(AlertRule.objects.all(), "rule", name=name)
    return _rule_form(request, found, found.title)


@page("backups.change_alert", methods=("GET", "POST"))
@dangerous(second=four_eyes.RECIPIENTS)
def rule_new(request: HttpRequest) -> HttpResponse:
    """Add a rule."""
    return _rule_form(request, AlertRule(), "Add a rule")


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
        say(request, f"{made.title}: saved. It takes effect within a minute.")
        return HttpResponseRedirect(reverse("backups:alerts") + "#rules")
    context = {"form": form, "rule": found, "may_change": may_change}
    return render(request, "backups/alert_rule.html", title, context, status=400 if form.errors else 200)


def _free_name(title: str) -> str:
    base = slugify(title)[:56] or "rule"
    taken = {"new", *AlertRule.objects.filter(name__startswith=base).values_list("name", flat=True)}
    return next(name for number in range(1, 10_000) if (name := base if number == 1 else f"{base}-{number}") not in taken)


@page("backups.change_alert", methods=("POST",))
@dangerous(second=four_eyes.RECIPIENTS)
def rule_switch(request: HttpRequest, name: str) -> HttpResponse:
    """Enable or disable a rule."""
    found = found_or_404(AlertRule.objects.all(), "rule", name=name)
    enabled = request.POST.get("enabled") == "yes"
    services.switch_rule(actor_of(request), found, enabled=enabled)
    say(request, f"{found.title}: {'enabled' if enabled else 'disabled. Its alerts are resolved within a minute'}.")
    return HttpResponseRedirect(reverse("backups:alerts") + "#rules")


@page("backups.change_alert", methods=("POST",))
@dangerous(second=four_eyes.RECIPIENTS)
def rule_remove(request: HttpRequest, name: str) -> HttpResponse:
    """Delete a rule that is not built in."""
    found = found_or_404(AlertRule.objects.all(), "rule", name=name)
    services.remove_rule(actor_of(request), found)
    say(request, f"{found.title} deleted.")
    return HttpResponseRedirect(reverse("backups:alerts") + "#rules")
