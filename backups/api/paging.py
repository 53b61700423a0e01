"""Lists in pages that cost the same at any depth: the next one begins after the last row of this one, found by an index.

A cursor is that row's sort keys. It stays good while rows come and go, and says nothing that the row did not say.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from django.db.models import Model, Q, QuerySet
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from .problems import Refused

M = TypeVar("M", bound=Model)
T = TypeVar("T")

_LARGEST = (1 << 63) - 1


class PageQuery(BaseModel):
    """What every list may be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=500, description="Most items to return.")] = 50
    cursor: Annotated[
        str,
        StringConstraints(max_length=400, pattern=r"^[A-Za-z0-9_=-]*$"),
        Field(description="From `next` of the page before."),
    ] = ""


class Page(BaseModel, Generic[T]):
    """Part of a list, newest first; ``next`` is the address of the part after it, null at the end."""

    items: list[T]
    next: str | None

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        """How the description calls it."""
        return f"{params[0].__name__}Page"


def page(rows: QuerySet[M], keys: Sequence[str], query: PageQuery, path: str) -> tuple[list[M], str | None]:
    """A page of *rows*, descending by *keys*, and the address of the next. The last key must tell all rows apart."""
    if query.cursor:
        rows = rows.filter(_after(keys, _read(query.cursor, keys, rows.model)))
    found = list(rows.order_by(*(f"-{key}" for key in keys))[: query.limit + 1])
    if len(found) <= query.limit:
        return found, None
    found = found[: query.limit]
    asked = query.model_dump(mode="json", exclude_defaults=True) | {"cursor": _write([getattr(found[-1], key) for key in keys])}
    return found, f"{path}?{urlencode(asked)}"


def _after(keys: Sequence[str], last: Sequence[Any]) -> Q:
    """Rows after *last*. The first condition is for the index, the others tell apart rows that agree in the first keys."""
    after = Q()
    for depth in range(len(keys)):
        same = Q(**dict(zip(keys[:depth], last[:depth], strict=True)))
        after |= same & Q(**{f"{keys[depth]}__lt": last[depth]})
    return Q(**{f"{keys[0]}__lte": last[0]}) & after


def _write(values: Sequence[Any]) -> str:
    plain = [
        value.isoformat() if isinstance(value, datetime) else value if isinstance(value, int) else str(value)
        for value in values
    ]
    return base64.urlsafe_b64encode(json.dumps(plain, separators=(",", ":")).encode()).decode("ascii")


def _read(cursor: str, keys: Sequence[str], model: type[Model]) -> list[Any]:
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor.encode("ascii")))
        if not isinstance(values, list) or len(values) != len(keys):
            raise ValueError
        return [_value(model, key, value) for key, value in zip(keys, values, strict=True)]
    except (ValueError, binascii.Error, RecursionError):
        raise Refused(
            400, "cursor", "The cursor is not one that this list gave out.", "Begin without one, and follow `next`."
        ) from None


def _value(model: type[Model], key: str, value: Any) -> Any:
    field = model._meta.pk if key == "pk" else model._meta.get_field(key)
    assert field is not None
    kind = field.get_internal_type()
    if kind == "DateTimeField":
        moment = datetime.fromisoformat(value if isinstance(value, str) else "")
        if moment.tzinfo is None or not 1970 <= moment.year <= 9998:
            raise ValueError
        return moment
    if kind in ("BigAutoField", "BigIntegerField", "AutoField", "IntegerField"):
        if type(value) is not int or not 0 <= value <= _LARGEST:
            raise ValueError
        return value
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError
    return UUID(value) if kind == "UUIDField" else value
