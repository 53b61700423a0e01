"""Cron expressions in plain English. The usual forms are worded here, all others by the library cron-descriptor."""

import calendar
from collections.abc import Sequence

from cron_descriptor import Options, get_description

_OPTIONS = Options(locale_code="en_US", use_24hour_time_format=True)
_DAYS = ("Sunday", *calendar.day_name)
_DAY_NUMBERS = {name[:3].upper(): number for number, name in enumerate(_DAYS[:7])}
_MONTH_NUMBERS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
_WHICH = {"1": "first", "2": "second", "3": "third", "4": "fourth", "5": "fifth"}
_MOST_TIMES = 6


def in_words(cron: str, zone: str = "") -> str:
    """A cron expression in words, with its zone where the time of day matters: ``Sundays at 07:40 UTC``.

    Raises `ValueError` for an invalid expression.
    """
    try:
        described = str(get_description(cron, _OPTIONS))
    except Exception as problem:  # the library has no exception class of its own
        raise ValueError(f"{cron!r} is not a cron expression: {problem}") from problem
    minute, hour, *days = cron.upper().split()
    times = _times(minute, hour)
    if times and (on := _days(*days)):
        return f"{on} at {times} {zone if zone == 'UTC' else f'({zone})' if zone else ''}".rstrip()
    if days == ["*", "*", "*"] and (interval := _interval(minute, hour)):
        return f"{interval} ({zone})" if zone and hour != "*" else interval
    plain = described.replace(", only ", ", ").replace(" through ", " to ").replace("At 0 minutes past the hour", "Every hour")
    return f"{plain} ({zone})" if zone and (hour != "*" or days != ["*", "*", "*"]) else plain


def _times(minute: str, hour: str) -> str:
    """``02:00 and 14:00``; empty if there are many, or none that can be listed."""
    minutes, hours = _numbers(minute), _numbers(hour)
    if not minutes or not hours or len(minutes) * len(hours) > _MOST_TIMES:
        return ""
    return _listed([f"{one:02}:{other:02}" for one in hours for other in minutes])


def _days(day: str, month: str, weekday: str) -> str:
    """On which days: ``Every day``, ``Sundays``, ``The 1st of each month``; empty for other forms."""
    days, months, weekdays = _numbers(day), _numbers(month, _MONTH_NUMBERS), _weekdays(weekday)
    named = [calendar.month_name[one] for one in months or ()]
    if weekday != "*":
        return weekdays if (day, month) == ("*", "*") else ""
    if day == "*":
        return "Every day" if month == "*" else f"Every day in {_listed(named)}" if named else ""
    if days and len(days) == len(named) == 1:
        return f"Every year on {days[0]} {named[0]}"
    which = "last day" if day == "L" else _listed([_ordinal(one) for one in days or ()])
    of = "each month" if month == "*" else _listed(named)
    return f"The {which} of {of}" if which and of else ""


def _weekdays(field: str) -> str:
    """``Sundays``, ``Monday to Friday``, ``The second Monday of each month``; empty for other forms."""
    name, _, which = field.partition("#")
    numbers = _numbers(name.removesuffix("L"), _DAY_NUMBERS)
    if numbers and len(numbers) == 1 and (which in _WHICH or name.endswith("L")):
        return f"The {_WHICH.get(which, 'last')} {_DAYS[numbers[0]]} of each month"
    first, dash, last = field.partition("-")
    ends = _numbers(f"{first},{last}", _DAY_NUMBERS) if dash else None
    if ends and len(ends) == 2:
        return f"{_DAYS[ends[0]]} to {_DAYS[ends[1]]}"
    return _listed([f"{_DAYS[one]}s" for one in numbers or ()]) if "#" not in field and not name.endswith("L") else ""


def _interval(minute: str, hour: str) -> str:
    """``Every 6 hours``, ``Every hour at 10 minutes past``; empty for other forms."""
    minutes = _numbers(minute)
    past = "" if minutes == [0] else f" at {_listed([str(one) for one in minutes or ()])} minutes past"
    if past == " at 1 minutes past":
        past = " at 1 minute past"
    start, slash, step = hour.partition("/")
    if not minutes or (hour != "*" and not (slash and start == "*" and step.isdecimal() and int(step) > 1)):
        return ""
    return f"Every {f'{step} hours' if slash else 'hour'}{past}"


def _numbers(field: str, names: dict[str, int] | None = None) -> list[int] | None:
    """The values of a list such as ``1,15`` or ``MON,FRI``; None for ranges, steps and ``*``."""
    found = [(names or {}).get(part, int(part) if part.isdecimal() else None) for part in field.split(",")]
    return None if None in found else [one for one in found if one is not None]


def _ordinal(number: int) -> str:
    ending = "th" if 10 < number % 100 < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
