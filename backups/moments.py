"""Times of the control database: always in UTC and with their zone, whatever the project's ``USE_TZ`` and ``TIME_ZONE``.

With ``USE_TZ = False`` Django's own fields and clock give local times without a zone, which repeat an hour each autumn and
cannot be compared with the times in a repository.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import models
from django.utils import timezone


def now() -> datetime:
    """The time, with its zone."""
    return timezone.now() if settings.USE_TZ else datetime.now(UTC)


def of_project(moment: datetime) -> datetime:
    """*moment* as the project's own fields have times, such as those of Django-Q's tables."""
    return moment if settings.USE_TZ else timezone.make_naive(moment)


def with_zone(moment: datetime) -> datetime:
    """*moment* with a zone: that of the project if it has none."""
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment


class _MomentField(models.DateTimeField):  # type: ignore[type-arg]
    """A ``DateTimeField`` whose values have a zone in Python and are in UTC in the database. Migrations see Django's field."""

    def deconstruct(self) -> Any:
        """As a ``DateTimeField``: the column is the same."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, kwargs

    def get_default(self) -> Any:
        """The default, with its zone."""
        return _with_zone(super().get_default())

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """The value to save, with its zone; ``auto_now`` sets it."""
        value = _with_zone(super().pre_save(model_instance, add))
        setattr(model_instance, self.attname, value)
        return value

    def get_prep_value(self, value: Any) -> Any:
        """In UTC; without a zone where the database takes none."""
        value = _with_zone(super().get_prep_value(value))
        return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) and not settings.USE_TZ else value

    def from_db_value(self, value: datetime | None, expression: object, connection: object) -> datetime | None:
        """With its zone."""
        return value.replace(tzinfo=UTC) if value is not None and timezone.is_naive(value) else value


def _with_zone(value: Any) -> Any:
    return with_zone(value) if isinstance(value, datetime) else value


if TYPE_CHECKING:  # the types of Django's field, which know of ``null``
    MomentField = models.DateTimeField
else:
    MomentField = _MomentField
