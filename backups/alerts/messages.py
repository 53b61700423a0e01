"""Messages: JSON for webhooks, rendered as text and HTML for mail and as Slack's JSON.

One message covers all alerts of a rule in one evaluation, so that a failing disk does not send a hundred.
"""

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.template.loader import render_to_string
from django.urls import get_script_prefix, reverse
from django.utils.dateparse import parse_datetime

from backups import __version__
from backups.conf import configuration
from backups.engine.progress import duration
from backups.models import Alert

VERSION = 1
"""Version of the JSON; fields may be added without a new one."""

MOST_ALERTS = 50
"""Alerts that a message lists; the others are only counted."""

_WORDS = {"fired": "", "escalated": "Still: ", "resolved": "Resolved: ", "test": "Test: "}
_COLOURS = {"critical": "#b3261e", "warning": "#9a6100", "info": "#1f5fa8"}
_GOOD = "#1b7f3b"


def about(event: str, alerts: Sequence[Alert], now: datetime) -> dict[str, Any]:
    """The message about *event* of *alerts*, which belong to one rule."""
    first = alerts[0]
    rule = {"name": first.rule, "title": first.title, "severity": first.severity}
    return _message(event, rule, len(alerts), [_alert(alert) for alert in alerts[:MOST_ALERTS]], now)


def test(channel_name: str, by: str, now: datetime) -> dict[str, Any]:
    """A test message."""
    alert = {
        "id": "00000000-0000-0000-0000-000000000000",
        "subject": channel_name,
        "text": f"{by} sent a test to {channel_name}. Nothing is wrong.",
        "todo": "No action is needed.",
        "page": _absolute(reverse("backups:alerts")),
        "help": "",
        "since": now.astimezone(UTC).isoformat(),
        "resolved": None,
        "ended_by": "",
    }
    return _message("test", {"name": "test", "title": "This is a test", "severity": "info"}, 1, [alert], now)


def _message(event: str, rule: dict[str, str], count: int, alerts: list[dict[str, Any]], now: datetime) -> dict[str, Any]:
    at = now.astimezone(UTC).isoformat()
    return {"version": VERSION, "event": event, "at": at, "site": site(), "rule": rule, "count": count, "alerts": alerts}


def site() -> str:
    """This site's name in messages: its address, or the host's name."""
    config = configuration()
    return config.address.partition("://")[2] or config.host


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "id": str(alert.pk),
        "subject": alert.subject,
        "text": alert.text,
        "todo": alert.todo,
        "page": _absolute(alert.get_absolute_url()),
        "help": _absolute(alert.help_address),
        "since": alert.since.astimezone(UTC).isoformat(),
        "resolved": alert.resolved.astimezone(UTC).isoformat() if alert.resolved else None,
        "ended_by": alert.ended_by,
    }


def _absolute(path: str) -> str:
    """An address of this site, for mails. The path has the prefix below which the project runs; ``ADDRESS`` may have it too."""
    base = configuration().address.removesuffix(get_script_prefix().rstrip("/"))
    return f"{base}{path}" if path and base else ""


def subject(message: dict[str, Any]) -> str:
    """Subject of a mail, and first line in a chat: ``[refs.example.org] Critical: A worker does not report``."""
    rule, alerts = message["rule"], message["alerts"]
    what = rule["title"]
    if message["count"] == 1 and alerts[0]["subject"] and message["event"] != "test":
        what += f" ({alerts[0]['subject']})"
    elif message["count"] > 1:
        what += f" ({message['count']} times)"
    level = f"{rule['severity'].capitalize()}: " if message["event"] in ("fired", "escalated") else ""
    line = f"[{message['site']}] {_WORDS.get(message['event'], '')}{level}{what}"
    # Line breaks in a name would make the mail header invalid, and the alert would reach nobody
    return "".join(letter if letter.isprintable() else " " for letter in line)[:200]


def lines(message: dict[str, Any]) -> list[str]:
    """One line for each alert of a message."""
    listed = [alert["text"] for alert in message["alerts"]]
    if message["event"] == "resolved":
        ended = [f"Resolved after {_lasted(alert)}: {alert['text']} {alert['ended_by']}" for alert in message["alerts"]]
        listed = [line.rstrip() for line in ended]
    rest = message["count"] - len(message["alerts"])
    return [*listed, *([f"And {rest} more."] if rest > 0 else [])]


def as_text(message: dict[str, Any]) -> str:
    """For mail, as text."""
    return render_to_string("backups/mail/alert.txt", _context(message)).strip() + "\n"


def as_html(message: dict[str, Any]) -> str:
    """For mail, as HTML with style attributes, which mail programs support best."""
    return render_to_string("backups/mail/alert.html", _context(message))


def _context(message: dict[str, Any]) -> dict[str, Any]:
    over = message["event"] == "resolved"
    alerts = [
        {**alert, "line": line, "moment": parse_datetime(alert["since"])}
        for alert, line in zip(message["alerts"], lines(message), strict=False)
    ]
    return {
        "message": message,
        "subject": subject(message).partition("] ")[2],
        "alerts": alerts,
        "rest": message["count"] - len(message["alerts"]),
        "over": over,
        "colour": _GOOD if over else _COLOURS[message["rule"]["severity"]],
        "word": "resolved" if over else message["rule"]["severity"],
    }


def as_slack(message: dict[str, Any]) -> dict[str, Any]:
    """For Slack's incoming webhooks, and others that accept the same JSON (Mattermost, Rocket.Chat)."""
    over = message["event"] == "resolved"
    attachments = []
    for alert, line in zip(message["alerts"], lines(message), strict=False):
        address = alert["help"] or alert["page"]
        text = _for_slack(line)
        if alert["todo"] and not over:
            text += f"\n{_for_slack(alert['todo'])}"
        if address:
            text += f"\n<{_for_slack(address)}|Open>"
        attachments.append(
            {"color": _GOOD if over else _COLOURS[message["rule"]["severity"]], "text": text, "fallback": _for_slack(line)}
        )
    return {"text": f"*{_for_slack(subject(message))}*", "attachments": attachments}


def _for_slack(text: str) -> str:
    return html.escape(text, quote=False)


def _lasted(alert: dict[str, Any]) -> str:
    since, resolved = parse_datetime(alert["since"]), parse_datetime(alert["resolved"] or "")
    return duration((resolved - since).total_seconds()) if since and resolved else "a while"


def agent() -> str:
    """The User-Agent of outgoing requests."""
    return f"RefServer-Backups/{__version__}"
