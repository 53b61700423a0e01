"""Takes from restored accounts what they had lost before the restore: a restore brings back data, and grants nobody access.

An account that was removed or disabled stays disabled. Flags, memberships and permissions that were withdrawn, from groups too,
stay withdrawn. A password that was changed stays changed; where its hash is lost too, no password signs in until a new one is
set. Accounts that were never observed, as on a new machine, are as the backup has them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from django.contrib.auth.hashers import make_password
from django.db import connections, transaction

from backups.engine.runtime.sqlite import quoted

from .accounts import FLAGS, Account, Accounts, alias, layout
from .known_accounts import Known

Passwords = Mapping[str, str]
"""The hashes of the present passwords, by the names of the accounts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Withheld:
    """What an account had in a backup and does not get.

    ``flags`` are among active, staff and superuser. ``password`` is ``kept`` for the present one in place of the backup's, and
    ``none`` when the present one is lost.
    """

    name: str
    removed: bool = False
    flags: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    password: Literal["", "kept", "none"] = ""

    def in_words(self, *, done: bool = True) -> str:
        """What was withheld, or with ``done=False`` what it has, without the name of the account."""
        said = ["it had been removed, and is disabled" if done else "it had been removed"] if self.removed else []
        said += [f"{'not ' if done else ''}{flag}" for flag in self.flags if not self.removed]
        said += [f"not in {', '.join(self.groups)}" if done else f"in {', '.join(self.groups)}"] if self.groups else []
        said += [f"{'may not' if done else 'may'} {', '.join(self.permissions)}"] if self.permissions else []
        if self.password and not self.removed:
            kept = "the password is the present one" if self.password == "kept" else "it needs a new password"  # noqa: S105 - no password
            said.append(kept if done else "the old password is valid")
        return "; ".join(said)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def withheld(known: Known, restored: Accounts, passwords: Passwords) -> tuple[Withheld, ...]:
    """What the accounts that a backup restored, or would restore, may not have."""
    found = (_of_account(known[name], now, passwords) for name, now in restored.by_name.items() if name in known)
    return tuple(one for one in found if one is not None)


def without(
    restored: Accounts, taken: tuple[Withheld, ...], known: Known, from_groups: Mapping[str, tuple[str, ...]]
) -> Accounts:
    """The accounts after `take_away` and `take_from_groups`."""
    changed = dict(restored.by_name)
    for one in taken:
        now, before = changed[one.name], known[one.name]
        kept = before.password if one.password == "kept" and before is not None else ""  # noqa: S105 - no password
        changed[one.name] = replace(
            now,
            active=now.active and "active" not in one.flags,
            staff=now.staff and "staff" not in one.flags,
            superuser=now.superuser and "superuser" not in one.flags,
            groups=tuple(name for name in now.groups if name not in one.groups),
            permissions=tuple(name for name in now.permissions if name not in one.permissions),
            password=kept if one.password else now.password,
        )
    groups = {
        name: tuple(one for one in permissions if one not in from_groups.get(name, ()))
        for name, permissions in restored.groups.items()
    }
    return replace(restored, by_name=changed, groups=groups)


def withheld_from_groups(before: Accounts | None, restored: Accounts) -> dict[str, tuple[str, ...]]:
    """The permissions of restored groups that these did not have *before*; none where that is not known."""
    present = before.groups if before is not None else {}
    gained = {
        name: tuple(one for one in permissions if one not in present[name])
        for name, permissions in restored.groups.items()
        if name in present
    }
    return {name: permissions for name, permissions in gained.items() if permissions}


def take_from_groups(taken: Mapping[str, tuple[str, ...]]) -> None:
    """Write `withheld_from_groups` into the accounts' database, in one transaction. Raises ``DatabaseError``."""
    if not taken:
        return
    with transaction.atomic(using=alias()), connections[alias()].cursor() as cursor:
        for name, permissions in taken.items():
            cursor.execute(
                "DELETE FROM auth_group_permissions WHERE group_id IN (SELECT id FROM auth_group WHERE name = %s)"
                f" AND permission_id IN ({_permission_ids(permissions)})",
                [name, *permissions],
            )


def _group_ids(names: tuple[str, ...]) -> str:
    return f"SELECT id FROM auth_group WHERE name IN ({', '.join(['%s'] * len(names))})"


def _permission_ids(permissions: tuple[str, ...]) -> str:
    return (
        "SELECT p.id FROM auth_permission p JOIN django_content_type t ON t.id = p.content_type_id"
        f" WHERE t.app_label || '.' || p.codename IN ({', '.join(['%s'] * len(permissions))})"
    )


def take_away(taken: tuple[Withheld, ...], passwords: Passwords) -> None:
    """Write it into the accounts' database, in one transaction. Raises ``DatabaseError``.

    It is plain SQL, since the restored tables may be of another version of the application than its models.
    """
    if not taken:
        return
    shape = layout()
    database = alias()
    with transaction.atomic(using=database), connections[database].cursor() as cursor:
        for one in taken:
            values: dict[str, Any] = {shape.columns[flag]: False for flag, name in FLAGS.items() if name in one.flags}
            if one.password:
                values[shape.columns["password"]] = passwords[one.name] if one.password == "kept" else make_password(None)  # noqa: S105 - no password
            if values:
                cursor.execute(
                    f"UPDATE {quoted(shape.table)} SET {', '.join(f'{quoted(column)} = %s' for column in values)}"
                    f" WHERE {quoted(shape.name)} = %s",
                    [*values.values(), one.name],
                )
            for through, names, ids in (
                (shape.groups, one.groups, _group_ids(one.groups)),
                (shape.permissions, one.permissions, _permission_ids(one.permissions)),
            ):
                if names and through:
                    table, owner, other = map(quoted, through)
                    own = f"SELECT {quoted(shape.key)} FROM {quoted(shape.table)} WHERE {quoted(shape.name)} = %s"
                    cursor.execute(f"DELETE FROM {table} WHERE {owner} IN ({own}) AND {other} IN ({ids})", [one.name, *names])


def _of_account(known: Account | None, now: Account, passwords: Passwords) -> Withheld | None:
    if known is None:
        if "is_active" in layout().columns:
            return Withheld(name=now.name, removed=True, flags=("active",)) if now.active else None
        return Withheld(name=now.name, removed=True, password="none") if now.password else None  # noqa: S106 - no password
    password: Literal["", "kept", "none"] = ""
    if now.password and now.password != known.password:
        password = "kept" if passwords.get(now.name) and known.password else "none"
    found = Withheld(
        name=now.name,
        flags=tuple(flag for flag in FLAGS.values() if getattr(now, flag) and not getattr(known, flag)),
        groups=tuple(name for name in now.groups if name not in known.groups),
        permissions=tuple(name for name in now.permissions if name not in known.permissions),
        password=password,
    )
    return found if found != Withheld(name=now.name) else None
