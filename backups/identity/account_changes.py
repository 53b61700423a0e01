"""Differences of accounts, groups and permissions between two states of the application's database.

A restore brings back what was removed since the backup: a deleted account, a withdrawn permission, a password that was changed
because it had leaked. The differences are shown before a restore and recorded after it. Of passwords, only whether they differ
is reported.
"""

from dataclasses import replace
from typing import Any

from .accounts import FLAGS, Account, Accounts
from .permissions import GROUPS

MOST_LISTED = 200
"""Accounts listed in each part of a comparison; all are counted."""


def with_groups_made(after: Accounts | None, before: Accounts | None) -> Accounts | None:
    """*after* with the groups as `permissions.make_groups` remakes them after a restore, limited to permissions of *before*."""
    if after is None or before is None:
        return after
    groups = dict(after.groups)
    for name, wanted in GROUPS.items():
        if name in before.groups:
            groups[name] = tuple(sorted({*groups.get(name, ()), *(set(wanted) & set(before.groups[name]))}))
    return replace(after, groups=groups)


def compare(before: Accounts | None, after: Accounts | None) -> dict[str, Any]:
    """The differences from *before* to *after* as JSON; changes that give access come first.

    ::

        {"before": n, "after": n, "whole": bool,
         "appear": [account...], "vanish": [account...],
         "change": [{"name", "gives", "changes": [{"what", "before", "after", "gives"}]}],
         "groups": [{"name", "appears", "vanishes", "gains": [...], "loses": [...]}],
         "counts": {"appear", "vanish", "change", "groups", "gives", "gives_groups"}}

    ``gives``: the change gives an account access that it did not have before. None counts as empty.
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
        "appear": sorted(appear, key=_rank)[:MOST_LISTED],
        "vanish": sorted(vanish, key=_rank)[:MOST_LISTED],
        "change": sorted(change, key=lambda one: (not one["gives"], one["name"]))[:MOST_LISTED],
        "groups": groups[:MOST_LISTED],
        "counts": counts,
    }


def _rank(account: dict[str, Any]) -> tuple[Any, ...]:
    rights = account["superuser"], account["staff"], bool(account["permissions"] or account["groups"])
    return (*(not right for right in rights), account["name"])


def _changes(old: Account, new: Account) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = []
    for flag in FLAGS.values():
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
