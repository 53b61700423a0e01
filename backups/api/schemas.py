"""Base classes and field types of the JSON. Times are ISO 8601 in UTC, sizes bytes, durations seconds.

A class is published in the OpenAPI description under its ``title``, or under its own name if it has none. Titles keep the
published names when a class is renamed.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, StringConstraints

from backups.engine.names import ONE_LINE
from backups.engine.types import LONGEST_NOTE

Text = Annotated[str, StringConstraints(max_length=200)]
Note = Annotated[str, StringConstraints(max_length=LONGEST_NOTE, pattern=ONE_LINE)]


def _require_date_and_time(value: Any) -> Any:
    if not isinstance(value, str) or "T" not in value.upper():
        raise ValueError("write it as 2026-11-20T10:00:00Z")  # pydantic would read a bare number as seconds
    return value


def _to_utc(moment: datetime) -> datetime:
    if not 1970 <= moment.year <= 9998:
        raise ValueError("give a year from 1970 to 9998")
    return moment.astimezone(UTC)


Moment = Annotated[AwareDatetime, BeforeValidator(_require_date_and_time), AfterValidator(_to_utc)]


class RequestModel(BaseModel):
    """A request body or query: immutable, and unknown members are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """A response body, which may be read from a model instance."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    @classmethod
    def of(cls, row: object, **values: Any) -> Self:
        """The fields in *values* from there, all others from the attributes of *row*."""
        names = {str(field.validation_alias or name) for name, field in cls.model_fields.items() if name not in values}
        return cls.model_validate({name: getattr(row, name) for name in names} | values)
