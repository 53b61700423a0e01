"""Numbers for people: sizes, durations, how long ago, times with their zone, and counts."""

from datetime import datetime


def human_bytes(count: float) -> str:
    """*count* bytes in a suitable unit, such as ``2.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


_UNITS = ((60.0, 1.0, "s"), (3600.0, 60.0, "min"), (2 * 86_400.0, 3600.0, "h"), (1000 * 86_400.0, 86_400.0, "days"))
_CENTURY = 36_500 * 86_400.0


def duration(seconds: float) -> str:
    """*seconds* in one unit: ``7 ms``, ``8.1 s``, ``14 min``, ``2.5 h``, ``3 days``, ``4 years``.

    Milliseconds below 1 s, seconds below 1 min, minutes below 1 h, hours below 2 days, days below 1000 days. Values below 10
    have one decimal unless it is zero.
    """
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995:
        return _with_unit(seconds * 1000, "ms") if seconds else "0 s"
    for limit, size, unit in _UNITS:
        if seconds < limit:
            return _with_unit(seconds / size, unit)
    return f"{seconds / (365 * 86_400):.0f} years" if seconds < _CENTURY else "more than 100 years"


def ago(seconds: float) -> str:
    """An instant *seconds* before now, or after now if negative: ``14 min ago``, ``in 3 h``, ``just now`` within a second."""
    if abs(seconds) < 1:
        return "just now"
    text = duration(round(abs(seconds)))
    return f"{text} ago" if seconds > 0 else f"in {text}"


def clock(moment: datetime) -> str:
    """A time to the minute with the zone that it is given in, such as ``2026-11-30 07:40 UTC``."""
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname()}"


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``1 backup``, ``2,000 backups``. *many* is for plurals that do not just end with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _with_unit(value: float, unit: str) -> str:
    text = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
    return f"{text.removesuffix('.0')} {unit}"
