"""The built-in job types, and the registry of all types; a project adds its own with ``BACKUPS["KINDS"]``.

The work is done by the same commands that people type, each in a process of its own: that bounds memory, makes cancelling
reliable, and keeps live files out of the process that answers requests.
"""

from __future__ import annotations

import functools
from typing import Any

from django.utils.module_loading import import_string

from backups.conf import configuration
from backups.engine.errors import UsageError

from . import arguments, commands, restored_accounts
from .job_type import JobType

BACKUP = JobType(
    name="backup", title="Back up", arguments=arguments.BackupArguments, command=commands.backup, writes=True, attempts=3
)
VERIFY = JobType(
    name="verify",
    title="Verify",
    arguments=arguments.VerifyArguments,
    command=commands.verify,
    attempts=2,
    permission="backups.verify_backup",
)
DRILL = JobType(
    name="drill",
    title="Drill",
    arguments=arguments.DrillArguments,
    command=commands.drill,
    attempts=2,
    permission="backups.verify_backup",
)
RESTORE = JobType(
    name="restore",
    title="Restore into a folder",
    arguments=arguments.RestoreArguments,
    command=commands.restore,
    permission="backups.restore_backup",
    planned=False,
)
RESTORE_IN_PLACE = JobType(
    name="restore_in_place",
    title="Restore in place",
    arguments=arguments.RestoreInPlaceArguments,
    command=commands.restore_in_place,
    writes=True,
    killable=False,
    permission="backups.restore_backup",
    planned=False,
    prepare=restored_accounts.remember,
    complete=restored_accounts.audit_changes,
)
PREVIEW = JobType(
    name="preview",
    title="Preview restore",
    arguments=arguments.RestoreInPlaceArguments,
    command=commands.preview,
    permission="backups.restore_backup",
    planned=False,
)
DELETE = JobType(
    name="delete",
    title="Delete",
    arguments=arguments.DeleteArguments,
    command=commands.delete,
    writes=True,
    permission="backups.delete_backup",
    planned=False,
)
PRUNE = JobType(
    name="prune",
    title="Prune",
    arguments=arguments.PruneArguments,
    command=commands.prune,
    writes=True,
    attempts=2,
    permission="backups.delete_backup",
)
REINDEX = JobType(
    name="reindex",
    title="Rescan repository",
    arguments=arguments.CommandArguments,
    command=commands.reindex,
    attempts=2,
)
HEALTH = JobType(
    name="health",
    title="Health check",
    arguments=arguments.CommandArguments,
    command=commands.health,
    attempts=2,
    permission="backups.view_backup",
)
AUDIT = JobType(
    name="audit_verify",
    title="Verify the audit",
    arguments=arguments.CommandArguments,
    command=commands.audit_verify,
    permission="backups.view_audit",
)

_BUILT_IN: tuple[JobType[Any], ...] = (
    *(BACKUP, VERIFY, DRILL, RESTORE, RESTORE_IN_PLACE, PREVIEW),
    *(DELETE, PRUNE, REINDEX, HEALTH, AUDIT),
)


@functools.cache
def _all(paths: tuple[str, ...]) -> dict[str, JobType[Any]]:
    return {job_type.name: job_type for job_type in (*_BUILT_IN, *(import_string(path) for path in paths))}


def job_types() -> dict[str, JobType[Any]]:
    """Every job type by its name, including the project's."""
    return _all(configuration().kinds)


def job_type(name: str) -> JobType[Any]:
    """The job type of that name. Raises `UsageError`."""
    found = job_types().get(name)
    if found is None:
        raise UsageError(f"There is no job type {name!r}.", hint=f"Known types: {', '.join(job_types())}.")
    return found
