"""Delivers a message to a channel, an account or a mail address."""

import json
from datetime import datetime
from typing import Any

from django.contrib.auth import get_user_model

from backups.engine.runtime.outgoing import switch_address
from backups.models import AlertChannel, AlertDelivery, AlertSubscription

from . import http, mail, messages, signature
from .http import Answer


def hand_over(delivery: AlertDelivery, now: datetime) -> Answer:
    """Send *delivery* to its recipient as configured now, which may have changed since the message was written."""
    kind, _, which = delivery.recipient.partition(":")
    if kind == "mail":
        return mail.send([which], delivery.message, str(delivery.uid))
    if kind == "person":
        person = AlertSubscription.objects.filter(pk=which).first()
        address = address_of(person) if person is not None else None
        if address is None:
            return Answer(ok=False, text="The account was removed, may not see alerts, or has no mail address.")
        return mail.send([address], delivery.message, str(delivery.uid))
    channel = AlertChannel.objects.filter(pk=which).first()
    if channel is None:
        return Answer(ok=False, text="The channel was removed.")
    return send(channel, delivery, now)


def send(channel: AlertChannel, delivery: AlertDelivery, now: datetime) -> Answer:
    """Send *delivery* through *channel*."""
    message, uid = delivery.message, str(delivery.uid)
    if channel.kind == AlertChannel.Kind.MAIL:
        return mail.send(mail.addresses(channel.target), message, uid)
    if channel.kind == AlertChannel.Kind.SLACK:
        content = json.dumps(messages.as_slack(message), ensure_ascii=False).encode("utf-8")
        return http.post(channel.target, content, _headers("application/json"))
    if channel.kind == AlertChannel.Kind.PING:
        return _ping(channel.target, delivery)
    body = json.dumps({**message, "delivery": uid}, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    signed = signature.headers(channel.key, f"msg_{uid}", int(now.timestamp()), body)
    return http.post(channel.target, body, _headers("application/json", signed))


def address_of(person: AlertSubscription) -> str | None:
    """The subscriber's mail address; None if the account is not the one that subscribed, or may no longer see alerts."""
    user: Any = get_user_model()._default_manager.filter(pk=person.user_id, is_active=True).first()
    if user is None or user.get_username() != person.username or not user.has_perm("backups.view_alert"):
        return None
    return getattr(user, user.get_email_field_name(), "") or None


def _ping(target: str, delivery: AlertDelivery) -> Answer:
    message = delivery.message
    event = "success" if delivery.event == "test" else delivery.event
    body = str(message.get("text") or f"Test of {messages.site()}")[:1000].encode("utf-8")
    return http.post(switch_address(target, event, message.get("run", "")), body, _headers("text/plain; charset=utf-8"))


def _headers(content_type: str, more: dict[str, str] | None = None) -> dict[str, str]:
    return {"Content-Type": content_type, "User-Agent": messages.agent(), "Accept": "*/*", **(more or {})}
