"""How pages about backups and restores write counts and differences."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

from backups.engine.progress import human_seconds

register = template.Library()

_NONE = "\N{EN DASH}"


@register.filter
def number(count: float | None) -> str:
    """A whole number with thin groups: ``12,345``; a dash for None."""
    return _NONE if count is None else f"{count:,.0f}"


@register.filter
def counted(count: int, most: int) -> str:
    """A count that was not taken beyond *most*: ``1,000+``."""
    return f"{most:,}+" if count > most else f"{count:,}"


@register.filter
def brief(seconds: float | None) -> str:
    """A duration that may be very short: ``12 ms``, ``8.1 s``."""
    if seconds is None:
        return _NONE
    return f"{seconds * 1000:.0f} ms" if seconds < 0.95 else human_seconds(seconds)


@register.filter
def share(fraction: float) -> str:
    """A part of a whole as ``68 %``; one that is not quite all, or not quite nothing, is said to be so."""
    if 0 < fraction < 0.01:
        return "less than 1 %"
    return "more than 99 %" if 0.99 < fraction < 1 else f"{fraction * 100:.0f} %"


@register.filter
def who_gains(counts: dict[str, int]) -> str:
    """Who is given access: ``2 accounts and 1 group``."""
    told = [
        f"{counts[name]:,} {word}{'' if counts[name] == 1 else 's'}"
        for name, word in (("gives", "account"), ("gives_groups", "group"))
        if counts[name]
    ]
    return " and ".join(told)


@register.simple_tag
def difference(before: int | None, after: int | None) -> SafeString | str:
    """What a count gains or loses, with a sign and in a class of its own; nothing changed is said quietly."""
    change = (after or 0) - (before or 0)
    if before is None and after is None:
        return ""
    if change == 0:
        return format_html('<span class="quiet">{}</span>', "0")
    sign = "+" if change > 0 else "\N{MINUS SIGN}"
    return format_html('<span class="{}">{}</span>', "more" if change > 0 else "less", f"{sign}{abs(change):,}")
