"""One alert: when it fired, who was notified, and who acknowledged it."""

from __future__ import annotations

import uuid

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import reverse

from backups.alerts import services
from backups.identity.sign_in import actor_of
from backups.models import Alert, AlertRule, Severity

from ..frame import page, render, say
from .overview import TONES


@page("backups.view_alert")
def alert(request: HttpRequest, alert_id: uuid.UUID) -> HttpResponse:
    """One alert and its messages."""
    found = get_object_or_404(Alert, pk=alert_id, fired__isnull=False)
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
        actor_of(request), get_object_or_404(Alert, pk=alert_id, fired__isnull=False), request.POST.get("note", "")
    )
    if found.resolved is not None:
        say(request, f"{found}: already resolved.")
    elif found.acknowledged_by != request.user.get_username():
        say(request, f"{found}: already acknowledged by {found.acknowledged_by}.")
    else:
        say(request, f"{found}: acknowledged. No more messages are sent until it is resolved.")
    back = reverse("backups:alerts") if request.POST.get("back") == "list" else found.get_absolute_url()
    return HttpResponseRedirect(back)
