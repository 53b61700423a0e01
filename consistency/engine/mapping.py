"""Which rows are compared with which records, in tables and columns: made from a project's declaration, and passed as JSON.

A `Mapping` pairs the rows of one table with the records of one collection. Rows may take columns of other tables, reached
through foreign keys: table 0 is the mapping's own, the others are its `joins`, from 1. A joined row that is missing gives
NULLs and never hides the row itself.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from .errors import Mistake

ColumnType = Literal["text", "integer", "real", "boolean", "uuid"]
COLUMN_TYPES: tuple[ColumnType, ...] = ("text", "integer", "real", "boolean", "uuid")
Scalar = str | int | float | bool | None

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of table number *table*; ``uuid`` is 32 hexadecimal digits in SQLite and has dashes in Chroma."""

    name: str
    type: ColumnType
    table: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Table *table*, whose *key* is what *column* refers to. The first join is number 1."""

    table: str
    key: str
    column: Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A value that Chroma's metadata repeats under *key*."""

    key: str
    column: Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """What a row belongs to: join number *join*, by way of *column*; Chroma repeats its key under *metadata*, if at all.

    *counted* says that a parent can have any number of rows, so that comparing counts is useful.
    """

    name: str
    join: int
    column: Column
    metadata: str = ""
    counted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """The rows of *table* in the SQLite file *sqlite*, and the records of *collection* in the directory *chroma*.

    - *id*: texts and columns that make a row's id in Chroma. Rows whose vector or id is NULL have none there.
    - *vector*: the column with the float32 values, little-endian.
    - *dimension*: a column that says how many they are.
    - *model*: which model made the vector, in both stores.
    - *metadata*: what else Chroma repeats. Other keys are not compared.
    - *document*: columns that make the document, joined by *separator*, empty ones left out.
    - *changed*: when the row was last changed, a time in UTC; with *grace*, the seconds that the vector may take to follow.
    - *where*: (column, value) that rows must have to be mapped.
    - *tolerance*: the distance allowed between two vectors, relative to the length of the row's; 0 compares bits.
    """

    name: str
    sqlite: str
    chroma: str
    collection: str
    table: str
    id: tuple[str | Column, ...]
    vector: str
    joins: tuple[Join, ...] = ()
    dimension: Column | None = None
    model: Field | None = None
    metadata: tuple[Field, ...] = ()
    document: tuple[Column, ...] = ()
    separator: str = "\n\n"
    parent: Parent | None = None
    changed: Column | None = None
    grace: float = 5.0
    where: tuple[tuple[Column, Scalar], ...] = ()
    tolerance: float = 0.0

    def parts_of(self, identifier: str) -> tuple[str | int, ...] | None:
        """The values of the id's columns, as SQLite holds them; None when no row can have *identifier*."""
        return _parts(self.id, identifier)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """All mappings of a project."""

    mappings: tuple[Mapping, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data that `from_json` takes."""
        return {"version": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Description:
        """The description that `as_json` gave. Raises `Mistake`."""
        if data.get("version") != VERSION:
            raise Mistake(f"The description of mappings has version {data.get('version')!r}; {VERSION} is supported.")
        try:
            return cls(mappings=tuple(_mapping(item) for item in data["mappings"]))
        except (KeyError, TypeError) as problem:
            raise Mistake(f"The description of mappings cannot be read: {problem}.") from None


def _column(data: dict[str, Any]) -> Column:
    if data["type"] not in COLUMN_TYPES:
        raise Mistake(f"{data['type']!r} is not a type of column.")
    return Column(**data)


def _field(data: dict[str, Any]) -> Field:
    return Field(key=data["key"], column=_column(data["column"]))


def _mapping(data: dict[str, Any]) -> Mapping:
    return Mapping(
        **data
        | {
            "id": tuple(part if isinstance(part, str) else _column(part) for part in data["id"]),
            "joins": tuple(Join(**join | {"column": _column(join["column"])}) for join in data["joins"]),
            "dimension": data["dimension"] and _column(data["dimension"]),
            "model": data["model"] and _field(data["model"]),
            "metadata": tuple(_field(item) for item in data["metadata"]),
            "document": tuple(_column(item) for item in data["document"]),
            "parent": data["parent"] and Parent(**data["parent"] | {"column": _column(data["parent"]["column"])}),
            "changed": data["changed"] and _column(data["changed"]),
            "where": tuple((_column(column), value) for column, value in data["where"]),
        }
    )


_PATTERNS: dict[ColumnType, str] = {
    "integer": r"(0|-?[1-9][0-9]*)",
    "uuid": r"([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})",
}
_LARGEST = 1 << 63


def _parts(template: tuple[str | Column, ...], identifier: str) -> tuple[str | int, ...] | None:
    pattern = "".join(re.escape(part) if isinstance(part, str) else _PATTERNS.get(part.type, "(.*)") for part in template)
    match = re.fullmatch(pattern, identifier, re.DOTALL)
    if match is None:
        return None
    columns = [part for part in template if isinstance(part, Column)]
    values: list[str | int] = []
    for column, text in zip(columns, match.groups(), strict=True):
        if column.type == "integer":
            number = int(text) if len(text) < 21 else _LARGEST
            if not -_LARGEST <= number < _LARGEST:
                return None
            values.append(number)
        else:
            values.append(text.replace("-", "") if column.type == "uuid" else text)
    return tuple(values)


def scalar(value: object) -> Scalar:
    """*value* as JSON can hold it: bytes as hexadecimal digits."""
    return value.hex() if isinstance(value, bytes) else cast(Scalar, value)
