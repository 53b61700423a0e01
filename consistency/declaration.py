"""What a project declares: which rows are mirrored in which collection, where Chroma is, and how it is written to.

The setting ``CONSISTENCY`` names a `Declaration`::

    CONSISTENCY = {"DECLARATION": "library.consistency.DECLARATION"}

    DECLARATION = Declaration(
        mirrors=(
            Mirror(
                name="pages",
                model="library.PageEmbedding",
                collection="pages",
                id="page-{pk}",
                vector="vector",
                dimension="dimension",
                embedding_model="model",
                metadata={"title": "paper__title", "page": "page"},
                document=("text",),
                parent="paper",
                parent_key="paper_id",
            ),
        ),
        chroma=lambda: Path(settings.CHROMA_PATH),
        writer=Writing,
    )

`describe` turns it into tables and columns once; from there on nothing needs Django's models or connections.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from django.apps import apps
from django.conf import settings
from django.core.exceptions import FieldDoesNotExist
from django.db import connections, models, router
from django.utils.module_loading import import_string

from consistency.engine.check import Stores
from consistency.engine.context import Context
from consistency.engine.errors import Mistake
from consistency.engine.mapping import Column, ColumnType, Description, Field, Join, Parent, Scalar
from consistency.engine.mapping import Mapping as Described

SETTING = "CONSISTENCY"
DEFAULTS: dict[str, Any] = {"DECLARATION": None, "SETTLE_SECONDS": 1.0, "LISTED": 10_000, "BEFORE_REPAIR": "", "FRAME": ""}
"""Members of the setting: the dotted path of a `Declaration`; the seconds between two looks at live stores; how many findings
of each kind a check keeps, counts being exact whatever is kept; dotted paths of a function that makes a backup before a repair
(`Declaration.snapshot`, for a declaration that has none), and of a `consistency.frame.Frame` for the pages."""

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
class VectorRecord:
    """One record as it is to be in Chroma. *vector* is float32, little-endian."""

    id: str
    vector: bytes
    document: str | None
    metadata: Mapping[str, Any]


class Writer(Protocol):
    """How the project writes to its stores; repairs go through it."""

    def changing(self) -> AbstractContextManager[Any]:
        """Keep all other writers of both stores out, in a transaction of the database that ends with a commit."""
        ...

    def apply(self, collection: str, *, delete: Sequence[str], write: Sequence[VectorRecord]) -> None:
        """Delete, then add or replace. Called inside `changing`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """The rows of *model* that *collection* mirrors. Paths are field names, through foreign keys with ``__``.

    - *id*: the record's id, with field names in braces.
    - *vector*: a binary field; *dimension* and *embedding_model* are fields that say more of it, *model_key* is where Chroma's
      metadata repeats the latter.
    - *metadata*: Chroma's keys, each with the path of the field that it repeats.
    - *document*: paths of the fields that make up the document, joined by *separator*, empty ones left out.
    - *parent*: the foreign key to what a row belongs to, and *parent_key*, Chroma's key that repeats it.
    - *changed*: the path of a time of the last change; for *grace* seconds after it, a vector may still be on its way.
    - *where*: values that rows must have to be mirrored.
    - *tolerance*: how far two vectors may be apart, as a share of the row's length; by default not one bit.
    """

    name: str
    model: str
    collection: str
    id: str
    vector: str = "vector"
    dimension: str | None = None
    embedding_model: str | None = None
    model_key: str = "model"
    metadata: Mapping[str, str] = field(default_factory=dict)
    document: Sequence[str] = ()
    separator: str = "\n\n"
    parent: str | None = None
    parent_key: str = ""
    changed: str | None = None
    grace: float = 5.0
    where: Mapping[str, Scalar] = field(default_factory=dict)
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """All that a project says.

    - *chroma*: where Chroma is, asked each time: a directory, or the address of a server elsewhere (``http://host:port``).
    - *writer*: makes a `Writer`; without one, nothing is repaired.
    - *under_way*: the ids of a mirror whose change was cut short and will be put right by the application itself.
    - *snapshot*: makes a backup before a repair, from a reason, and returns its id.
    """

    mirrors: tuple[Mirror, ...]
    chroma: Callable[[], Path | str]
    writer: Callable[[], Writer] | None = None
    under_way: Callable[[str], Collection[str]] | None = None
    snapshot: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong with a declaration; *code* is the system check's."""

    code: str
    message: str
    hint: str


def option(key: str) -> Any:
    """A member of the setting ``CONSISTENCY``, or its default."""
    return (getattr(settings, SETTING, None) or {}).get(key, DEFAULTS[key])


def declared() -> Declaration:
    """The project's declaration. Raises `Mistake` when there is none."""
    path = option("DECLARATION")
    if not path:
        raise Mistake('No mapping is declared: the setting CONSISTENCY has no "DECLARATION".')
    try:
        found = import_string(path)
    except ImportError as problem:
        raise Mistake(f"The declaration {path} cannot be imported: {problem}.") from None
    if not isinstance(found, Declaration):
        raise Mistake(f"{path} is no consistency.declaration.Declaration.")
    return found


def taker() -> Callable[[str], str] | None:
    """What makes a backup before a repair, from a reason, and returns its id. Raises `Mistake`."""
    if (own := declared().snapshot) is not None:
        return own
    path = option("BEFORE_REPAIR")
    try:
        found: Callable[[str], str] | None = import_string(path) if path else None
    except ImportError as problem:
        raise Mistake(f'CONSISTENCY["BEFORE_REPAIR"], {path}, cannot be imported: {problem}.') from None
    return found


