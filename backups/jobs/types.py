"""The kinds of job: what each is called, what it may be told, and which command does the work.

The work is done by the same commands that people type, in a process of its own: that bounds memory, makes cancelling certain,
and keeps live files out of the process that answers requests. A project adds kinds of its own with ``BACKUPS["KINDS"]``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from django.conf import settings
from django.utils.module_loading import import_string
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from backups.conf import Configuration, configuration
from backups.engine.errors import BackupNotFound, UsageError
from backups.engine.names import BACKUP_ID, NAME
from backups.engine.types import LONGEST_NOTE
from backups.models import IndexedBackup

BackupId = Annotated[str, StringConstraints(pattern=rf"^{BACKUP_ID.pattern}$")]
Name = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]
Only = Annotated[str, StringConstraints(pattern=r"^(sqlite|chroma|files)(:[A-Za-z0-9._-]{1,64})?$")]
Count = Annotated[int, Field(ge=0, le=100_000)]


class Arguments(BaseModel):
    """What every kind may be told: which repository (empty: the default one)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str = ""

    def target(self, found: Configuration) -> tuple[str, str]:
        """The repository and the set that a job with these arguments is about; empty where it is about all."""
        return self.repository or found.default_repository, ""


class OfSet(Arguments):
    """Arguments of a job that works on one set."""

    set: Name | Literal[""] = ""

    def target(self, found: Configuration) -> tuple[str, str]:
        return self.repository or found.default_repository, self.set or found.default_set


class OfBackup(Arguments):
    backup_id: BackupId


class BackupArguments(OfSet):
    """``only`` leaves out other sources; such a backup goes to a set of its own, so that ``latest`` stays whole."""

    backup: Literal["full", "incremental", "snapshot"] = "full"
    only: tuple[Only, ...] = ()
    note: Annotated[str, StringConstraints(max_length=LONGEST_NOTE)] = ""
    verify: Literal["none", "hashes", "restore"] | None = None

    def target(self, found: Configuration) -> tuple[str, str]:
        repository, name = super().target(found)
        kinds = sorted({wanted.partition(":")[0] for wanted in self.only})
        return repository, "-".join([name, *kinds]) if kinds else name


class VerifyArguments(OfSet):
    """Which backups to prove: those named, or with ``everything`` all of the set; neither: the latest."""

    backup_ids: tuple[BackupId, ...] = ()
    everything: bool = False
    depth: Literal["hashes", "restore"] = "hashes"


class DrillArguments(OfSet):
    backup_id: BackupId | Literal["latest"] = "latest"


class RestoreArguments(OfBackup):
    """``folder`` is a name below ``BACKUPS["RESTORE_FOLDER"]``."""

    folder: Name
    only: Only | None = None
    check: bool = True


class RestoreInPlaceArguments(OfBackup):
    only: Only | None = None


class DeleteArguments(Arguments):
    backup_ids: Annotated[tuple[BackupId, ...], Field(min_length=1, max_length=500)]


class PruneArguments(OfSet):
    """Retention (`engine.repository.retention`); at least one rule."""

    every_set: bool = False
    keep_last: Count = 0
    keep_hourly: Count = 0
    keep_daily: Count = 0
    keep_weekly: Count = 0
    keep_monthly: Count = 0
    keep_yearly: Count = 0
    keep_within: Annotated[str, StringConstraints(pattern=r"^(\d+[hdwmy])*$")] = ""
    verified_floor: Count = 2
    dry_run: bool = False

    def target(self, found: Configuration) -> tuple[str, str]:
        repository, name = super().target(found)
        return repository, "" if self.every_set else name


class CommandArguments(Arguments):
    """Of kinds that need none."""


