"""Resolves a `Declaration` into tables and columns, and reports what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db import connections, models, router

from consistency.declaration import Declaration, Mirror, declared
from consistency.engine.errors import Mistake
from consistency.engine.mapping import Column, ColumnType, Description, Field, Join, Mapping, Parent

_TYPES: dict[str, ColumnType] = {
    **dict.fromkeys(("CharField", "TextField", "SlugField", "GenericIPAddressField", "FilePathField", "FileField"), "text"),
    **dict.fromkeys(("AutoField", "BigAutoField", "SmallAutoField", "IntegerField", "BigIntegerField"), "integer"),
    **dict.fromkeys(("SmallIntegerField", "PositiveIntegerField", "PositiveBigIntegerField"), "integer"),
    **dict.fromkeys(("PositiveSmallIntegerField",), "integer"),
    "FloatField": "real",
    "BooleanField": "boolean",
    "UUIDField": "uuid",
}
_TIMES = ("DateTimeField", "DateField")

SERVER = "chroma"
"""What a Chroma server is called in a description."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a declaration; *code* is that of the system check."""

    code: str
    message: str
    hint: str


def description() -> Description:
    """The project's mappings as tables and columns. Raises `Mistake` with the first problem."""
    described, problems = describe(declared())
    if problems:
        raise Mistake(problems[0].message, hint=problems[0].hint)
    return described


def database_files() -> list[Path]:
    """The SQLite files of the mirrors' models."""
    aliases = sorted({_alias(apps.get_model(mirror.model)) for mirror in declared().mirrors})
    return [Path(connections[alias].settings_dict["NAME"]) for alias in aliases]


def alias_of(mapping: str) -> str:
    """The database alias of a mirror's model."""
    return next(_alias(apps.get_model(mirror.model)) for mirror in declared().mirrors if mirror.name == mapping)


def describe(declaration: Declaration) -> tuple[Description, list[Problem]]:
    """Tables and columns for *declaration*, and its problems. Mirrors with problems are left out."""
    problems: list[Problem] = []
    mappings = []
    place = declaration.chroma()
    for mirror in declaration.mirrors:
        resolver = _Resolver(mirror, place.name if isinstance(place, Path) else SERVER)
        mapping = resolver.mapping()
        problems += resolver.problems
        if mapping is not None and not resolver.problems:
            mappings.append(mapping)
    names = [mirror.name for mirror in declaration.mirrors]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem(code="E006", message=f"Two mirrors are named {name!r}.", hint="Give each its own name."))
    collections = [mirror.collection for mirror in declaration.mirrors]
    for name in sorted({name for name in collections if collections.count(name) > 1}):
        problems.append(
            Problem(
                code="E007",
                message=f"Two mirrors use the collection {name!r}; each would report the other's records as missing in SQLite.",
                hint="Use one collection for each model.",
            )
        )
    return Description(mappings=tuple(mappings)), problems


def _alias(model: type[models.Model]) -> str:
    return router.db_for_read(model) or "default"


