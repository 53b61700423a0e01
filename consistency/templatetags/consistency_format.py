"""How pages write times, counts and labels."""

from datetime import UTC, datetime
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from consistency.web import labels

register = template.Library()

_UNITS = (
    (0.9995, 0.001, "ms"),
    (60.0, 1.0, "s"),
    (3600.0, 60.0, "min"),
    (2 * 86_400.0, 3600.0, "h"),
    (1000 * 86_400.0, 86_400.0, "days"),
)


@register.simple_tag
def moment(time: datetime | None, style: str = "full") -> SafeString | str:
    """A ``<time>`` in the local time zone with UTC on hover; with *style* ``ago``, how long ago, and both on hover."""
    if time is None:
        return "\N{EN DASH}"
    local = timezone.localtime(time)
    hover = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()} ({time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)"
    seconds = round((timezone.now() - time).total_seconds())
    ago = "just now" if seconds < 1 else f"{duration(seconds)} ago"
    shown = ago if style == "ago" else f"{local:%Y-%m-%d %H:%M}"
    return format_html('<time datetime="{}" title="{}">{}</time>', time.astimezone(UTC).isoformat(), hover, shown)


@register.filter
def duration(seconds: float) -> str:
    """*seconds*, not negative, in one unit: ``240 ms``, ``1.2 s``, ``3 min``. Same rule as `backups.engine.progress`."""
    if not seconds:
        return "0 s"
    for limit, size, unit in _UNITS:
        if seconds < limit:
            value = seconds / size
            text = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
            return f"{text.removesuffix('.0')} {unit}"
    return f"{seconds / (365 * 86_400):.0f} years"


@register.filter
def number(count: int | None) -> str:
    """A count: ``7,039``."""
    return "\N{EN DASH}" if count is None else f"{count:,}"


@register.filter
def kind_title(kind: str) -> str:
    """The name of a kind of finding."""
    return labels.KINDS[kind][0] if kind in labels.KINDS else kind.replace("_", " ").capitalize()


@register.filter
def kind_about(kind: str) -> str:
    """What a kind of finding means; empty for an unknown kind."""
    return labels.KINDS[kind][1] if kind in labels.KINDS else ""


@register.filter
def repair_words(repair: str) -> str:
    """What a repair does, such as ``delete the vector``."""
    return labels.REPAIRS.get(repair, repair)


@register.filter
def tone(state: str) -> str:
    """The class of a severity's or a state's colour."""
    return labels.TONES.get(state, "")


@register.filter
def of_kind(counts: dict[str, Any], name: str) -> Any:
    """A member of a dictionary, or 0."""
    return counts.get(name, 0)


@register.filter
def unlocalised(value: float) -> str:
    """A number for an attribute: with a decimal point in every language."""
    return f"{value:g}"


@register.filter
def figure(value: float | str | None) -> str:
    """A value of a vector, or one computed from it, with four digits; text such as ``nan`` unchanged."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
