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

`consistency.resolution` turns it into tables and columns; the check itself needs neither Django's models nor its connections.
"""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

from consistency.engine.errors import Mistake
from consistency.engine.mapping import Scalar

SETTING = "CONSISTENCY"
DEFAULTS: dict[str, Any] = {
    "DECLARATION": None,
    "SETTLE_SECONDS": 1.0,
    "LISTED": 10_000,
    "BEFORE_REPAIR": "",
    "BACKUPS": "",
    "FRAME": "",
}
"""Members of the setting and their defaults:

- ``DECLARATION``: dotted path of a `Declaration`.
- ``SETTLE_SECONDS``: seconds between two reads of live stores.
- ``LISTED``: how many findings of each kind a check keeps; counts are exact in any case.
- ``BEFORE_REPAIR``: dotted path of a function that makes a backup before a repair, for a declaration without ``snapshot``.
- ``BACKUPS``: dotted path of a function that, given a SQLite file, yields the id of each backup that holds it, newest first,
  and the path of a copy from it, which lasts until the next one. Lost rows are restored from it.
- ``FRAME``: dotted path of a `consistency.frame.Frame`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorRecord:
    """One record to write into Chroma. *vector* is float32, little-endian."""

    id: str
    vector: bytes
    document: str | None
    metadata: Mapping[str, Any]


class Writer(Protocol):
    """How the project writes to its stores; repairs use it."""

    def changing(self) -> AbstractContextManager[Any]:
        """Keep all other writers of both stores out, in a transaction of the database that commits at the end."""
        ...

    def apply(self, collection: str, *, delete: Sequence[str], write: Sequence[VectorRecord]) -> None:
        """Delete, then add or replace. Called inside `changing`."""
        ...


@runtime_checkable
class Rebuilder(Protocol):
    """What a `Writer` can also do, so that a broken index can be rebuilt."""

    def changing(self) -> AbstractContextManager[Any]:
        """As that of `Writer`."""
        ...

    def recreate(self, collection: str) -> None:
        """Put an empty collection with the same settings and metadata in the place of *collection*. Called inside `changing`.

        It is called again after a crash in its middle, and then completes what it began.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """The rows of *model* that *collection* mirrors. Paths are field names, through foreign keys with ``__``.

    - *id*: the record's id, with field names in braces.
    - *vector*: a binary field. *dimension* and *embedding_model* are fields that describe it; *model_key* is the metadata key
      under which Chroma repeats the latter.
    - *metadata*: Chroma's keys, each with the path of the field that it repeats.
    - *document*: paths of the fields that make up the document, joined by *separator*, empty ones left out.
    - *parent*: the foreign key to what a row belongs to, and *parent_key*, the metadata key that repeats it.
    - *changed*: the path of a time of the last change; for *grace* seconds after it, a vector may be in flight.
    - *where*: values that a row must have to be mirrored.
    - *tolerance*: how far two vectors may be apart, as a share of the row's length; by default they must be equal bit for bit.
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
    """Everything that a project declares.

    - *chroma*: returns where Chroma is: a directory, or the address of a server (``http://host:port``). Called each time.
    - *writer*: makes a `Writer`; without one, nothing can be repaired.
    - *under_way*: returns the ids of a mirror whose change was interrupted and that the application itself will correct.
    - *snapshot*: makes a backup before a repair, from a reason, and returns its id.
    """

    mirrors: tuple[Mirror, ...]
    chroma: Callable[[], Path | str]
    writer: Callable[[], Writer] | None = None
    under_way: Callable[[str], Collection[str]] | None = None
    snapshot: Callable[[str], str] | None = None


def option(key: str) -> Any:
    """A member of the setting ``CONSISTENCY``, or what an installed app adds (``adds_to_consistency``), or its default."""
    given = getattr(settings, SETTING, None) or {}
    added = (getattr(app, "adds_to_consistency", {}) for app in apps.get_app_configs())
    return given.get(key, next((values[key] for values in added if key in values), DEFAULTS[key]))


def declared() -> Declaration:
    """The project's declaration. Raises `Mistake` if there is none."""
    path = option("DECLARATION")
    if not path:
        raise Mistake('No mapping is declared: the setting CONSISTENCY has no "DECLARATION".')
    try:
        declaration = import_string(path)
    except ImportError as problem:
        raise Mistake(f"The declaration {path} cannot be imported: {problem}.") from None
    if not isinstance(declaration, Declaration):
        raise Mistake(f"{path} is not a consistency.declaration.Declaration.")
    return declaration


def snapshot_maker() -> Callable[[str], str] | None:
    """The function that makes a backup before a repair, from a reason, and returns its id. Raises `Mistake`."""
    if (snapshot := declared().snapshot) is not None:
        return snapshot
    make: Callable[[str], str] | None = _imported("BEFORE_REPAIR")
    return make


def backup_databases() -> Callable[[Path], Generator[tuple[str, Path | None], None, None]] | None:
    """The function that ``BACKUPS`` names, whose path is None for a damaged backup; None without one. Raises `Mistake`."""
    copies: Callable[[Path], Generator[tuple[str, Path | None], None, None]] | None = _imported("BACKUPS")
    return copies


def _imported(key: str) -> Any:
    """What the dotted path of a member of the setting names; None if it is empty. Raises `Mistake`."""
    path = option(key)
    try:
        return import_string(path) if path else None
    except ImportError as problem:
        raise Mistake(f'CONSISTENCY["{key}"], {path}, cannot be imported: {problem}.') from None
