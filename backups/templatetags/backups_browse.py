"""How pages about backups and restores write counts and differences."""

from __future__ import annotations

from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

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
