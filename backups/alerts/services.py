"""What people do with alerts, rules and channels. Every change is recorded in the audit, secrets masked.

Permissions are checked by the caller. Invalid input raises `engine.errors.UsageError`.
"""

from collections.abc import Collection, Iterable
from typing import Any
from zoneinfo import available_timezones

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from backups import moments
from backups.conf import configuration
from backups.engine.errors import UsageError
from backups.identity import audit
from backups.identity.audit import Actor
from backups.models import Alert, AlertChannel, AlertDelivery, AlertRule, AlertSubscription, Plan
from backups.models.alerts import QuietHours
from backups.monitoring.conditions import Condition, conditions

from . import http, mail, messages, outbox, signature
from .http import Answer

Kind = AlertChannel.Kind


# Alerts


def firing() -> QuerySet[Alert]:
    """The alerts that fire now, in no order."""
    return Alert.objects.filter(open=True, resolved=None, fired__isnull=False)


def acknowledge(actor: Actor, alert: Alert, note: str = "") -> Alert:
    """Mark an alert as being handled: it notifies nobody else and does not escalate; its recipients are notified of its end."""
    values = {
        "acknowledged": moments.now(),
        "acknowledged_by": actor.name[:150],
        "acknowledged_note": " ".join(note.split())[:500],
    }
    with transaction.atomic(using=configuration().database):
        if Alert.objects.filter(pk=alert.pk, resolved=None, acknowledged=None, fired__isnull=False).update(**values):
            audit.record(actor, "alert.acknowledged", f"alert:{alert.pk}", after={"rule": alert.rule, "note": note[:500]})
    alert.refresh_from_db()
    return alert


# Rules


def condition_of(rule: AlertRule) -> Condition | None:
    """The rule's condition; None if it is no longer installed."""
    return conditions().get(rule.kind)


def save_rule(
    actor: Actor, rule: AlertRule, channels: Iterable[AlertChannel], escalate_to: Iterable[AlertChannel]
) -> AlertRule:
    """Save a rule with its channels; without any it notifies every channel that accepts its severity. Raises `UsageError`."""
    if rule.kind not in conditions():
        raise UsageError(f"Unknown condition {rule.kind!r}.", hint=f"Known: {', '.join(conditions())}.")
    with transaction.atomic(using=configuration().database):
        before = describe_rule(AlertRule.objects.get(pk=rule.pk)) if rule.pk else None
        rule.save()
        rule.channels.set(channels)
        rule.escalate_to.set(escalate_to)
        action = "alert_rule.changed" if before else "alert_rule.made"
        audit.record(actor, action, f"alert_rule:{rule.name}", before=before, after=describe_rule(rule))
    return rule


def switch_rule(actor: Actor, rule: AlertRule, *, enabled: bool) -> AlertRule:
    """Enable or disable a rule. The next evaluation resolves the alerts of a disabled rule and notifies their recipients."""
    if rule.enabled != enabled:
        with transaction.atomic(using=configuration().database):
            rule.enabled = enabled
            rule.save(update_fields=["enabled", "changed"])
            action = "alert_rule.switched_on" if enabled else "alert_rule.switched_off"
            audit.record(actor, action, f"alert_rule:{rule.name}", before={"enabled": not enabled}, after={"enabled": enabled})
    return rule


def remove_rule(actor: Actor, rule: AlertRule) -> None:
    """Remove a rule that a person added. Raises `UsageError` for a built-in rule, which can only be switched off."""
    if rule.builtin:
        raise UsageError(f"The rule {rule.name} is built in.", hint="Switch it off instead.")
    with transaction.atomic(using=configuration().database):
        audit.record(actor, "alert_rule.removed", f"alert_rule:{rule.name}", before=describe_rule(rule))
        rule.delete()


def describe_rule(rule: AlertRule) -> dict[str, Any]:
    """A rule for the audit."""
    return {
        **{name: getattr(rule, name) for name in ("title", "kind", "threshold", "lasting_minutes", "settle_minutes")},
        "severity": str(rule.severity),
        "enabled": rule.enabled,
        "channels": sorted(rule.channels.values_list("name", flat=True)),
        "escalate_minutes": rule.escalate_minutes,
        "escalate_to": sorted(rule.escalate_to.values_list("name", flat=True)),
    }


# Channels


def masked(channel: AlertChannel) -> str:
    """A channel's target for display: mail addresses in full, other addresses without their secret parts."""
    if channel.kind == Kind.MAIL:
        return ", ".join(mail.addresses(channel.target))
    return http.masked(channel.target)


def problems(channel: AlertChannel, plans: Collection[Plan]) -> dict[str, str]:
    """A channel's problems, by field."""
    found = quiet_problems(channel)
    if channel.kind == Kind.MAIL:
        found |= _mail_problems(channel.target)
    else:
        try:
            http.check(channel.target)
        except http.Refused as problem:
            found["target"] = str(problem)
    if channel.kind == Kind.WEBHOOK:
        try:
            signature.key_bytes(channel.key)
        except ValueError as problem:
            found["key"] = f"This is not a signing key: {problem}."
    if channel.kind == Kind.PING and not plans and not channel.beat_minutes:
        found["plans"] = "Choose the plan whose jobs it watches, or an interval for the worker itself."
    return found


