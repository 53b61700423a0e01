"""The built-in job types, and the registry of all types; a project adds its own with ``BACKUPS["KINDS"]``.

The work is done by the same commands that people type, each in a process of its own: that bounds memory, makes cancelling
reliable, and keeps live files out of the process that answers requests.
"""

import functools
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.utils.module_loading import import_string

from backups.catalog.holds import indexed
from backups.conf import configuration
from backups.engine.errors import BackupNotFound, UsageError
from backups.models import IndexedBackup

from . import restored_accounts
from .arguments import (
    Arguments,
    BackupArguments,
    CommandArguments,
    DeleteArguments,
    DrillArguments,
    OfBackup,
    OfSet,
    PruneArguments,
    RestoreArguments,
    RestoreInPlaceArguments,
    VerifyArguments,
)
from .job_type import JobType, always

INCOMPLETE = "incomplete"
"""Code of the warning of a backup job that made a backup from which files are missing; of its error in older jobs."""


def engine(verb: str, arguments: Arguments, *more: str) -> list[str]:
    """``refbackup VERB`` on the repository in *arguments*. Raises `UsageError` for an unknown repository."""
    config = configuration()
    repository = config.repositories.get(arguments.repository or config.default_repository)
    if repository is None:
        raise UsageError(
            f"There is no repository {arguments.repository!r}.", hint=f"Known repositories: {', '.join(config.repositories)}."
        )
    return [
        *(sys.executable, "-m", "backups.engine", verb, "--repo", str(repository)),
        *("--json", "--progress", "json"),
        *more,
    ]


def management(command: str, *more: str) -> list[str]:
    """A management command of the project, by the file of ``BACKUPS["MANAGE"]`` or else by Django itself."""
    file = configuration().manage
    return [sys.executable, *([str(file)] if file is not None else ["-m", "django"]), command, *more]


