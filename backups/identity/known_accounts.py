"""What the control database knows of the accounts, whose own database a restore rolls back.

Accounts are observed every ten minutes, after each backup and before each restore. A restored backup then gives no account what
it had lost since (`withholding`), and tokens end with their account, even when another gets its name and primary key.
"""

import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractUser
from django.db import DatabaseError, transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver
from pydantic import TypeAdapter, ValidationError

from backups import moments
from backups.conf import configuration
from backups.models import ApiToken, KnownAccount

from .accounts import Account, Accounts

Known = dict[str, Account | None]
"""Accounts by name as they were last seen; None for a removed one."""

FEW = 3
"""So many missing accounts are always removed ones. More may be a loss of data: see `_are_removed`."""

_LONGEST_NAME = 254

_log = logging.getLogger(__name__)


def known(live: Accounts | None) -> Known:
    """The accounts as they are in *live*, and as last observed where *live* does not tell."""
    return _known(KnownAccount.objects.all(), live)


def _known(rows: Iterable[KnownAccount], live: Accounts | None) -> Known:
    found: Known = {}
    for row in rows:
        account = _loaded(row)
        if row.removed or account:
            found[row.username] = None if row.removed else account
    if live is None:
        return found
    missing = {name: account for name, account in found.items() if account is not None and name not in live.by_name}
    if live.whole and _are_removed(missing, found):
        found |= dict.fromkeys(missing)
    elif not live.whole:  # it has no permissions, or it would have been read
        for name, account in missing.items():
            found[name] = replace(account, superuser=False, staff=False, groups=(), permissions=())
    return {**found, **live.by_name}


def observe(live: Accounts | None, withheld: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Remember the accounts as they are in *live*. None, for a database that cannot be read, changes nothing.

    *withheld* has, by name, what a restore has just not given to accounts (`Withheld.as_json`).
    """
    if live is None:
        return
    withheld = withheld or {}
    now = moments.now()
    with transaction.atomic(using=configuration().database):
        rows = {row.username: row for row in KnownAccount.objects.all()}
        seen = _known(rows.values(), live)
        made, changed = [], []
        for name, account in seen.items():
            row = rows.get(name)
            if account is None:
                if row is not None and row.removed is None:
                    row.removed = now
                    changed.append(row)
            elif row is None:
                if len(name) <= _LONGEST_NAME:
                    made.append(KnownAccount(username=name, user_id=account.number, nonce=_new_nonce(), state=_dumped(account)))
            elif row.removed or row.user_id != account.number or row.state != _dumped(account) or name in withheld:
                if row.removed or row.user_id != account.number:
                    row.nonce = _new_nonce()
                row.removed, row.user_id, row.state = None, account.number, _dumped(account)
                row.withheld = withheld.get(name, row.withheld)
                changed.append(row)
        KnownAccount.objects.bulk_create(made)
        KnownAccount.objects.bulk_update(changed, ["removed", "user_id", "nonce", "state", "withheld"], batch_size=100)


def nonce_of(user: AbstractUser) -> str:
    """The nonce of an account; its tokens are only valid with it."""
    row, _ = KnownAccount.objects.get_or_create(
        username=user.get_username(), defaults={"user_id": str(user.pk), "nonce": _new_nonce()}
    )
    if row.removed or row.user_id != str(user.pk):
        row.removed, row.user_id, row.nonce, row.state = None, str(user.pk), _new_nonce(), {}
        row.save()
    return row.nonce


def is_bound(token: ApiToken) -> bool:
    """Whether *token* belongs to the account that has its name and primary key now, and not to an earlier one."""
    same = {"username": token.username, "user_id": token.user_id, "nonce": token.nonce}
    return KnownAccount.objects.filter(**same, removed=None).exists()


def suspend_tokens(names: set[str] | None) -> list[str]:
    """Suspend the tokens of these accounts, of all for None. Returns the names of the accounts that had a usable one."""
    tokens = ApiToken.objects.filter(revoked=None, suspended=None)
    tokens = tokens if names is None else tokens.filter(username__in=names)
    found = sorted(set(tokens.values_list("username", flat=True)))
    tokens.update(suspended=moments.now())
    return found


def _are_removed(missing: Mapping[str, Account], found: Known) -> bool:
    """Whether *missing* accounts were removed. When most are missing, or all, the table was rather emptied or lost."""
    present = sum(account is not None for account in found.values())
    return len(missing) < present and len(missing) <= max(FEW, present // 2)


def _dumped(account: Account) -> dict[str, Any]:
    dumped = asdict(account)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in dumped.items()}


def _loaded(row: KnownAccount) -> Account | None:
    try:
        return TypeAdapter(Account).validate_python(row.state) if row.state else None
    except ValidationError:
        return None


def _new_nonce() -> str:
    return secrets.token_hex(16)


@receiver(post_delete)
@receiver(post_save)
def _removed_or_created(sender: Any, instance: Any, created: bool | None = None, **_: Any) -> None:
    """End the tokens of an account that is removed at once, and of an earlier one when an account is created."""
    if not issubclass(sender, get_user_model()) or created is False:
        return
    row = KnownAccount.objects.filter(username=instance.get_username())
    try:
        with transaction.atomic(using=configuration().database):
            if created:
                row.update(user_id=str(instance.pk), nonce=_new_nonce(), removed=None, state={}, withheld={})
            elif not row.update(removed=moments.now()):
                name = instance.get_username()[:_LONGEST_NAME]
                KnownAccount.objects.create(username=name, user_id=str(instance.pk), nonce=_new_nonce(), removed=moments.now())
    except DatabaseError as problem:
        _log.warning("The control database does not know yet that %s was removed or created: %s", instance, problem)