def _mail_problems(target: str) -> dict[str, str]:
    addresses = mail.addresses(target)
    if not addresses:
        return {"target": "Enter at least one mail address."}
    if len(addresses) > mail.MOST:
        return {"target": f"{len(addresses)} addresses; the maximum is {mail.MOST}."}
    for address in addresses:
        try:
            mail.is_address(address)
        except ValidationError:
            return {"target": f"{address[:80]!r} is not a mail address."}
    return {}


def quiet_problems(hours: QuietHours) -> dict[str, str]:
    """Problems of quiet hours, by field."""
    found = {}
    if hours.time_zone not in available_timezones():
        found["time_zone"] = "Unknown time zone; use a name such as UTC or Europe/Berlin."
    if (hours.quiet_from is None) != (hours.quiet_until is None):
        found["quiet_until"] = "Enter both times, or none."
    return found


def save_channel(actor: Actor, channel: AlertChannel, plans: Collection[Plan] = ()) -> AlertChannel:
    """Save a channel. A signed webhook without a key gets one. Raises `UsageError`."""
    if channel.kind == Kind.WEBHOOK and not channel.key:
        channel.key = signature.new_key()
    if found := problems(channel, plans):
        raise UsageError(" ".join(found.values()), hint="Nothing was changed.")
    with transaction.atomic(using=configuration().database):
        old = AlertChannel.objects.filter(pk=channel.pk).first() if channel.pk else None
        before = describe_channel(old) if old else None
        if old and (old.target, old.key) != (channel.target, channel.key):
            channel.tested = channel.tested_ok = None  # the test was of another address
            channel.tested_answer = ""
        channel.save()
        channel.plans.set(plans if channel.kind == Kind.PING else ())
        action = "alert_channel.changed" if before else "alert_channel.made"
        audit.record(actor, action, f"alert_channel:{channel.name}", before=before, after=describe_channel(channel))
    return channel


def remove_channel(actor: Actor, channel: AlertChannel) -> None:
    """Remove a channel, and drop the messages that wait for it."""
    with transaction.atomic(using=configuration().database):
        audit.record(actor, "alert_channel.removed", f"alert_channel:{channel.name}", before=describe_channel(channel))
        AlertDelivery.objects.filter(recipient=f"channel:{channel.pk}", state=AlertDelivery.State.WAITING).update(
            state=AlertDelivery.State.DROPPED, finished=moments.now(), answer="The channel was removed."
        )
        channel.delete()


def reveal_key(actor: Actor, channel: AlertChannel) -> str:
    """The signing key, to set up the receiver; showing it is recorded in the audit."""
    audit.record(actor, "alert_channel.key_shown", f"alert_channel:{channel.name}")
    return channel.key


def describe_channel(channel: AlertChannel) -> dict[str, Any]:
    """A channel for the audit, without secrets."""
    return {
        "name": channel.name,
        "kind": str(channel.kind),
        "target": masked(channel),
        "enabled": channel.enabled,
        "least": str(channel.least),
        "quiet": [str(channel.quiet_from), str(channel.quiet_until), channel.time_zone] if channel.quiet_from else None,
        "critical_passes": channel.critical_passes,
        "plans": sorted(channel.plans.values_list("name", flat=True)),
        "beat_minutes": channel.beat_minutes,
    }


def send_test(actor: Actor, channel: AlertChannel) -> Answer:
    """Send a test and wait for the receiver's answer, which is kept with the channel. Takes as long as one delivery may."""
    now = moments.now()
    with transaction.atomic(using=configuration().database):
        delivery = AlertDelivery.objects.create(
            event="test",
            recipient=f"channel:{channel.pk}",
            to=channel.name,
            message=_test_message(actor, channel),
            thread=f"test:{channel.pk}",
        )
        audit.record(actor, "alert_channel.tested", f"alert_channel:{channel.name}")
        outbox.take(delivery, now)
    answer = outbox.attempt(delivery)
    AlertChannel.objects.filter(pk=channel.pk).update(tested=now, tested_ok=answer.ok, tested_answer=answer_line(answer))
    channel.refresh_from_db()
    return answer


def _test_message(actor: Actor, channel: AlertChannel) -> dict[str, Any]:
    if channel.kind == Kind.PING:
        return {"text": f"{actor.name} sent a test from {messages.site()}.", "run": "", "at": moments.now().isoformat()}
    return messages.test(channel.name, actor.name, moments.now())


def answer_line(answer: Answer) -> str:
    """An answer in one line: ``200 ok``."""
    return f"{answer.status} {answer.text}" if answer.status is not None else answer.text


# Subscriptions of accounts


def subscription_of(user: Any) -> AlertSubscription:
    """What an account gets by mail; nothing if it was never saved."""
    found = AlertSubscription.objects.filter(user_id=str(user.pk)).first()
    if found is None or found.username != user.get_username():  # after a restore the id may be another person's
        found = AlertSubscription(user_id=str(user.pk), username=user.get_username(), pk=found.pk if found else None)
        found.time_zone = timezone.get_current_timezone_name()
    return found


def subscribe(actor: Actor, subscription: AlertSubscription, rules: Iterable[AlertRule]) -> AlertSubscription:
    """Save what an account gets by mail. Raises `UsageError` for invalid quiet hours."""
    if found := quiet_problems(subscription):
        raise UsageError(" ".join(found.values()), hint="Nothing was changed.")
    with transaction.atomic(using=configuration().database):
        subscription.save()
        subscription.rules.set(rules)
        after = {"least": str(subscription.least), "rules": sorted(rule.name for rule in subscription.rules.all())}
        audit.record(actor, "alert.subscribed", f"account:{subscription.username}", after=after)
    return subscription
