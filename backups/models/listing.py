"""Keyset paging and filters, shared by the pages, the REST API and the audit search.

A page of a list begins after the last row of the page before it, found through an index, so that every page costs the same
however far down it is, and rows that are added or removed meanwhile neither repeat nor skip others.
"""

import dataclasses
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Self, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Model, Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime

M = TypeVar("M", bound=Model)
Cursor = tuple[Any, ...]
"""Values of a row's keys. The last keys may be missing: the cursor then stands for all rows that share the others."""

_LARGEST = (1 << 63) - 1
_LONGEST = 200
_YEARS = range(1970, 9999)  # other years overflow in a database or a time zone


# Pages


@dataclass(frozen=True, slots=True)
class Part(Generic[M]):
    """One page of a list, newest first. ``newer`` and ``older`` are the cursors of its neighbours; None where there is none."""

    rows: list[M]
    newer: Cursor | None
    older: Cursor | None


class Keyset(Generic[M]):
    """The order of a list: descending by *keys*, of which the last is unique."""

    def __init__(self, model: type[M], *keys: str) -> None:
        self.model, self.keys = model, keys

    def newer_than(self, cursor: Cursor) -> Q:
        """Rows that come before *cursor* in the list."""
        return self._beyond(cursor, "gt")

    def older_than(self, cursor: Cursor) -> Q:
        """Rows that come after *cursor* in the list."""
        return self._beyond(cursor, "lt")

    def _beyond(self, cursor: Cursor, comparison: str) -> Q:
        found = Q()
        for depth, value in enumerate(cursor):
            same = Q(**dict(zip(self.keys[:depth], cursor[:depth], strict=True)))
            found |= same & Q(**{f"{self.keys[depth]}__{comparison}": value})
        return Q(**{f"{self.keys[0]}__{comparison}e": cursor[0]}) & found  # the first condition lets an index be used

    def begin(self, rows: QuerySet[M], *, older: Cursor | None = None, newer: Cursor | None = None) -> QuerySet[M]:
        """*rows* in order, from a cursor on: those older than *older*, or those newer than *newer*, nearest first."""
        if newer is not None:
            return rows.filter(self.newer_than(newer)).order_by(*self.keys)
        rows = rows.order_by(*(f"-{key}" for key in self.keys))
        return rows if older is None else rows.filter(self.older_than(older))

    def part(self, rows: QuerySet[M], size: int, *, older: Cursor | None = None, newer: Cursor | None = None) -> Part[M]:
        """The page of at most *size* rows that begins at a cursor; the first page without one."""
        found = list(self.begin(rows, older=older, newer=newer)[: size + 1])
        more = len(found) > size
        found = found[:size] if newer is None else found[:size][::-1]
        has_newer = bool(found) and (more if newer is not None else older is not None)
        has_older = bool(found) and (more or newer is not None)
        return Part(found, self.cursor(found[0]) if has_newer else None, self.cursor(found[-1]) if has_older else None)

    def cursor(self, row: M) -> Cursor:
        return tuple(getattr(row, key) for key in self.keys)

    def write(self, cursor: Cursor | None) -> str:
        """*cursor* as the pages put it into an address; empty for None."""
        return "~".join(_plain(value) for value in cursor or ())

    def read(self, text: str | None) -> Cursor | None:
        """The cursor that `write` wrote; None for anything else."""
        try:
            return self.checked(re.split("[~_]", text or ""))
        except ValueError:
            return None

    def checked(self, values: Sequence[Any]) -> Cursor:
        """A cursor from values that came from outside: times in ISO 8601 with a zone, integers, text. Raises ``ValueError``."""
        if not 0 < len(values) <= len(self.keys):
            raise ValueError("not a cursor of this list")
        return tuple(self._value(key, value) for key, value in zip(self.keys, values, strict=False))

    def _value(self, key: str, value: Any) -> Any:
        field = self.model._meta.pk if key == "pk" else self.model._meta.get_field(key)
        assert field is not None
        kind = field.get_internal_type()
        if kind == "DateTimeField":
            moment = datetime.fromisoformat(value if isinstance(value, str) else "")
            if moment.tzinfo is None or moment.year not in _YEARS:
                raise ValueError("not a time")
            return moment
        if kind in ("BigAutoField", "BigIntegerField", "AutoField", "IntegerField"):
            number = int(value) if isinstance(value, str) and value.isdecimal() else value
            if type(number) is not int or not 0 <= number <= _LARGEST:
                raise ValueError("not a number of a row")
            return number
        if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
            raise ValueError("not a text")
        return UUID(value) if kind == "UUIDField" else value


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else value.hex if isinstance(value, UUID) else str(value)


# Filters


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Base of what a list can be filtered by. A field that is empty matches everything; ``text`` is ``q`` in an address."""

    def parameters(self) -> dict[str, str]:
        """The parameters of an address that give this filter again, without empty ones. Times are in the reader's zone."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        written = {
            name: minute_of(value) if isinstance(value, datetime) else str(value or "") for name, value in values.items()
        }
        return {"q" if name == "text" else name: value for name, value in written.items() if value}

    def as_query(self, **more: str) -> str:
        """The query string of this filter and of *more*, without empty parameters."""
        return urlencode({name: value for name, value in {**self.parameters(), **more}.items() if value})

    @property
    def active(self) -> bool:
        """Whether it leaves anything out."""
        return bool(self.parameters())

    def changed(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)


def chosen(given: Mapping[str, str], name: str, values: Container[str]) -> str:
    """The parameter *name* if it is one of *values*, else empty."""
    value = given.get(name, "")
    return value if value in values else ""


def minute_of(moment: datetime | None) -> str:
    """A time as a ``datetime-local`` input writes it, in the reader's zone; empty for None."""
    return f"{timezone.localtime(moment):%Y-%m-%dT%H:%M}" if moment else ""


def moment_of(text: str) -> datetime | None:
    """The time that *text* gives in ISO 8601, in the reader's zone unless it names one; None if it gives none."""
    try:
        moment = parse_datetime(text)
    except ValueError:
        return None
    if moment is None or moment.year not in _YEARS:
        return None
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment
