"""Arguments of job types, as pages, REST and plans give them; each model refuses unknown names."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from backups.conf import Configuration
from backups.engine.names import BACKUP_ID, NAME, ONE_LINE
from backups.engine.types import LONGEST_NOTE

BackupId = Annotated[str, StringConstraints(pattern=rf"^{BACKUP_ID.pattern}$")]
Name = Annotated[str, StringConstraints(pattern=rf"^{NAME.pattern}$")]
Only = Annotated[str, StringConstraints(pattern=r"^(sqlite|chroma|files)(:[A-Za-z0-9._-]{1,64})?$")]
Count = Annotated[int, Field(ge=0, le=100_000)]


class Arguments(BaseModel):
    """Arguments of every job type: the repository (empty: the default one)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    repository: str = ""

    def target(self, config: Configuration) -> tuple[str, str]:
        """The repository and the set that a job with these arguments concerns; the set is empty for all sets."""
        return self.repository or config.default_repository, ""


class OfSet(Arguments):
    """Arguments of a job that works on one set."""

    set: Name | Literal[""] = ""

    def target(self, config: Configuration) -> tuple[str, str]:
        return self.repository or config.default_repository, self.set or config.default_set


class OfBackup(Arguments):
    """Arguments of a job that works on one backup; ``set`` is empty for the only set that holds it."""

    backup_id: BackupId
    set: Name | Literal[""] = ""


class BackupArguments(OfSet):
    """``only`` limits the sources; such a backup goes to a set of its own, so that ``latest`` stays complete."""

    backup: Literal["full", "incremental", "snapshot"] = "full"
    only: tuple[Only, ...] = ()
    note: Annotated[str, StringConstraints(max_length=LONGEST_NOTE, pattern=ONE_LINE)] = ""
    verify: Literal["none", "hashes", "restore"] | None = None

    def target(self, config: Configuration) -> tuple[str, str]:
        repository, name = super().target(config)
        kinds = sorted({source.partition(":")[0] for source in self.only})
        return repository, "-".join([name, *kinds]) if kinds else name


class VerifyArguments(OfSet):
    """The backups to verify: ``backup_ids``, or with ``everything`` the whole set; by default the latest."""

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
    set: Name | Literal[""] = ""
    backup_ids: Annotated[tuple[BackupId, ...], Field(min_length=1, max_length=500)]


class Retention(BaseModel):
    """Retention rules (`engine.repository.retention`); at least one."""

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


class PruneArguments(Retention, OfSet):
    """A prune of one set, or with ``every_set`` of all."""

    def target(self, config: Configuration) -> tuple[str, str]:
        repository, name = super().target(config)
        return repository, "" if self.every_set else name


class CommandArguments(Arguments):
    """Arguments of job types that run a management command without options."""
