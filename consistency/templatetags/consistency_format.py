"""How pages write times, counts and labels."""

from datetime import UTC, datetime
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups import moments
from backups.engine.runtime.wording import clock, duration
from consistency.web import labels

register = template.Library()
register.filter("duration", duration)


@register.simple_tag
def moment(time: datetime | None, style: str = "full") -> SafeString | str:
    """A ``<time>`` with the site's zone; with *style* ``ago``, how long ago, and the time on hover. UTC is there too."""
    if time is None:
        return "\N{EN DASH}"
    local = timezone.localtime(time)
    hover = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()} ({time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)"
    seconds = round((moments.now() - time).total_seconds())
    ago = "just now" if seconds < 1 else f"{duration(seconds)} ago"
    shown = ago if style == "ago" else clock(local)
    return format_html('<time datetime="{}" title="{}">{}</time>', time.astimezone(UTC).isoformat(), hover, shown)


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
