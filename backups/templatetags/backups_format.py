"""How pages write sizes, durations and times: units that fit, the reader's zone, UTC on hover."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.engine.progress import human_bytes, human_seconds, rough

register = template.Library()


@register.filter
def size(count: float | None) -> str:
    """Bytes with a unit: ``2.3 MB``."""
    return "\N{EN DASH}" if count is None else human_bytes(count)


@register.filter
def duration(value: float | timedelta | None) -> str:
    """Seconds, or a timedelta, with a unit: ``8.1 s``."""
    if value is None:
        return "\N{EN DASH}"
    return human_seconds(value.total_seconds() if isinstance(value, timedelta) else value)


@register.filter
def ms(value: float | None) -> str:
    """Milliseconds: ``0.4 ms``."""
    return "\N{EN DASH}" if value is None else f"{value:.1f} ms" if value < 1000 else f"{value / 1000:.1f} s"


@register.filter
def percent(fraction: float | None) -> str:
    """A fraction as ``68 %``."""
    return "\N{EN DASH}" if fraction is None else f"{fraction * 100:.0f} %"


@register.simple_tag
def moment(time: datetime | None, style: str = "full") -> SafeString | str:
    """A ``<time>``: in the reader's zone, with UTC on hover. *style* ``ago`` shows how long ago instead, both on hover."""
    if time is None:
        return "\N{EN DASH}"
    local = timezone.localtime(time)
    exact = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}"
    in_utc = f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if style == "ago":
        shown, hover = ago(time), f"{exact} ({in_utc})"
    else:
        shown, hover = f"{local:%Y-%m-%d %H:%M}", f"{exact} ({in_utc})"
    return format_html('<time datetime="{}" title="{}">{}</time>', time.astimezone(UTC).isoformat(), hover, shown)


@register.filter
def ago(time: datetime | None) -> str:
    """How long ago, or in how long: ``14 min ago``, ``in 3 h``."""
    if time is None:
        return "never"
    seconds = (timezone.now() - time).total_seconds()
    text = rough(abs(seconds))
    return f"{text} ago" if seconds >= 0 else f"in {text}"
