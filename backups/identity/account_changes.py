"""Who can sign in and what they may do, in two states of the application's database: now, and as a backup holds it.

A restore brings back what was taken away since: an account that was deleted, a right that was withdrawn, a password that was
changed because it had leaked. So what differs is named before a restore, and again in its report. Of a password only whether it
is another one is ever told; its hash stays in this process, and there only as a keyed fingerprint.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.core.exceptions import FieldDoesNotExist
from django.db import DatabaseError, connections, router

from .permissions import GROUPS

Query = Callable[[str], Iterable[Sequence[Any]]]
"""Runs an SQL statement without parameters and returns its rows."""

MOST_READ = 50_000
"""Where there are more accounts, only those with rights are compared."""

MOST_NAMED = 200
"""How many accounts of a kind are named; the others are counted."""

_KEY = secrets.token_bytes(32)
_FLAGS = {"is_superuser": "superuser", "is_staff": "staff", "is_active": "active"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account as a database holds it. ``password`` is a fingerprint that means something in this process alone."""

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
        """What a person is shown of it."""
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
    """All accounts of a state by name, and what each group may do. ``total`` counts those that were not read too."""

    total: int
    by_name: dict[str, Account]
    groups: dict[str, tuple[str, ...]]

    @property
    def whole(self) -> bool:
        return self.total == len(self.by_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """Tables and columns of the project's user model."""

    table: str
    key: str
    name: str
    columns: dict[str, str]
    groups: tuple[str, str, str] | None
    permissions: tuple[str, str, str] | None
    devices: tuple[str, ...]


def alias() -> str:
    """The database in which accounts live."""
    return router.db_for_read(get_user_model()) or "default"


def table() -> str:
    """The table of accounts."""
    return _layout().table


@cache
def _layout() -> _Layout:
    model = get_user_model()
    meta = model._meta
    columns = {}
    for name in (*_FLAGS, "password"):
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

    return _Layout(
        table=meta.db_table,
        key=str(meta.pk.column),
        name=str(meta.get_field(model.USERNAME_FIELD).column),  # type: ignore[union-attr]
        columns=columns,
        groups=through("groups"),
        permissions=through("user_permissions"),
        devices=_device_tables(),
    )


def _device_tables() -> tuple[str, ...]:
    """The tables of second factors, where django-otp is installed."""
    if not apps.is_installed("django_otp"):
        return ()
    from django_otp.models import Device

    return tuple(sorted(model._meta.db_table for model in apps.get_models() if issubclass(model, Device)))


def read(query: Query) -> Accounts | None:
    """The accounts of a database; None where it has no table of accounts that this project could read."""
    layout = _layout()
    present = _columns(query, layout.table)
    if not {layout.key, layout.name} <= present:
        return None
    total = int(next(iter(query(f"SELECT count(*) FROM {_q(layout.table)}")))[0])
    permissions = _permission_names(query)
    group_names = {str(key): str(name) for key, name in _rows(query, "auth_group", ("id", "name"))}
    groups = _many(query, layout.groups, group_names)
    own = _many(query, layout.permissions, permissions)
    devices = {
        str(owner)
        for device in layout.devices
        for owner, confirmed in _rows(query, device, ("user_id", "confirmed"))
        if confirmed
    }
    known = {name: column for name, column in layout.columns.items() if column in present}
    columns = [layout.key, layout.name, *known.values()]
    where = ""
    if total > MOST_READ:
        flags = [f"{_q(known[flag])} = 1" for flag in ("is_superuser", "is_staff") if flag in known]
        keys = ", ".join(str(int(key)) for key in {*groups, *own} if key.isdigit())
        where = " WHERE " + " OR ".join([*flags, f"{_q(layout.key)} IN ({keys})"])
    found = {}
    for key, name, *values in query(f"SELECT {', '.join(map(_q, columns))} FROM {_q(layout.table)}{where}"):
        facts = dict(zip(known, values, strict=True))
        number = str(key)
        found[str(name)] = Account(
            name=str(name),
            number=number,
            second_factor=number in devices,
            password=_fingerprint(facts.get("password")),
            groups=groups.get(number, ()),
            permissions=own.get(number, ()),
            **{_FLAGS[flag]: bool(facts[flag]) for flag in _FLAGS if flag in facts},
        )
    members = _many(query, ("auth_group_permissions", "group_id", "permission_id"), permissions)
    return Accounts(
        total=total,
        by_name=found,
        groups={name: members.get(key, ()) for key, name in group_names.items()},
    )


def now() -> Accounts | None:
    """The accounts of the live database, through a connection of its own that is closed again; None where it cannot be read.

    Its file may have been put in the place of another one since this process last looked.
    """
    connection = connections[alias()]
    connection.close()
    try:
        with connection.cursor() as cursor:

            def query(statement: str) -> Iterable[Sequence[Any]]:
                cursor.execute(statement)
                rows: list[tuple[Any, ...]] = cursor.fetchall()
                return rows

            return read(query) if connection.vendor == "sqlite" else None
    except DatabaseError:
        return None
    finally:
        connection.close()


def with_groups_made(after: Accounts | None, before: Accounts | None) -> Accounts | None:
    """*after* with the groups of `access` as they are made anew after a restore, with the rights that there are *before*."""
    if after is None or before is None:
        return after
    groups = dict(after.groups)
    for name, wanted in GROUPS.items():
        if name in before.groups:
            groups[name] = tuple(sorted({*groups.get(name, ()), *(set(wanted) & set(before.groups[name]))}))
    return replace(after, groups=groups)


def compare(before: Accounts | None, after: Accounts | None) -> dict[str, Any]:
    """What a change from *before* to *after* brings back and takes away, as JSON: what gives access comes first.

    ::

        {"before": n, "after": n, "whole": bool,
         "appear": [account...], "vanish": [account...],
         "change": [{"name", "gives", "changes": [{"what", "before", "after", "gives"}]}],
         "groups": [{"name", "appears", "vanishes", "gains": [...], "loses": [...]}],
         "counts": {"appear", "vanish", "change", "groups", "gives", "gives_groups"}}

    ``gives`` says that somebody can do afterwards what they cannot do now. Unknown states count as empty.
    """
    nobody = Accounts(total=0, by_name={}, groups={})
    old, new = before or nobody, after or nobody
    appear = [account.as_json() for name, account in new.by_name.items() if name not in old.by_name]
    vanish = [account.as_json() for name, account in old.by_name.items() if name not in new.by_name]
    change = []
    for name in old.by_name.keys() & new.by_name.keys():
        changes = _changes(old.by_name[name], new.by_name[name])
        if changes:
            change.append({"name": name, "gives": any(one["gives"] for one in changes), "changes": changes})
    groups = _group_changes(old.groups, new.groups)
    gives = sum(bool(account["can_sign_in"]) for account in appear) + sum(bool(one["gives"]) for one in change)
    gives_groups = sum(bool(one["gains"]) and not one["appears"] for one in groups)
    counts = {"appear": len(appear), "vanish": len(vanish), "change": len(change), "groups": len(groups)}
    counts |= {"gives": gives, "gives_groups": gives_groups}
    return {
        "before": old.total if before else None,
        "after": new.total if after else None,
        "whole": old.whole and new.whole,
        "appear": sorted(appear, key=_rank)[:MOST_NAMED],
        "vanish": sorted(vanish, key=_rank)[:MOST_NAMED],
        "change": sorted(change, key=lambda one: (not one["gives"], one["name"]))[:MOST_NAMED],
        "groups": groups[:MOST_NAMED],
        "counts": counts,
    }


def _rank(account: dict[str, Any]) -> tuple[Any, ...]:
    rights = account["superuser"], account["staff"], bool(account["permissions"] or account["groups"])
    return (*(not right for right in rights), account["name"])


def _changes(old: Account, new: Account) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = []
    for flag in _FLAGS.values():
        was, is_ = getattr(old, flag), getattr(new, flag)
        if was != is_:
            changes.append({"what": flag, "before": was, "after": is_, "gives": is_})
    if old.password != new.password:
        changes.append(
            {"what": "password", "before": bool(old.password), "after": bool(new.password), "gives": bool(new.password)}
        )
    if old.second_factor != new.second_factor:  # without it the password alone is enough again
        was, is_ = old.second_factor, new.second_factor
        changes.append({"what": "second_factor", "before": was, "after": is_, "gives": not is_})
    for what in ("groups", "permissions"):
        lost, gained = set(getattr(old, what)) - set(getattr(new, what)), set(getattr(new, what)) - set(getattr(old, what))
        if lost or gained:
            changes.append({"what": what, "before": sorted(lost), "after": sorted(gained), "gives": bool(gained)})
    if old.number != new.number:
        changes.append({"what": "number", "before": old.number, "after": new.number, "gives": False})
    return changes


def _group_changes(old: dict[str, tuple[str, ...]], new: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in sorted(old.keys() | new.keys()):
        was, is_ = set(old.get(name, ())), set(new.get(name, ()))
        if was != is_ or (name in old) != (name in new):
            found.append(
                {
                    "name": name,
                    "appears": name not in old,
                    "vanishes": name not in new,
                    "gains": sorted(is_ - was),
                    "loses": sorted(was - is_),
                }
            )
    return found


def _permission_names(query: Query) -> dict[str, str]:
    """Permissions by key, as code writes them: ``app.codename``."""
    labels = {str(key): str(app) for key, app in _rows(query, "django_content_type", ("id", "app_label"))}
    listed = _rows(query, "auth_permission", ("id", "content_type_id", "codename"))
    return {str(key): f"{labels.get(str(kind), '?')}.{codename}" for key, kind, codename in listed}


def _many(query: Query, through: tuple[str, str, str] | None, names: dict[str, str]) -> dict[str, tuple[str, ...]]:
    """Of each owner the names of what it is linked to."""
    found: dict[str, list[str]] = {}
    if through is not None:
        for owner, other in _rows(query, through[0], through[1:]):
            found.setdefault(str(owner), []).append(names.get(str(other), f"number {other}"))
    return {owner: tuple(sorted(linked)) for owner, linked in found.items()}


def _rows(query: Query, name: str, columns: tuple[str, ...]) -> Iterable[Sequence[Any]]:
    """Rows of a table; none where it, or a column, is not there."""
    if not set(columns) <= _columns(query, name):
        return ()
    return query(f"SELECT {', '.join(map(_q, columns))} FROM {_q(name)}")


def _columns(query: Query, name: str) -> set[str]:
    literal = name.replace("'", "''")
    return {str(row[0]) for row in query(f"SELECT name FROM pragma_table_info('{literal}')")}


def _fingerprint(hashed: Any) -> str:
    """A keyed hash of a password's hash; empty for none that anybody could sign in with."""
    if not hashed or str(hashed).startswith(UNUSABLE_PASSWORD_PREFIX):
        return ""
    return hashlib.blake2b(str(hashed).encode("utf-8", "surrogatepass"), key=_KEY, digest_size=16).hexdigest()


def _q(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