def environment() -> dict[str, str]:
    """The environment of a command: that of this process, with its keys and modules, whatever made them importable."""
    return {**os.environ, **configuration().key_environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def examination(set_name: str) -> list[str]:
    """The engine's ``--examine`` option with the command that ``BACKUPS["EXAMINE"]`` gives for a set; empty without one."""
    path = configuration().examine
    command: str = import_string(path)(set_name) if path else ""
    return ["--examine", command] if command else []


# The command of each type, from its arguments and the job's id, which is "" when the arguments are only checked


def _backup(arguments: BackupArguments, job: str) -> list[str]:
    _, name = arguments.target(configuration())
    note = "-- " if arguments.note == "--" else arguments.note  # argparse of Python 3.11 drops it even after the =
    more = ["--set", name, "--kind", arguments.backup, f"--note={note}", "--job", job, "--wait", "60"]
    if arguments.verify is not None:
        more += ["--verify", arguments.verify]
    more += [] if arguments.only else examination(name)
    return engine("create", arguments, *more, *_sources(arguments.set, arguments.only))


def _sources(set_name: str, only: Sequence[str] = ()) -> list[str]:
    chosen = []
    for source in configuration().sources(set_name or configuration().default_set):
        if not only or {str(source.kind), f"{source.kind}:{source.name}"} & set(only):
            chosen += [f"--{source.kind}", f"{source.name}={source.path}"]
    if not chosen:
        raise UsageError(f"The set {set_name} has none of the stores {', '.join(only)}.", hint="Nothing was queued.")
    return chosen


def _set_of(arguments: OfSet) -> str:
    """The set of a job that reads backups. Raises `BackupNotFound` for one that is neither configured nor in the index."""
    repository, name = arguments.target(configuration())
    known = configuration().sets
    if name and name not in known and not IndexedBackup.objects.filter(repository=repository, set=name).exists():
        raise BackupNotFound(f"The set {name} has no backup.", hint=f"Nothing was queued. Sets: {', '.join(known)}.")
    return name


def _verify(arguments: VerifyArguments, job: str) -> list[str]:
    name = _set_of(arguments)
    of_set = ["--all", "--set", name] if arguments.everything else [f"{name}/latest"]
    which = _named(arguments.set, arguments.backup_ids) or of_set
    more = examination(name) if arguments.depth == "restore" else []
    return engine("verify", arguments, *which, "--depth", arguments.depth, *more)


def _drill(arguments: DrillArguments, job: str) -> list[str]:
    name = _set_of(arguments)
    which = f"{name}/latest" if arguments.backup_id == "latest" else _id(arguments)
    return engine("drill", arguments, which, *examination(name))


def _restore(arguments: RestoreArguments, job: str) -> list[str]:
    folder = configuration().restore_folder / arguments.folder
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link.", hint="Nothing was restored. Choose another name.")
    more = [_id(arguments), "--to", str(folder), *_only(arguments.only)]
    more += ["--check"] if arguments.check else []
    return engine("restore", arguments, *more)


def _restore_in_place(arguments: RestoreInPlaceArguments, job: str) -> list[str]:
    row = indexed(arguments.backup_id, arguments.repository, arguments.set)
    more = [f"{row.set}/{row.backup_id}", "--in-place", "--yes", *_only(arguments.only)]
    for source in configuration().live_sources(row.set):
        more += [f"--{source.kind}", f"{source.name}={source.path}"]
    return engine("restore", arguments, *more)


def _preview(arguments: RestoreInPlaceArguments, job: str) -> list[str]:
    more = [f"--repository={arguments.repository}"] if arguments.repository else []
    return management("backup_preview", _id(arguments), "--json", "--progress", "json", *more, *_only(arguments.only))


def _prune(arguments: PruneArguments, job: str) -> list[str]:
    more = ["--all-sets"] if arguments.every_set else ["--set", _set_of(arguments)]
    for period in ("last", "hourly", "daily", "weekly", "monthly", "yearly"):
        number = getattr(arguments, f"keep_{period}")
        more += [f"--keep-{period}", str(number)] if number else []
    more += ["--keep-within", arguments.keep_within] if arguments.keep_within else []
    more += ["--dry-run"] if arguments.dry_run else []
    return engine("prune", arguments, *more, "--verified-floor", str(arguments.verified_floor))


def _id(arguments: OfBackup | DrillArguments) -> str:
    return _named(arguments.set, [arguments.backup_id])[0]


def _named(set_name: str, ids: Iterable[str]) -> list[str]:
    return [f"{set_name}/{backup_id}" if set_name else backup_id for backup_id in ids]


def _only(only: str | None) -> list[str]:
    return ["--only", only] if only else []


# The types

BACKUP = JobType(
    name="backup",
    title="Back up",
    arguments=BackupArguments,
    command=_backup,
    writes=True,
    attempts=3,
    complete=restored_accounts.remember_new,
)
VERIFY = JobType(
    name="verify", title="Verify", arguments=VerifyArguments, command=_verify, attempts=2, permission="backups.verify_backup"
)
DRILL = JobType(
    name="drill", title="Drill", arguments=DrillArguments, command=_drill, attempts=2, permission="backups.verify_backup"
)
_RESTORES: dict[str, Any] = {"permission": "backups.restore_backup", "planned": False}
RESTORE = JobType(name="restore", title="Restore into a folder", arguments=RestoreArguments, command=_restore, **_RESTORES)
RESTORE_IN_PLACE = JobType(
    name="restore_in_place",
    title="Restore in place",
    arguments=RestoreInPlaceArguments,
    command=_restore_in_place,
    writes=True,
    killable=False,
    dangerous=always,
    prepare=restored_accounts.remember,
    complete=restored_accounts.settle,
    **_RESTORES,
)
PREVIEW = JobType(name="preview", title="Preview restore", arguments=RestoreInPlaceArguments, command=_preview, **_RESTORES)
DELETE = JobType(
    name="delete",
    title="Delete",
    arguments=DeleteArguments,
    command=lambda arguments, job: engine("delete", arguments, "--yes", *_named(arguments.set, arguments.backup_ids)),
    writes=True,
    permission="backups.delete_backup",
    planned=False,
    dangerous=always,
)
PRUNE = JobType(
    name="prune",
    title="Prune",
    arguments=PruneArguments,
    command=_prune,
    writes=True,
    attempts=2,
    permission="backups.delete_backup",
    dangerous=lambda arguments: not arguments.get("dry_run"),
)


def _of_command(command: str, **values: Any) -> JobType[CommandArguments]:
    return JobType(arguments=CommandArguments, command=lambda arguments, job: management(command, "--json"), **values)


REINDEX = _of_command("backup_reindex", name="reindex", title="Rescan repository", attempts=2)
HEALTH = _of_command("backup_health", name="health", title="Health check", attempts=2, permission="backups.view_backup")
AUDIT = _of_command("backup_audit_verify", name="audit_verify", title="Verify the audit", permission="backups.view_audit")

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


def is_dangerous(kind: str, arguments: Mapping[str, Any]) -> bool:
    """Whether such a job deletes or changes existing data (`JobType.dangerous`). False for an unknown type."""
    found = job_types().get(kind)
    return found is not None and found.dangerous(arguments)
