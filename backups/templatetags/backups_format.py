"""How pages write sizes, durations, times, counts and differences."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from django import template
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from backups import moments
from backups.catalog.losses import Loss, loss_of, unconfirmed
from backups.engine import progress
from backups.models import IndexedBackup

register = template.Library()

_NONE = "\N{EN DASH}"


@register.filter
def size(count: float | None) -> str:
    """Bytes with a unit: ``2.3 MB``."""
    return _NONE if count is None else progress.human_bytes(count)


@register.filter
def duration(value: float | timedelta | None) -> str:
    """Seconds or a timedelta in one unit (`backups.engine.progress.duration`)."""
    if value is None:
        return _NONE
    return progress.duration(value.total_seconds() if isinstance(value, timedelta) else value)


@register.filter
def ms(milliseconds: float | None) -> str:
    """Milliseconds as a duration: ``0.4 ms``, ``1.2 s``."""
    return duration(None if milliseconds is None else milliseconds / 1000)


@register.filter
def days(count: float) -> str:
    """Days as a duration."""
    return progress.duration(count * 86_400)


@register.filter
def ago(time: datetime | None) -> str:
    """How long ago, or how far ahead: ``14 min ago``, ``in 3 h``."""
    return "never" if time is None else progress.ago((moments.now() - time).total_seconds())


@register.filter
def at(time: datetime, form: str) -> str:
    """A time in the site's zone, as Django's filter ``date`` writes it, which leaves it in UTC where ``USE_TZ`` is off."""
    return date_format(timezone.localtime(time), form)


@register.filter
def elapsed(time: datetime) -> str:
    """The time since *time*: ``3 min``."""
    return progress.duration(max(0, round((moments.now() - time).total_seconds())))


@register.simple_tag
def moment(time: datetime | None, style: str = "full") -> SafeString | str:
    """A ``<time>`` with the site's zone, or with the style ``ago`` how long ago; the exact time and UTC on hover."""
    if time is None:
        return _NONE
    local = timezone.localtime(time)
    hover = f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()} ({time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC)"
    shown = ago(time) if style == "ago" else progress.clock(local)
    return format_html('<time datetime="{}" title="{}">{}</time>', time.astimezone(UTC).isoformat(), hover, shown)


@register.simple_tag
def moment_in(time: datetime, zone: str) -> SafeString:
    """A time in the zone of a plan, labelled, and in the reader's zone where that differs."""
    there, here = time.astimezone(ZoneInfo(zone)), timezone.localtime(time)
    same = there.utcoffset() == here.utcoffset()
    also = "" if same else format_html(' <span class="quiet">= {} {}</span>', f"{here:%a %H:%M}", here.tzname())
    stamp = time.astimezone(UTC).isoformat()
    return format_html('<time datetime="{}">{}</time>{}', stamp, progress.clock(there), also)


@register.filter
def percent(fraction: float | None) -> str:
    """A fraction as ``68 %``; not 0 % or 100 % unless it is exactly that."""
    if fraction is None:
        return _NONE
    if 0 < fraction < 0.01:
        return "less than 1 %"
    return "more than 99 %" if 0.99 < fraction < 1 else f"{fraction * 100:.0f} %"


@register.filter
def hundredths(fraction: float) -> str:
    """A fraction in percent for an attribute: ``68.2``, with a point in every language."""
    return f"{fraction * 100:.1f}"


@register.filter
def number(count: float | None) -> str:
    """A whole number with groups: ``12,345``."""
    return _NONE if count is None else f"{count:,.0f}"


@register.filter
def code(text: str) -> SafeString:
    """*text*, escaped, with what is in backticks as ``<code>``."""
    parts = enumerate(text.split("`"))
    return format_html_join("", "{}", ((format_html("<code>{}</code>", part) if at % 2 else part,) for at, part in parts))


@register.filter
def lower_first(text: str) -> str:
    """*text* with a small first letter, to follow a colon."""
    return text[:1].lower() + text[1:]


@register.filter
def counted(count: int, most: int) -> str:
    """A number that was counted up to *most*: ``1,000+``."""
    return f"{most:,}+" if count > most else f"{count:,}"


@register.filter
def who_gains(counts: dict[str, int]) -> str:
    """The accounts and groups that a restore gives rights to: ``2 accounts and 1 group``."""
    parts = [
        progress.counted(counts[name], word) for name, word in (("gives", "account"), ("gives_groups", "group")) if counts[name]
    ]
    return " and ".join(parts)


@register.simple_tag
def difference(before: int | None, after: int | None) -> SafeString | str:
    """How much a count grows or shrinks, with a sign and a class for its colour."""
    if before is None and after is None:
        return ""
    change = (after or 0) - (before or 0)
    if change == 0:
        return format_html('<span class="quiet">{}</span>', "0")
    sign = "+" if change > 0 else "\N{MINUS SIGN}"
    return format_html('<span class="{}">{}</span>', "more" if change > 0 else "less", f"{sign}{abs(change):,}")


@register.simple_tag(takes_context=True)
def loss(context: template.Context, row: IndexedBackup) -> Loss | None:
    """What *row* holds no longer, until that is confirmed. The held backups are read once a request."""
    request = context.get("request")
    held = getattr(request, "backups_held", None)
    if held is None:
        held = unconfirmed()
        if request is not None:
            request.backups_held = held
    return loss_of(row, held)
