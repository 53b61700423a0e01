"""Pages of REST lists: `backups.models.listing` with an opaque cursor, the base64 of the last row's keys as JSON."""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Generic, TypeVar
from urllib.parse import urlencode

from django.db.models import Model, QuerySet
from pydantic import BaseModel, Field, StringConstraints
from rest_framework.request import Request

from backups.models.listing import Cursor, Keyset

from .problems import Refused
from .schemas import RequestModel

M = TypeVar("M", bound=Model)
T = TypeVar("T")


class FilterQuery(RequestModel):
    """The parameters of a list. The fields of a subclass are filters."""

    lookups: ClassVar[Mapping[str, str]] = {}
    """The Django lookup of each filter that is not named like its field; empty for a field that `matching` skips."""

    def matching(self, rows: QuerySet[M]) -> QuerySet[M]:
        """The *rows* that match all filters; null and empty text match every row."""
        filters = type(self).model_fields.keys() - PageQuery.model_fields.keys()
        values = {self.lookups.get(name, name): getattr(self, name) for name in filters}
        return rows.filter(**{lookup: value for lookup, value in values.items() if lookup and value not in (None, "")})


class PageQuery(FilterQuery):
    """The parameters of a list in pages."""

    limit: Annotated[int, Field(ge=1, le=500, description="Maximum number of items.")] = 50
    cursor: Annotated[
        str,
        StringConstraints(max_length=400, pattern=r"^[A-Za-z0-9_=-]*$"),
        Field(description="From `next` of the previous page."),
    ] = ""


class Page(BaseModel, Generic[T]):
    """One page of a list, newest first; ``next`` is the address of the following page, null at the end."""

    items: list[T]
    next: str | None

    @classmethod
    def model_parametrized_name(cls, params: tuple[Any, ...]) -> str:
        return f"{params[0].model_config.get('title', params[0].__name__)}Page"


def page(request: Request, query: PageQuery, rows: QuerySet[M], keys: Sequence[str], schema: Callable[[M], T]) -> Page[T]:
    """The requested page of *rows*, descending by *keys* (the last is unique), each as *schema*. Raises `Refused`."""
    keyset = Keyset(rows.model, *keys)
    part = keyset.part(rows, query.limit, older=_read(query.cursor, keyset) if query.cursor else None)
    items = [schema(row) for row in part.rows]
    if part.older is None:
        return Page(items=items, next=None)
    parameters = query.model_dump(mode="json", exclude_defaults=True) | {"cursor": _write(part.older)}
    return Page(items=items, next=f"{request.path}?{urlencode(parameters)}")


def _write(cursor: Cursor) -> str:
    plain = [
        value if isinstance(value, int) else value.isoformat() if isinstance(value, datetime) else str(value)
        for value in cursor
    ]
    return base64.urlsafe_b64encode(json.dumps(plain, separators=(",", ":")).encode()).decode("ascii")


def _read(text: str, keyset: Keyset[Any]) -> Cursor:
    try:
        values = json.loads(base64.urlsafe_b64decode(text.encode("ascii")))
        if not isinstance(values, list) or len(values) != len(keyset.keys):
            raise ValueError
        return keyset.checked(values)
    except (ValueError, binascii.Error, RecursionError):
        raise Refused(
            400, "cursor", "The cursor is not one that this list returned.", "Start without a cursor, and follow `next`."
        ) from None
