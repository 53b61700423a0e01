"""The alerts that the signed-in account receives by mail."""

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse

from backups.alerts import services
from backups.identity.sign_in import actor_of
from backups.models import AlertRule, AlertSubscription

from ..frame import page, render, say
from ..step_up import dangerous
from .forms import QuietHoursForm, multiple_choice, severity_choice


class SubscriptionForm(QuietHoursForm):
    """The alerts that an account subscribes to."""

    class Meta:
        model = AlertSubscription
        fields = ("least", "rules", "quiet_from", "quiet_until", "time_zone", "critical_passes")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["least"] = severity_choice("Minimum severity", "Only the rules below")
        self.fields["rules"] = multiple_choice(
            AlertRule.objects.order_by("title"), "Rules", "Alerts of these rules are sent whatever their severity."
        )

    def clean(self) -> dict[str, Any] | None:
        values = super().clean() or {}
        if not self.errors:
            hours = AlertSubscription(**{name: value for name, value in values.items() if name != "rules"})
            for name, problem in services.quiet_problems(hours).items():
                self.add_error(name, problem)
        return values


@page("backups.view_alert", methods=("GET", "POST"))
@dangerous()
def subscription(request: HttpRequest) -> HttpResponse:
    """The alerts that are mailed to this account."""
    found = services.subscription_of(request.user)
    form = SubscriptionForm(request.POST or None, instance=found)
    if request.method == "POST" and form.is_valid():
        services.subscribe(actor_of(request), form.save(commit=False), form.cleaned_data["rules"])
        say(request, "Saved. It takes effect within a minute.")
        return HttpResponseRedirect(reverse("backups:alerts_mine"))
    context = {"form": form, "address": getattr(request.user, "email", "")}
    return render(request, "backups/alert_mine.html", "My alerts", context, status=400 if form.errors else 200)
