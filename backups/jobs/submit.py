"""What people and programs may ask for: pages, the API, and management commands all call these.

Each function checks nothing about rights (the caller knows who asks, `access.may`), says in the audit who asked, and raises
`engine.errors.EngineError` with a hint. What takes long is queued as a job.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from django.db import DatabaseError, connections

from backups.catalog.holds import indexed
from backups.catalog.index import note_job
from backups.conf import configuration
from backups.engine.errors import RestoreRefused, UsageError
from backups.identity import account_changes, audit, permissions
from backups.identity.audit import Actor
from backups.models import IndexedBackup, Job, JobLog

from . import lifecycle
from .types import BACKUP, DELETE, DRILL, PREVIEW, PRUNE, REINDEX, RESTORE, RESTORE_IN_PLACE, VERIFY, job_type

# Backups


def back_up(actor: Actor, **arguments: Any) -> Job:
    """Queue a backup; *arguments* as `kinds.BackupArguments`."""
    return lifecycle.enqueue(BACKUP, arguments, actor, note=str(arguments.get("note", "")))


def verify(actor: Actor, **arguments: Any) -> Job:
    """Queue a verification; *arguments* as `kinds.VerifyArguments`."""
    return lifecycle.enqueue(VERIFY, arguments, actor)


def drill(actor: Actor, **arguments: Any) -> Job:
    """Queue a test restore; *arguments* as `kinds.DrillArguments`."""
    return lifecycle.enqueue(DRILL, arguments, actor)


def preview_restore(actor: Actor, **arguments: Any) -> Job:
    """Queue a look at what a restore in place would change; *arguments* as `kinds.RestoreInPlaceArguments`."""
    return lifecycle.enqueue(PREVIEW, arguments, actor)


def restore_to_folder(actor: Actor, **arguments: Any) -> Job:
    """Queue a restore below ``RESTORE_FOLDER``; *arguments* as `kinds.RestoreArguments`."""
    row = indexed(str(arguments.get("backup_id", "")), str(arguments.get("repository", "")))
    return lifecycle.enqueue(RESTORE, {**arguments, "repository": row.repository}, actor)


def restore_in_place(actor: Actor, *, typed: str, **arguments: Any) -> Job:
    """Queue a restore over the live stores; *typed* must be the backup's id. The caller has asked for the password again.

    Raises `RestoreRefused` for a set that is kept apart: it holds the jobs and the audit, and what is running now.
    """
    row = indexed(str(arguments.get("backup_id", "")), str(arguments.get("repository", "")))
    if typed != row.backup_id:
        raise RestoreRefused("The id that was typed is not that of the backup. Nothing was changed.", hint="Type it in full.")
    why, hint = refusal_in_place(row)
    if why:
        raise RestoreRefused(why, hint=hint)
    return lifecycle.enqueue(RESTORE_IN_PLACE, {**arguments, "repository": row.repository}, actor)


def refusal_in_place(row: IndexedBackup) -> tuple[str, str]:
    """Why backups of this one's set are not restored in place from here, and what to do; both empty where they are."""
    if configuration().whole_set(row.set) not in configuration().kept_apart:
        return "", ""
    return (
        f"The set {row.set} holds what controls the backups, and is not restored in place from here: "
        "it would take away the very job that restores it.",
        "Restore it into a folder, or stop everything and use `refbackup restore` in a shell (DISASTER_RECOVERY.md).",
    )


def delete(actor: Actor, backup_ids: Sequence[str], *, repository: str = "") -> Job:
    """Queue the deletion of backups that no other needs."""
    for backup_id in backup_ids:
        row = indexed(backup_id, repository)
        if row.held:
            raise UsageError(f"Backup {backup_id} is held: {row.hold_note or 'no reason given'}.", hint="Release it first.")
    return lifecycle.enqueue(DELETE, {"backup_ids": list(backup_ids), "repository": repository}, actor)


def prune(actor: Actor, **arguments: Any) -> Job:
    """Queue a prune; *arguments* as `kinds.PruneArguments`."""
    return lifecycle.enqueue(PRUNE, arguments, actor)


def reindex(actor: Actor, *, repository: str = "") -> Job:
    """Queue reading the repository anew."""
    return lifecycle.enqueue(REINDEX, {"repository": repository}, actor)


# Jobs and plans


def cancel(actor: Actor, job: Job) -> Job:
    """End a waiting job, or ask a running one to end."""
    return lifecycle.cancel(job, actor)


def run_again(actor: Actor, job: Job) -> Job:
    """A new job like an ended one. A restore in place is asked for anew, not again."""
    if job.kind == RESTORE_IN_PLACE.name:
        raise RestoreRefused("A restore in place is not run again by one click.", hint="Go through its steps again.")
    return lifecycle.again(job, actor)


# Tokens


_accounts_before: dict[uuid.UUID, account_changes.Accounts | None] = {}
"""Of each restore in place that this process runs: the accounts as they were."""


def before_job(job: Job) -> None:
    """What can be seen only before a job's work begins is looked at, and kept in this process for `after_job`."""
    if job.kind == RESTORE_IN_PLACE.name:
        _accounts_before[job.pk] = account_changes.now()


def after_job(job: Job) -> None:
    """What a job may have changed is read anew: the index, and after a restore of the application's database who may do what.

    The groups are made anew, and what accounts and rights came back is added to the job's result and to the audit.
    """
    if job.kind == RESTORE_IN_PLACE.name:
        _note_accounts(job)
    note_job(job)


def _note_accounts(job: Job) -> None:
    alias = account_changes.alias()
    try:
        connections[alias].close()  # its file may be another one now
        permissions.make_groups()
    except DatabaseError as problem:
        if alias == configuration().database:
            raise
        lifecycle.say(job, f"The groups could not be made anew: {problem}. Run manage.py migrate.", JobLog.Level.WARNING)
    if job.pk not in _accounts_before:
        return  # another process ran it, and is gone
    told = account_changes.compare(_accounts_before.pop(job.pk), account_changes.now())
    if job.result is not None and str(job.arguments.get("only") or "sqlite").startswith("sqlite"):
        job.result["accounts"] = told
    if any(told["counts"].values()):
        names = {what: [account["name"] for account in told[what]] for what in ("appear", "vanish")}
        changed = {one["name"]: [change["what"] for change in one["changes"]] for one in told["change"]}
        groups = {one["name"]: {"gains": one["gains"], "loses": one["loses"]} for one in told["groups"]}
        what = {"backup": job.arguments["backup_id"], **names, "change": changed, "groups": groups, "counts": told["counts"]}
        actor = Actor(name=job.by, id=job.by_id, via=Job.Via(job.via))
        audit.record(actor, f"{job.kind}.accounts", f"job:{job.pk}", after=what)


def permission_for(kind: str) -> str:
    """The permission that asking for a job of that kind takes."""
    return job_type(kind).permission
