"""Accounts across a restore in place.

They are remembered before it. Afterwards they are denied what they had lost since the backup, all sessions end, tokens of
changed accounts are suspended, the groups are remade, and all of that is audited.

What a job remembers is also in a file, which only this user may read, for the reconciler when the worker died during the
restore.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connections
from pydantic import TypeAdapter

from backups.conf import configuration
from backups.engine.names import printable
from backups.engine.runtime import durable
from backups.identity import account_changes, accounts, audit, known_accounts, permissions, sessions
from backups.identity.accounts import Accounts
from backups.identity.known_accounts import Known
from backups.identity.withholding import (
    Passwords,
    Withheld,
    take_away,
    take_from_groups,
    withheld,
    withheld_from_groups,
)
from backups.models import Job

from .job_type import Work

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    """Before the restore: the accounts (None when their database could not be read), what is known of them, password hashes."""

    accounts: Accounts | None
    known: Known
    passwords: dict[str, str] = field(repr=False)


_UNSETTLED = "unsettled"
"""The key of the file that remains while restored accounts cannot be read."""


def remember(work: Work) -> None:
    """Keep the present accounts for `settle`."""
    settle_later()
    live = accounts.read_live()
    known_accounts.observe(live)
    state = work.before = _State(live, known_accounts.known(live), accounts.read_live_passwords() if live else {})
    if not work.key:
        return
    try:
        _write(_file(work.key), state)
    except OSError as problem:
        _log.warning("Accounts cannot be compared if this worker dies during %s: %s", work.target, problem)


def settle(work: Work, *, compared: bool = True) -> None:
    """Deny the restored accounts what they had lost before, and put the account changes into the result and the audit.

    Called after a restore, complete or not; with ``compared=False`` after one that `remember` did not precede. If the restored
    accounts cannot be read, nobody stays signed in, no token works, and `settle_later` tries again. Raises ``DatabaseError``
    when the control database does not answer.
    """
    connections[accounts.alias()].close()  # the file under it may have been replaced
    before: _State | None = work.before or _remembered(work)
    known, passwords = (before.known, before.passwords) if before else (known_accounts.known(None), {})
    may_differ = (work.only or "sqlite").startswith("sqlite")
    try:
        restored = accounts.read_surely() if may_differ else accounts.read_live()
    except DatabaseError as problem:
        _put_off(work, before or _State(None, known, passwords), problem)
        return
    taken, regained = _deny(restored, known, passwords, work) if may_differ else ((), ())
    groups = _deny_groups(before.accounts if before else None, restored, work) if may_differ else {}
    _remake_groups(work)
    now = accounts.read_live()
    known_accounts.observe(now, withheld={one.name: one.as_json() for one in taken})
    changes = account_changes.compare(before.accounts if before else None, now)
    returned = account_changes.compare(before.accounts if before else None, restored)
    touched = {one["name"] for part in ("appear", "change") for one in returned[part]} if before else set()
    touched |= {one.name for one in (*taken, *regained)}
    suspended = known_accounts.suspend_tokens(touched)
    ended = sessions.end_all() if touched or (may_differ and sessions.are_restored()) else 0
    if touched and not sessions.can_be_ended():
        work.warn(
            f"Sessions are kept by {settings.SESSION_ENGINE}: accounts that are signed in stay signed in. Empty it if you can."
        )
    changes |= {
        "withheld": [one.as_json() for one in taken][: account_changes.MOST_LISTED],
        "regained": [one.as_json() for one in regained][: account_changes.MOST_LISTED],
        "groups_withheld": {name: list(permissions) for name, permissions in groups.items()},
        "tokens_suspended": suspended,
        "sessions_ended": ended,
    }
    _audit(work, changes, unknown=compared and before is None)
    if work.result is not None and before is not None and may_differ:
        work.result["accounts"] = changes
    _file(work.key).unlink(missing_ok=True)


def _put_off(work: Work, state: _State, problem: DatabaseError) -> None:
    """Fail closed: an account must not regain access because the restored accounts cannot be read now."""
    if work.key == _UNSETTLED and is_unsettled():
        _log.warning("The restored accounts still cannot be read: %s", problem)
        return
    _write(_file(_UNSETTLED), state)
    _file(work.key).unlink(missing_ok=True)
    suspended, ended = known_accounts.suspend_tokens(None), sessions.end_all()
    work.warn(
        f"THE RESTORED ACCOUNTS CANNOT BE READ: {problem}. Some may have access that they had lost. Everybody was signed "
        "out and all tokens are suspended. It is tried again each minute, and by manage.py backup_access_withhold."
    )
    found = {"unread": str(problem), "tokens_suspended": suspended, "sessions_ended": ended}
    audit.record(work.actor, "restore_in_place.accounts", work.target, after={"backup": work.backup_id, **found})
    if work.result is not None:
        nobody = account_changes.compare(None, None)
        work.result["accounts"] = {**nobody, "withheld": [], "regained": [], "groups_withheld": {}, **found}


def settle_later() -> None:
    """Settle the accounts of an earlier restore that could not be read after it; nothing to do when there is none."""
    if is_unsettled():
        settle(Work(key=_UNSETTLED, target="accounts", actor=audit.SYSTEM, backup_id="", only="", warn=_log.warning))


def is_unsettled() -> bool:
    """Whether `settle_later` has something to do. Until then nothing may be learned from the live accounts."""
    return _file(_UNSETTLED).exists()


def remember_new(work: Work) -> None:
    """Observe the accounts that a new backup may hold, so that their later removal is noticed."""
    if not is_unsettled():
        known_accounts.observe(accounts.read_live())


def _deny(
    restored: Accounts | None, known: Known, passwords: Passwords, work: Work
) -> tuple[tuple[Withheld, ...], tuple[Withheld, ...]]:
    """What was withheld, and what could not be: a trigger in the restored database may prevent it, or undo it."""
    if restored is None:
        return (), ()
    taken = withheld(known, restored, passwords)
    try:
        take_away(taken, passwords)
    except DatabaseError as problem:
        _log.error("The restored accounts have access that they had lost: %s", problem)
    present = accounts.read_live()
    regained = withheld(known, present, passwords) if present is not None else taken
    for one in taken:
        if one not in regained:
            work.warn(f"{printable(one.name)} had more access in the backup than before the restore: {one.in_words()}.")
    for one in regained:
        work.warn(f"{printable(one.name)} HAS REGAINED ACCESS: {one.in_words(done=False)}. Check this account now.")
    return tuple(one for one in taken if one not in regained), regained


def _deny_groups(before: Accounts | None, restored: Accounts | None, work: Work) -> dict[str, tuple[str, ...]]:
    taken = withheld_from_groups(before, restored) if restored is not None else {}
    try:
        take_from_groups(taken)
    except DatabaseError as problem:
        names = ", ".join(map(printable, taken))
        work.warn(f"The groups {names} HAVE REGAINED PERMISSIONS: {problem}. Check them now.")
        return {}
    return taken


def _remake_groups(work: Work) -> None:
    alias = accounts.alias()
    try:
        permissions.make_groups()
    except DatabaseError as problem:
        if alias == configuration().database:
            raise
        work.warn(f"The groups could not be remade: {problem}. Run manage.py migrate.")
    finally:
        connections[alias].close()


def _audit(work: Work, changes: dict[str, Any], *, unknown: bool) -> None:
    entry: dict[str, Any] = {"backup": work.backup_id}
    if unknown:
        work.warn("The accounts before the restore are not known, so their changes are not in the audit.")
        entry["compared"] = False
    elif work.backup_id and any(changes["counts"].values()):
        entry |= {part: [account["name"] for account in changes[part]] for part in ("appear", "vanish")}
        entry["change"] = {account["name"]: [change["what"] for change in account["changes"]] for account in changes["change"]}
        entry["groups"] = {group["name"]: {"gains": group["gains"], "loses": group["loses"]} for group in changes["groups"]}
        entry["counts"] = changes["counts"]
    entry |= {
        part: changes[part]
        for part in ("withheld", "groups_withheld", "regained", "tokens_suspended", "sessions_ended")
        if changes[part]
    }
    if entry.keys() != {"backup"}:
        audit.record(work.actor, "restore_in_place.accounts", work.target, after=entry)


def remove_orphans() -> None:
    """Remove the files of jobs that ended without `settle`, as when they were given up while their host was away."""
    paths = list(configuration().run_folder.glob("*accounts-*.json*"))  # with the hidden file of an interrupted write
    running = {str(key) for key in Job.objects.filter(state=Job.State.RUNNING).values_list("pk", flat=True)} if paths else ()
    for path in paths:
        if not any(f"accounts-{key}.json" in path.name for key in (*running, _UNSETTLED)):
            path.unlink(missing_ok=True)


def _remembered(work: Work) -> _State | None:
    try:
        return TypeAdapter(_State).validate_json(_file(work.key).read_bytes())
    except (OSError, ValueError):
        return None


def _file(key: str) -> Path:
    return configuration().run_folder / f"accounts-{key}.json"


def _write(path: Path, state: _State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write_file(path, json.dumps(asdict(state)).encode())