def description() -> Description:
    """The project's mappings as tables and columns. Raises `Mistake` with the first problem."""
    found, problems = describe(declared())
    if problems:
        raise Mistake(problems[0].message, hint=problems[0].hint)
    return found


@contextmanager
def live_stores(ctx: Context | None = None, *, whole: bool = True) -> Iterator[Stores]:
    """The stores that the project works with now. Of a server elsewhere all is fetched, or with *whole* false nothing yet.

    Raises `Mistake` and `StoreUnreadable`.
    """
    declaration = declared()
    place = declaration.chroma()
    stores = Stores(
        sqlite={file.stem: file for file in database_files()},
        chroma={},
        at_rest=False,
        settle=option("SETTLE_SECONDS"),
        under_way=declaration.under_way,
    )
    if isinstance(place, Path):
        yield replace(stores, chroma={place.name: place})
        return
    from consistency.remote import mirrored

    collections = {mirror.collection for mirror in declaration.mirrors}
    with mirrored(place, collections, ctx or Context(), whole=whole) as remote:
        yield replace(stores, chroma={SERVER: remote.directory}, renew=remote.renew)


def database_files() -> list[Path]:
    """The SQLite files that the mirrors' models are kept in."""
    aliases = sorted({_alias(apps.get_model(mirror.model)) for mirror in declared().mirrors})
    return [Path(connections[alias].settings_dict["NAME"]) for alias in aliases]


def alias_of(mapping: str) -> str:
    """The database alias of a mirror's model."""
    return next(_alias(apps.get_model(mirror.model)) for mirror in declared().mirrors if mirror.name == mapping)


def describe(declaration: Declaration) -> tuple[Description, list[Problem]]:
    """Tables and columns for *declaration*, and all that is wrong with it; mirrors with problems are left out."""
    problems: list[Problem] = []
    mappings = []
    place = declaration.chroma()
    for mirror in declaration.mirrors:
        resolved = _Resolver(mirror, place.name if isinstance(place, Path) else SERVER)
        mapping = resolved.mapping()
        problems += resolved.problems
        if mapping is not None and not resolved.problems:
            mappings.append(mapping)
    names = [mirror.name for mirror in declaration.mirrors]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem(code="E006", message=f"Two mirrors are named {name!r}.", hint="Give each a name of its own."))
    collections = [mirror.collection for mirror in declaration.mirrors]
    for name in sorted({name for name in collections if collections.count(name) > 1}):
        problems.append(
            Problem(
                code="E007",
                message=f"Two mirrors use the collection {name!r}; each would find the other's records without rows.",
                hint="Keep each model in a collection of its own.",
            )
        )
    return Description(mappings=tuple(mappings)), problems


def _alias(model: type[models.Model]) -> str:
    return router.db_for_read(model) or "default"


class _Resolver:
    """Finds tables and columns of one mirror, and notes what cannot be found."""

    def __init__(self, mirror: Mirror, chroma: str) -> None:
        self.problems: list[Problem] = []
        self._mirror = mirror
        self._chroma = chroma
        self._joins: list[Join] = []
        self._numbers: dict[tuple[str, ...], int] = {}
        self._model: type[models.Model] | None = None

    def mapping(self) -> Described | None:
        mirror = self._mirror
        try:
            model = self._model = apps.get_model(mirror.model)
        except (LookupError, ValueError):
            self._problem("E002", f"there is no model {mirror.model!r}", "Write it as app_label.ModelName.")
            return None
        connection = connections[_alias(model)]
        if connection.vendor != "sqlite":
            self._problem("E003", f"{mirror.model} is kept in {connection.vendor}", "Only SQLite can be compared.")
            return None
        vector = self._field(model, mirror.vector)
        if vector is not None and vector.get_internal_type() != "BinaryField":
            self._problem("E005", f"the vector {mirror.vector!r} is no BinaryField", "Name the field with the float32 values.")
        return Described(
            name=mirror.name,
            sqlite=Path(str(connection.settings_dict["NAME"])).stem,
            chroma=self._chroma,
            collection=mirror.collection,
            table=model._meta.db_table,
            id=self._id(),
            vector=str(vector.column) if vector is not None else "",
            dimension=self._column(mirror.dimension) if mirror.dimension else None,
            model=self._repeated(mirror.model_key, mirror.embedding_model) if mirror.embedding_model else None,
            metadata=tuple(found for key, path in mirror.metadata.items() if (found := self._repeated(key, path)) is not None),
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
            hint = "Make ids of whole numbers, UUIDs, and one text at most."
            self._problem("E008", f"the id {self._mirror.id!r} cannot be taken apart again", hint)
        return tuple(parts)

    def _repeated(self, key: str, path: str) -> Field | None:
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
            self._problem("E005", f"the parent {path!r} is no foreign key", "Name the field that refers to the parent.")
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
        """The column at the end of *path*, with the joins that lead there."""
        model, table, walked = self._model, 0, tuple[str, ...]()
        assert model is not None
        *steps, last = path.split("__")
        for step in steps:
            key = self._field(model, step)
            if key is None:
                return None
            if not isinstance(key, models.ForeignKey):
                self._problem("E004", f"{step!r} of {path!r} is no foreign key", "Go through foreign keys only.")
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