A = TypeVar("A", bound=Arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobType(Generic[A]):
    """A kind of job.

    ``command`` gives the argument list of the process that does the work. That process writes JSON lines of progress and log
    to standard error (``engine.progress.json_lines``), one JSON object to standard output, and ends with a code of
    ``docs/reference/cli.md``. ``writes``: at most one such job runs on a repository at a time. ``killable``: after a request
    to cancel it may be killed when it does not end by itself. ``planned``: plans may have it. ``sentence`` and ``template``
    tell people of its result, if they are given; the template gets it as ``found``.
    """

    name: str
    title: str
    arguments: type[A]
    command: Callable[[A, str], list[str]]
    writes: bool = False
    killable: bool = True
    attempts: int = 1
    limit: int = 24 * 3600
    permission: str = "backups.create_backup"
    planned: bool = True
    sentence: Callable[[dict[str, Any]], str] | None = None
    template: str = ""

    def parse(self, values: dict[str, Any]) -> A:
        """Arguments from *values*. Raises one `UsageError` that names all that is wrong."""
        if _holds_nul(values):
            raise UsageError(f"{self.title}: no argument may hold the character NUL.", hint="Nothing was queued.")
        try:
            return self.arguments.model_validate(values)
        except ValidationError as problem:
            lines = [f"{'.'.join(map(str, error['loc'])) or 'arguments'}: {error['msg']}" for error in problem.errors()]
            raise UsageError(
                f"{self.title}: " + "; ".join(lines) + ".", hint="Nothing was queued. Correct them and try again."
            ) from None


def _holds_nul(value: Any) -> bool:
    """Whether a text in *value* holds what ends every argument of a process, and what PostgreSQL refuses in JSON."""
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(map(_holds_nul, (*value, *value.values())))
    return isinstance(value, list | tuple) and any(map(_holds_nul, value))


def engine(verb: str, arguments: Arguments, *more: str) -> list[str]:
    """The argument list of ``refbackup VERB`` on the repository that *arguments* name."""
    found = configuration()
    repository = found.repositories.get(arguments.repository or found.default_repository)
    if repository is None:
        raise UsageError(
            f"No repository is named {arguments.repository!r}.", hint=f"There are: {', '.join(found.repositories)}."
        )
    return [
        *(sys.executable, "-m", "backups.engine", verb, "--repo", str(repository)),
        *("--json", "--progress", "json"),
        *more,
    ]


def management(command: str, *more: str) -> list[str]:
    """The argument list of a management command of the project."""
    return [sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), command, *more]


def _sources(set_name: str, only: Sequence[str] = ()) -> list[str]:
    chosen = []
    for source in configuration().sources(set_name or configuration().default_set):
        if not only or any(wanted in (str(source.kind), f"{source.kind}:{source.name}") for wanted in only):
            chosen += [f"--{source.kind}", f"{source.name}={source.path}"]
    if not chosen:
        raise UsageError(f"The set {set_name} has none of the stores {', '.join(only)}.", hint="Nothing was queued.")
    return chosen


def examination(set_name: str) -> list[str]:
    """The engine's option with the command of ``BACKUPS["EXAMINE"]`` for restored stores of a set, where there is one."""
    path = configuration().examine
    command: str = import_string(path)(set_name) if path else ""
    return ["--examine", command] if command else []


def _backup(arguments: BackupArguments, job: str) -> list[str]:
    _, name = arguments.target(configuration())
    note = "-- " if arguments.note == "--" else arguments.note  # argparse of Python 3.11 drops it even after the =
    more = ["--set", name, "--kind", arguments.backup, f"--note={note}", "--job", job, "--wait", "60"]
    if arguments.verify is not None:
        more += ["--verify", arguments.verify]
    more += [] if arguments.only else examination(name)
    return engine("create", arguments, *more, *_sources(arguments.set, arguments.only))


def _verify(arguments: VerifyArguments, job: str) -> list[str]:
    _, name = arguments.target(configuration())
    which = list(arguments.backup_ids) or (["--all", "--set", name] if arguments.everything else ["latest", "--set", name])
    more = examination(name) if arguments.depth == "restore" else []
    return engine("verify", arguments, *which, "--depth", arguments.depth, *more)


def _drill(arguments: DrillArguments, job: str) -> list[str]:
    which = [arguments.backup_id]
    if arguments.backup_id == "latest":
        which += ["--set", arguments.target(configuration())[1]]
    return engine("drill", arguments, *which, *examination(arguments.target(configuration())[1]))


def _restore(arguments: RestoreArguments, job: str) -> list[str]:
    place = configuration().restore_folder / arguments.folder
    if place.is_symlink():
        raise UsageError(f"{place} is a link, which leads elsewhere.", hint="Nothing was restored. Choose another name.")
    more = [arguments.backup_id, "--to", str(place)]
    more += ["--only", arguments.only] if arguments.only else []
    more += ["--check"] if arguments.check else []
    return engine("restore", arguments, *more)


def _restore_in_place(arguments: RestoreInPlaceArguments, job: str) -> list[str]:
    more = [arguments.backup_id, "--in-place", "--yes"]
    more += ["--only", arguments.only] if arguments.only else []
    row = IndexedBackup.objects.filter(backup_id=arguments.backup_id).only("set").first()
    if row is None:
        raise BackupNotFound(f"There is no backup {arguments.backup_id} in the index.", hint="Read the repository anew.")
    for source in configuration().live_sources(row.set):
        more += [f"--{source.kind}", f"{source.name}={source.path}"]
    return engine("restore", arguments, *more)