class _Resolver:
    """Finds the tables and columns of one mirror, and collects what cannot be found."""

    def __init__(self, mirror: Mirror, chroma: str) -> None:
        self.problems: list[Problem] = []
        self._mirror = mirror
        self._chroma = chroma
        self._joins: list[Join] = []
        self._numbers: dict[tuple[str, ...], int] = {}
        self._model: type[models.Model] | None = None

    def mapping(self) -> Mapping | None:
        mirror = self._mirror
        try:
            model = self._model = apps.get_model(mirror.model)
        except (LookupError, ValueError):
            self._problem("E002", f"there is no model {mirror.model!r}", "Write it as app_label.ModelName.")
            return None
        connection = connections[_alias(model)]
        if connection.vendor != "sqlite":
            self._problem("E003", f"{mirror.model} is stored in {connection.vendor}", "Only SQLite can be compared.")
            return None
        vector = self._field(model, mirror.vector)
        if vector is not None and vector.get_internal_type() != "BinaryField":
            self._problem(
                "E005", f"the vector {mirror.vector!r} is not a BinaryField", "Name the field with the float32 values."
            )
        return Mapping(
            name=mirror.name,
            sqlite=Path(str(connection.settings_dict["NAME"])).stem,
            chroma=self._chroma,
            collection=mirror.collection,
            table=model._meta.db_table,
            id=self._id(),
            vector=str(vector.column) if vector is not None else "",
            dimension=self._column(mirror.dimension) if mirror.dimension else None,
            model=self._field_of(mirror.model_key, mirror.embedding_model) if mirror.embedding_model else None,
            metadata=tuple(found for key, path in mirror.metadata.items() if (found := self._field_of(key, path)) is not None),
            document=tuple(column for path in mirror.document if (column := self._column(path)) is not None),
            separator=mirror.separator,
            parent=self._parent(),
            changed=self._column(mirror.changed, times=True) if mirror.changed else None,
            grace=mirror.grace,
            where=tuple(
                (column, int(value) if isinstance(value, bool) else value)
                for path, value in mirror.where.items()
                if (column := self._column(path)) is not None
            ),
            tolerance=mirror.tolerance,
            joins=tuple(self._joins),
        )

    def _problem(self, code: str, message: str, hint: str) -> None:
        self.problems.append(Problem(code=code, message=f"The mirror {self._mirror.name!r}: {message}.", hint=hint))

    def _id(self) -> tuple[str | Column, ...]:
        parts: list[str | Column] = []
        for number, part in enumerate(re.split(r"\{(\w+)\}", self._mirror.id)):
            if number % 2 == 0:
                parts += [part] if part else []
            elif (column := self._column(part)) is not None:
                parts.append(column)
        columns = [part for part in parts if isinstance(part, Column)]
        if not columns and not self.problems:
            self._problem("E008", f"the id {self._mirror.id!r} is the same for every row", "Name a field in it: page-{pk}.")
        loose = [column for column in columns if column.type not in ("integer", "uuid")]
        if len(loose) > 1 or any(column.type in ("real", "boolean") for column in columns):
            hint = "Build ids from integers, UUIDs, and at most one text."
            self._problem("E008", f"the id {self._mirror.id!r} cannot be parsed back into its fields", hint)
        return tuple(parts)

    def _field_of(self, key: str, path: str) -> Field | None:
        column = self._column(path)
        return Field(key=key, column=column) if column is not None else None

    def _parent(self) -> Parent | None:
        path = self._mirror.parent
        if path is None or self._model is None:
            return None
        key = self._field(self._model, path)
        if key is None:
            return None
        if not isinstance(key, models.ForeignKey):
            self._problem("E005", f"the parent {path!r} is not a foreign key", "Name the field that refers to the parent.")
            return None
        column = self._column(path)
        if column is None:
            return None
        return Parent(
            name=key.related_model._meta.model_name or path,
            join=self._join((path,), key, 0),
            column=column,
            metadata=self._mirror.parent_key,
            counted=not key.unique,
        )

    def _column(self, path: str, *, times: bool = False) -> Column | None:
        model, table, walked = self._model, 0, tuple[str, ...]()
        assert model is not None
        *steps, last = path.split("__")
        for step in steps:
            key = self._field(model, step)
            if key is None:
                return None
            if not isinstance(key, models.ForeignKey):
                self._problem("E004", f"{step!r} of {path!r} is not a foreign key", "Go through foreign keys only.")
                return None
            walked = (*walked, step)
            table = self._join(walked, key, table)
            model = key.related_model
        found = self._field(model, last)
        if found is None:
            return None
        target: models.Field[Any, Any] = found
        while isinstance(target, models.ForeignKey):
            target = target.target_field
        kind = target.get_internal_type()
        if times and kind in _TIMES:
            return Column(name=str(found.column), type="text", table=table)
        if kind not in _TYPES:
            self._problem(
                "E005", f"{path!r} is a {kind}, which Chroma's metadata cannot repeat", "Name a text, number or boolean."
            )
            return None
        return Column(name=str(found.column), type=_TYPES[kind], table=table)

    def _join(self, walked: tuple[str, ...], key: models.ForeignKey[Any, Any], table: int) -> int:
        if walked not in self._numbers:
            target: models.Field[Any, Any] = key.target_field
            column = Column(name=str(key.column), type="integer", table=table)
            self._joins.append(Join(table=key.related_model._meta.db_table, key=str(target.column), column=column))
            self._numbers[walked] = len(self._joins)
        return self._numbers[walked]

    def _field(self, model: type[models.Model], name: str) -> models.Field[Any, Any] | None:
        if name == "pk":
            return model._meta.pk
        fields = {one.attname: one for one in model._meta.concrete_fields}
        try:
            found = fields.get(name) or model._meta.get_field(name)
        except FieldDoesNotExist:
            found = None
        if not isinstance(found, models.Field) or found.column is None:
            hint = f"It has {', '.join(sorted(fields))}."
            self._problem("E004", f"{model.__name__} has no field {name!r} with a column", hint)
            return None
        return found
