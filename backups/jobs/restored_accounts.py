"""Accounts across a restore in place: remembered before it; afterwards groups are remade and account changes audited.

A job's are also kept in a file, which only this user may read, so that the reconciler can compare them when the worker died
during the restore.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

from django.db import DatabaseError, connections

from backups.conf import configuration
from backups.engine.runtime import durable
from backups.identity import account_changes, accounts, audit, permissions
from backups.identity.accounts import Accounts
from backups.models import Job

from .job_type import Work

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _State:
    """The accounts before the restore; None when the database could not be read."""

    accounts: Accounts | None


def remember(work: Work) -> None:
    """Keep the present accounts for `audit_changes`."""
    work.before = _State(accounts.read_live())
    if not work.key:
        return
    path = _file(work)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_file(path, json.dumps(work.before.accounts and work.before.accounts.dump()).encode())
    except OSError as problem:
        _log.warning("Accounts cannot be compared if this worker dies during %s: %s", work.target, problem)


def audit_changes(work: Work) -> None:
    """Remake the groups that the restored state may lack, and add the account changes to the result and to the audit.

    Raises ``DatabaseError`` when the groups are in the control database and it does not answer.
    """
    alias = accounts.alias()
    try:
        connections[alias].close()  # the file under it may have been replaced
        permissions.make_groups()
    except DatabaseError as problem:
        if alias == configuration().database:
            raise
        work.warn(f"The groups could not be remade: {problem}. Run manage.py migrate.")
    before: _State | None = work.before or _remembered(work)
    changes = account_changes.compare(before.accounts if before else None, accounts.read_live())
    action = "restore_in_place.accounts"
    if before is None:
        work.warn("The accounts before the restore are not known, so their changes are not in the audit.")
        audit.record(work.actor, action, work.target, after={"backup": work.backup_id, "compared": False})
    elif any(changes["counts"].values()):
        names = {part: [account["name"] for account in changes[part]] for part in ("appear", "vanish")}
        changed = {account["name"]: [change["what"] for change in account["changes"]] for account in changes["change"]}
        groups = {group["name"]: {"gains": group["gains"], "loses": group["loses"]} for group in changes["groups"]}
        entry = {"backup": work.backup_id, **names, "change": changed, "groups": groups, "counts": changes["counts"]}
        audit.record(work.actor, action, work.target, after=entry)
    if work.result is not None and before is not None and (work.only or "sqlite").startswith("sqlite"):
        work.result["accounts"] = changes
    _file(work).unlink(missing_ok=True)


def remove_orphans() -> None:
    """Remove the files of jobs that ended without `audit_changes`, as when they were given up while their host was away."""
    paths = list(configuration().run_folder.glob("*accounts-*.json*"))  # with the hidden file of an interrupted write
    running = {str(key) for key in Job.objects.filter(state=Job.State.RUNNING).values_list("pk", flat=True)} if paths else ()
    for path in paths:
        if not any(f"accounts-{key}.json" in path.name for key in running):
            path.unlink(missing_ok=True)


def _remembered(work: Work) -> _State | None:
    try:
        dumped = json.loads(_file(work).read_bytes())
        return _State(dumped and Accounts.load(dumped))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(work: Work) -> Path:
    return configuration().run_folder / f"accounts-{work.key}.json"