def _preview(arguments: RestoreInPlaceArguments, job: str) -> list[str]:
    more = [f"--repository={arguments.repository}"] if arguments.repository else []
    more += ["--only", arguments.only] if arguments.only else []
    return management("preview_restore", arguments.backup_id, "--json", "--progress", "json", *more)


def _delete(arguments: DeleteArguments, job: str) -> list[str]:
    return engine("delete", arguments, *arguments.backup_ids)


def _prune(arguments: PruneArguments, job: str) -> list[str]:
    more = ["--all-sets"] if arguments.every_set else ["--set", arguments.target(configuration())[1]]
    for period in ("last", "hourly", "daily", "weekly", "monthly", "yearly"):
        number = getattr(arguments, f"keep_{period}")
        more += [f"--keep-{period}", str(number)] if number else []
    more += ["--keep-within", arguments.keep_within] if arguments.keep_within else []
    more += ["--dry-run"] if arguments.dry_run else []
    return engine("prune", arguments, *more, "--verified-floor", str(arguments.verified_floor))


def _reindex(arguments: CommandArguments, job: str) -> list[str]:
    return management("reindex_backups", "--json")


def _audit(arguments: CommandArguments, job: str) -> list[str]:
    return management("audit_verify", "--json")


def _health(arguments: CommandArguments, job: str) -> list[str]:
    return management("backup_health", "--json")


BACKUP = JobType(name="backup", title="Back up", arguments=BackupArguments, command=_backup, writes=True, attempts=3)
VERIFY = JobType(
    name="verify",
    title="Verify",
    arguments=VerifyArguments,
    command=_verify,
    attempts=2,
    permission="backups.verify_backup",
)
DRILL = JobType(
    name="drill", title="Drill", arguments=DrillArguments, command=_drill, attempts=2, permission="backups.verify_backup"
)
RESTORE = JobType(
    name="restore",
    title="Restore into a folder",
    arguments=RestoreArguments,
    command=_restore,
    permission="backups.restore_backup",
)
RESTORE_IN_PLACE = JobType(
    name="restore_in_place",
    title="Restore in place",
    arguments=RestoreInPlaceArguments,
    command=_restore_in_place,
    writes=True,
    killable=False,
    permission="backups.restore_backup",
)
PREVIEW = JobType(
    name="preview",
    title="Look at what a restore changes",
    arguments=RestoreInPlaceArguments,
    command=_preview,
    permission="backups.restore_backup",
)
DELETE = JobType(
    name="delete",
    title="Delete",
    arguments=DeleteArguments,
    command=_delete,
    writes=True,
    permission="backups.delete_backup",
)
PRUNE = JobType(
    name="prune",
    title="Prune",
    arguments=PruneArguments,
    command=_prune,
    writes=True,
    attempts=2,
    permission="backups.delete_backup",
)
REINDEX = JobType(name="reindex", title="Read the repository anew", arguments=CommandArguments, command=_reindex, attempts=2)
HEALTH = JobType(
    name="health",
    title="Health check",
    arguments=CommandArguments,
    command=_health,
    attempts=2,
    permission="backups.view_backup",
)
AUDIT = JobType(
    name="audit_verify",
    title="Verify the audit",
    arguments=CommandArguments,
    command=_audit,
    permission="backups.view_audit",
)

_OWN: tuple[JobType[Any], ...] = (
    BACKUP,
    VERIFY,
    DRILL,
    RESTORE,
    RESTORE_IN_PLACE,
    PREVIEW,
    DELETE,
    PRUNE,
    REINDEX,
    HEALTH,
    AUDIT,
)


@functools.cache
def _all(paths: tuple[str, ...]) -> dict[str, JobType[Any]]:
    return {kind.name: kind for kind in (*_OWN, *(import_string(path) for path in paths))}


def job_types() -> dict[str, JobType[Any]]:
    """Every kind by its name, the project's own included."""
    return _all(configuration().kinds)


def job_type(name: str) -> JobType[Any]:
    """The kind of that name. Raises `UsageError`."""
    found = job_types().get(name)
    if found is None:
        raise UsageError(f"There is no kind of job named {name!r}.", hint=f"There are: {', '.join(job_types())}.")
    return found
