"""The accounts, groups and permissions in a copy of the application's database, read with plain SQL.

The copy may be the live database, or a file that a backup holds: it may be damaged, or lack tables and columns. An `Account`
has a fingerprint of its password's hash, keyed with ``SECRET_KEY``. Hashes themselves are only in `read_live_passwords`.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Self, TypeVar

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import DatabaseError, connections, router
from django.utils.crypto import salted_hmac
from pydantic import TypeAdapter

from backups.engine.runtime.sqlite import quoted

T = TypeVar("T")

Query = Callable[[str], Iterable[Sequence[Any]]]
"""Runs an SQL statement without parameters and returns its rows."""

_TRIES = 3
_KEY = re.compile(r"[0-9A-Za-z_-]{1,64}")
"""A number, or a UUID as SQLite holds it."""

MOST_READ = 50_000
"""Of more accounts than this, only those with rights are read."""

FLAGS = {"is_superuser": "superuser", "is_staff": "staff", "is_active": "active"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account. ``password`` is a fingerprint, equal for equal hashes; it is empty when no password can sign in."""

    name: str
    number: str
    superuser: bool = False
    staff: bool = False
    active: bool = True
    second_factor: bool = False
    password: str = field(default="", repr=False)
    groups: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The parts that are shown to people."""
        return {
            "name": self.name,
            "superuser": self.superuser,
            "staff": self.staff,
            "active": self.active,
            "can_sign_in": self.active and bool(self.password),
            "second_factor": self.second_factor,
            "groups": list(self.groups),
            "permissions": list(self.permissions),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """Accounts by name, and the permissions of each group. ``total`` also counts accounts that were not read."""

    total: int
    by_name: dict[str, Account]
    groups: dict[str, tuple[str, ...]]

    @property
    def whole(self) -> bool:
        """Whether every account was read."""
        return self.total == len(self.by_name)

    def dump(self) -> dict[str, Any]:
        """Everything as JSON, fingerprints included, for `load`."""
        return asdict(self)

    @classmethod
    def load(cls, dumped: dict[str, Any]) -> Self:
        """The accounts that `dump` returned. Raises ``ValueError`` for anything else."""
        return TypeAdapter(cls).validate_python(dumped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Tables and columns of the project's user model. ``columns`` has those of `FLAGS` and ``password`` that the model has."""

    table: str
    key: str
    name: str
    columns: dict[str, str]
    groups: tuple[str, str, str] | None
    permissions: tuple[str, str, str] | None
    devices: tuple[str, ...]


def alias() -> str:
    """The alias of the database that holds the accounts."""
    return router.db_for_read(get_user_model()) or "default"


def table() -> str:
    """The name of the table of accounts."""
    return layout().table


@cache
def layout() -> Layout:
    """The layout of the project's user model."""
    model = get_user_model()
    meta = model._meta
    columns = {}
    for name in (*FLAGS, "password"):
        try:
            columns[name] = str(meta.get_field(name).column)  # type: ignore[union-attr]
        except FieldDoesNotExist:
            continue

    def through(name: str) -> tuple[str, str, str] | None:
        try:
            many: Any = meta.get_field(name)
        except FieldDoesNotExist:
            return None
        return many.m2m_db_table(), many.m2m_column_name(), many.m2m_reverse_name()

    return Layout(
        table=meta.db_table,
        key=str(meta.pk.column),
        name=str(meta.get_field(model.USERNAME_FIELD).column),  # type: ignore[union-attr]
        columns=columns,
        groups=through("groups"),
        permissions=through("user_permissions"),
        devices=_device_tables(),
    )


def _device_tables() -> tuple[str, ...]:
    if not apps.is_installed("django_otp"):
        return ()
    from django_otp.models import Device

    return tuple(sorted(model._meta.db_table for model in apps.get_models() if issubclass(model, Device)))


