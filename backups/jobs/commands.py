"""The command lines of the built-in job types. Each takes the arguments and the job's id ("" when only checked)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings
from django.utils.module_loading import import_string

from backups.conf import configuration
from backups.engine.errors import BackupNotFound, UsageError
from backups.models import IndexedBackup

from .arguments import (
    Arguments,
    BackupArguments,
    CommandArguments,
    DeleteArguments,
    DrillArguments,
    PruneArguments,
    RestoreArguments,
    RestoreInPlaceArguments,
    VerifyArguments,
)


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
    """``manage.py COMMAND`` of the project."""
    return [sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), command, *more]


def examination(set_name: str) -> list[str]:
    """The engine's ``--examine`` option with the command that ``BACKUPS["EXAMINE"]`` gives for a set; empty without one."""
    path = configuration().examine
    command: str = import_string(path)(set_name) if path else ""
    return ["--examine", command] if command else []


def backup(arguments: BackupArguments, job: str) -> list[str]:
    """The command of a job of type backup."""
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


def verify(arguments: VerifyArguments, job: str) -> list[str]:
    """The command of a job of type verify."""
    _, name = arguments.target(configuration())
    which = list(arguments.backup_ids) or (["--all", "--set", name] if arguments.everything else ["latest", "--set", name])
    more = examination(name) if arguments.depth == "restore" else []
    return engine("verify", arguments, *which, "--depth", arguments.depth, *more)


def drill(arguments: DrillArguments, job: str) -> list[str]:
    """The command of a job of type drill."""
    _, name = arguments.target(configuration())
    which = [arguments.backup_id, *(["--set", name] if arguments.backup_id == "latest" else [])]
    return engine("drill", arguments, *which, *examination(name))


def restore(arguments: RestoreArguments, job: str) -> list[str]:
    """The command of a job of type restore."""
    folder = configuration().restore_folder / arguments.folder
    if folder.is_symlink():
        raise UsageError(f"{folder} is a symbolic link.", hint="Nothing was restored. Choose another name.")
    more = [arguments.backup_id, "--to", str(folder), *_only(arguments.only)]
    more += ["--check"] if arguments.check else []
    return engine("restore", arguments, *more)


def restore_in_place(arguments: RestoreInPlaceArguments, job: str) -> list[str]:
    """The command of a job of type restore_in_place."""
    row = IndexedBackup.objects.filter(backup_id=arguments.backup_id).only("set").first()
    if row is None:
        raise BackupNotFound(f"There is no backup {arguments.backup_id} in the index.", hint="Rescan the repository.")
    more = [arguments.backup_id, "--in-place", "--yes", *_only(arguments.only)]
    for source in configuration().live_sources(row.set):
        more += [f"--{source.kind}", f"{source.name}={source.path}"]
    return engine("restore", arguments, *more)


def preview(arguments: RestoreInPlaceArguments, job: str) -> list[str]:
    """The command of a job of type preview."""
    more = [f"--repository={arguments.repository}"] if arguments.repository else []
    return management("preview_restore", arguments.backup_id, "--json", "--progress", "json", *more, *_only(arguments.only))


def _only(only: str | None) -> list[str]:
    return ["--only", only] if only else []


def delete(arguments: DeleteArguments, job: str) -> list[str]:
    """The command of a job of type delete."""
    return engine("delete", arguments, *arguments.backup_ids)


def prune(arguments: PruneArguments, job: str) -> list[str]:
    """The command of a job of type prune."""
    more = ["--all-sets"] if arguments.every_set else ["--set", arguments.target(configuration())[1]]
    for period in ("last", "hourly", "daily", "weekly", "monthly", "yearly"):
        number = getattr(arguments, f"keep_{period}")
        more += [f"--keep-{period}", str(number)] if number else []
    more += ["--keep-within", arguments.keep_within] if arguments.keep_within else []
    more += ["--dry-run"] if arguments.dry_run else []
    return engine("prune", arguments, *more, "--verified-floor", str(arguments.verified_floor))


def reindex(arguments: CommandArguments, job: str) -> list[str]:
    """The command of a job of type reindex."""
    return management("reindex_backups", "--json")


def health(arguments: CommandArguments, job: str) -> list[str]:
    """The command of a job of type health."""
    return management("backup_health", "--json")


def audit_verify(arguments: CommandArguments, job: str) -> list[str]:
    """The command of a job of type audit_verify."""
    return management("audit_verify", "--json")
