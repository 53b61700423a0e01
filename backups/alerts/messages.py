"""What is sent: one message, as text and HTML for mail, for Slack-shaped webhooks, and as JSON.

A message tells of all that happened to a rule in one look, so that a disk that dies does not send a hundred.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django.template.loader import render_to_string
from django.utils.dateparse import parse_datetime

from backups import __version__
from backups.conf import configuration
from backups.engine.progress import duration
from backups.models import Alert

VERSION = 1
"""Of the JSON; a field may be added without a new version."""

MOST_ALERTS = 50
"""Alerts that one message tells of one by one."""

_WORDS = {"fired": "", "escalated": "Still: ", "resolved": "Over: ", "test": "Test: "}
_COLOURS = {"critical": "#b3261e", "warning": "#9a6100", "info": "#1f5fa8"}
_GOOD = "#1b7f3b"


def about(event: str, alerts: Sequence[Alert], now: datetime) -> dict[str, Any]:
    """The message that *event* happened to *alerts*, which are of one rule."""
    first = alerts[0]
    return {
        "version": VERSION,
        "event": event,
        "at": now.astimezone(UTC).isoformat(),
        "site": site(),
        "rule": {"name": first.rule, "title": first.title, "severity": first.severity},
        "count": len(alerts),
        "alerts": [_alert(alert) for alert in alerts[:MOST_ALERTS]],
    }


def test(channel_name: str, by: str, now: datetime) -> dict[str, Any]:
    """A message that tells that messages arrive."""
    return {
        "version": VERSION,
        "event": "test",
        "at": now.astimezone(UTC).isoformat(),
        "site": site(),
        "rule": {"name": "test", "title": "This is a test", "severity": "info"},
        "count": 1,
        "alerts": [
            {
                "id": "00000000-0000-0000-0000-000000000000",
                "subject": channel_name,
                "text": f"{by} sent a test to {channel_name}. Nothing is wrong.",
                "todo": "Nothing is to be done.",
                "page": _absolute("/admin/backup/alerts/"),
                "help": "",
                "since": now.astimezone(UTC).isoformat(),
                "resolved": None,
                "ended_by": "",
            }
        ],
    }


def site() -> str:
    """How messages call this site: its address, or the host's name."""
    found = configuration()
    return found.address.partition("://")[2] or found.host


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
    return f"{configuration().address}{path}" if path and configuration().address else ""


def subject(message: dict[str, Any]) -> str:
    """The line that a mail has as its subject, and a chat in bold: ``[refs.example.org] Critical: Plan failed``."""
    rule, alerts = message["rule"], message["alerts"]
    what = rule["title"]
    if message["count"] == 1 and alerts[0]["subject"] and message["event"] != "test":
        what += f" ({alerts[0]['subject']})"
    elif message["count"] > 1:
        what += f" ({message['count']} times)"
    level = f"{rule['severity'].capitalize()}: " if message["event"] in ("fired", "escalated") else ""
    line = f"[{message['site']}] {_WORDS.get(message['event'], '')}{level}{what}"
    # In one line whatever a name holds: a header with a line break is refused, and the alert would reach nobody
    return "".join(letter if letter.isprintable() else " " for letter in line)[:200]


def lines(message: dict[str, Any]) -> list[str]:
    """The sentences of a message: of each alert what is or was the case, and what to do."""
    told = []
    for alert in message["alerts"]:
        if message["event"] == "resolved":
            told.append(f"Over after {_lasted(alert)}: {alert['text']}{' ' + alert['ended_by'] if alert['ended_by'] else ''}")
        else:
            told.append(alert["text"])
    rest = message["count"] - len(message["alerts"])
    return [*told, *([f"And {rest} more."] if rest > 0 else [])]


def as_text(message: dict[str, Any]) -> str:
    """For mail, as text."""
    return render_to_string("backups/mail/alert.txt", _context(message)).strip() + "\n"


def as_html(message: dict[str, Any]) -> str:
    """For mail, as HTML. Style attributes, because that is what mail programs read."""
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
        "word": "over" if over else message["rule"]["severity"],
    }


def as_slack(message: dict[str, Any]) -> dict[str, Any]:
    """For webhooks that take what Slack's incoming webhooks take (Mattermost, Rocket.Chat and others do too)."""
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
    """How outgoing requests call themselves."""
    return f"RefServer-Backups/{__version__}"