def read(query: Query) -> Accounts | None:
    """The accounts of a database; None when it has no table of accounts that fits the user model."""
    shape = layout()
    present = _columns(query, shape.table)
    if not {shape.key, shape.name} <= present:
        return None
    total = int(next(iter(query(f"SELECT count(*) FROM {quoted(shape.table)}")))[0])
    permissions = _permission_names(query)
    group_names = {str(key): str(name) for key, name in _rows(query, "auth_group", ("id", "name"))}
    groups = _many(query, shape.groups, group_names)
    own = _many(query, shape.permissions, permissions)
    devices = {
        str(owner)
        for device in shape.devices
        for owner, confirmed in _rows(query, device, ("user_id", "confirmed"))
        if confirmed
    }
    known = {name: column for name, column in shape.columns.items() if column in present}
    columns = [shape.key, shape.name, *known.values()]
    where = ""
    if total > MOST_READ:
        flags = [f"{quoted(known[flag])} = 1" for flag in ("is_superuser", "is_staff") if flag in known]
        keys = ", ".join(f"'{key}'" for key in {*groups, *own} if _KEY.fullmatch(key))
        where = " WHERE " + " OR ".join([*flags, f"{quoted(shape.key)} IN ({keys})"])
    found = {}
    for key, name, *values in query(f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(shape.table)}{where}"):
        row = dict(zip(known, values, strict=True))
        number = str(key)
        found[str(name)] = Account(
            name=str(name),
            number=_as_in_python(key),
            second_factor=number in devices,
            password=_fingerprint(row.get("password")),
            groups=groups.get(number, ()),
            permissions=own.get(number, ()),
            **{FLAGS[flag]: bool(row[flag]) for flag in FLAGS if flag in row},
        )
    members = _many(query, ("auth_group_permissions", "group_id", "permission_id"), permissions)
    return Accounts(
        total=total,
        by_name=found,
        groups={name: members.get(key, ()) for key, name in group_names.items()},
    )


def read_live() -> Accounts | None:
    """The accounts of the live database; None when it cannot be read.

    Opens a new connection and closes it: a restore may have replaced the file under an open one.
    """
    return _read_live(read)


def read_surely() -> Accounts | None:
    """`read_live` for who must know: None only when there is no table of accounts. Waits for locks a while.

    Raises ``DatabaseError`` when the database cannot be read.
    """
    for _ in range(_TRIES - 1):
        with contextlib.suppress(DatabaseError):
            return _reading(read)
        time.sleep(1)
    return _reading(read)


def read_live_passwords() -> dict[str, str]:
    """The hashes of the usable passwords of the live accounts, by name; see `read_live`."""

    def passwords(query: Query) -> dict[str, str]:
        shape = layout()
        rows = _rows(query, shape.table, (shape.name, shape.columns.get("password", "")))
        return {str(name): str(hashed) for name, hashed in rows if _fingerprint(hashed)}

    return _read_live(passwords) or {}


def _read_live(reader: Callable[[Query], T]) -> T | None:
    try:
        return _reading(reader)
    except DatabaseError:
        return None


def _reading(reader: Callable[[Query], T]) -> T | None:
    connection = connections[alias()]
    connection.close()
    try:
        with connection.cursor() as cursor:
            if connection.vendor == "sqlite":  # one name that is not text must not hide all others
                connection.connection.text_factory = text_of

            def query(statement: str) -> Iterable[Sequence[Any]]:
                cursor.execute(statement)
                rows: list[tuple[Any, ...]] = cursor.fetchall()
                return rows

            return reader(query) if connection.vendor == "sqlite" else None
    finally:
        connection.close()


def text_of(value: bytes) -> str:
    """Text of a database, also where it is not UTF-8, for ``text_factory``."""
    return value.decode("utf-8", "backslashreplace")


def _as_in_python(key: Any) -> str:
    """A primary key as the model's instances have it: SQLite holds a UUID without its dashes."""
    try:
        return str(get_user_model()._meta.pk.to_python(key))
    except ValidationError:
        return str(key)


def _permission_names(query: Query) -> dict[str, str]:
    labels = {str(key): str(app) for key, app in _rows(query, "django_content_type", ("id", "app_label"))}
    listed = _rows(query, "auth_permission", ("id", "content_type_id", "codename"))
    return {str(key): f"{labels.get(str(kind), '?')}.{codename}" for key, kind, codename in listed}


def _many(query: Query, through: tuple[str, str, str] | None, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    if through is not None:
        for owner, other in _rows(query, through[0], through[1:]):
            found.setdefault(str(owner), []).append(names.get(str(other), f"number {other}"))
    return {owner: tuple(sorted(linked)) for owner, linked in found.items()}


def _rows(query: Query, name: str, columns: tuple[str, ...]) -> Iterable[Sequence[Any]]:
    """Rows of a table; none when the table or a column does not exist."""
    if not set(columns) <= _columns(query, name):
        return ()
    return query(f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(name)}")


def _columns(query: Query, name: str) -> set[str]:
    literal = name.replace("'", "''")
    return {str(row[0]) for row in query(f"SELECT name FROM pragma_table_info('{literal}')")}


def _fingerprint(hashed: Any) -> str:
    if not hashed or str(hashed).startswith(UNUSABLE_PASSWORD_PREFIX):
        return ""
    return salted_hmac(__name__, str(hashed).encode("utf-8", "surrogatepass"), algorithm="sha256").hexdigest()[:32]
