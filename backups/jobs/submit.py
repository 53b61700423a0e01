"""Requests for jobs, from pages, the API and management commands.

Callers check permissions first (`permissions.may`). Each function records the request in the audit, and raises
`engine.errors.EngineError` with a hint.
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from django.db import IntegrityError

from backups.catalog.holds import indexed
from backups.conf import configuration
from backups.engine.errors import RestoreRefused, UsageError
from backups.identity.audit import Actor
from backups.models import IndexedBackup, Job

from . import lifecycle
from .job_type import JobType
from .types import BACKUP, DELETE, DRILL, PREVIEW, PRUNE, REINDEX, RESTORE, RESTORE_IN_PLACE, VERIFY


def back_up(actor: Actor, **arguments: Any) -> Job:
    """Queue a backup; *arguments* as `arguments.BackupArguments`."""
    return lifecycle.enqueue(BACKUP, arguments, actor, note=str(arguments.get("note", "")))


def _request(kind: JobType[Any]) -> Callable[..., Job]:
    return lambda actor, **arguments: lifecycle.enqueue(kind, arguments, actor)


verify, drill, preview_restore = _request(VERIFY), _request(DRILL), _request(PREVIEW)
prune, reindex = _request(PRUNE), _request(REINDEX)
"""Queue a job of one type for an actor; arguments as in `jobs.arguments`."""


def restore_to_folder(actor: Actor, *, once: uuid.UUID | None = None, **arguments: Any) -> Job:
    """Queue a restore below ``RESTORE_FOLDER``; *arguments* as `RestoreArguments`, *once* as in `lifecycle.enqueue`."""
    return lifecycle.enqueue(RESTORE, arguments | _row(arguments).home, actor, once=once)


def restore_in_place(actor: Actor, *, typed: str, once: uuid.UUID | None = None, **arguments: Any) -> Job:
    """Queue a restore over the live stores; *typed* must be the backup's id. Callers have verified the password again.

    *once* as in `lifecycle.enqueue`. Raises `RestoreRefused` for another *typed*, for a set that is kept apart (it holds the
    jobs and the audit), and while another restore in place is queued or running on this host.
    """
    row = _row(arguments)
    if typed != row.backup_id:
        raise RestoreRefused("The typed id is not the id of the backup. Nothing was changed.", hint="Type the full id.")
    why, hint = refusal_in_place(row)
    if why:
        raise RestoreRefused(why, hint=hint)
    try:
        return lifecycle.enqueue(RESTORE_IN_PLACE, arguments | row.home, actor, once=once)
    except IntegrityError:  # of the constraint one_restore_in_place_a_host
        raise RestoreRefused(
            "Another restore in place is queued or running. Nothing was changed.",
            hint="Wait until it has ended, or cancel it under Jobs.",
        ) from None


def _row(arguments: dict[str, Any]) -> IndexedBackup:
    return indexed(*(str(arguments.get(name, "")) for name in ("backup_id", "repository", "set")))


def refusal_in_place(row: IndexedBackup) -> tuple[str, str]:
    """Why backups of this set are not restored in place from here, and a hint; both empty when they are."""
    if configuration().whole_set(row.set) not in configuration().kept_apart:
        return "", ""
    return (
        f"The set {row.set} holds the control database and is not restored in place from here: "
        "the restore would overwrite its own job.",
        "Restore it into a folder, or stop everything and use `refbackup restore` in a shell (DISASTER_RECOVERY.md).",
    )


def delete(actor: Actor, backup_ids: Sequence[str], *, repository: str = "", set: str = "") -> Job:
    """Queue the deletion of backups of a set that no other backup needs. Raises `UsageError` for a held backup."""
    for backup_id in backup_ids:
        row = indexed(backup_id, repository, set)
        if row.held:
            raise UsageError(f"Backup {backup_id} is held: {row.hold_note or 'no reason given'}.", hint="Release it first.")
    return lifecycle.enqueue(DELETE, {"backup_ids": list(backup_ids), "repository": repository, "set": set}, actor)


def run_again(actor: Actor, job: Job) -> Job:
    """Queue a copy of an ended job. Raises `RestoreRefused` for a restore in place, which needs its confirmation again."""
    if job.kind == RESTORE_IN_PLACE.name:
        raise RestoreRefused("A restore in place cannot be run again.", hint="Start a new restore.")
    return lifecycle.again(job, actor)
