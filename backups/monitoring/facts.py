"""What is known about the backups at one moment, as values. `gathering` reads them, `conditions` judges them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

CHECK_FAILED = "check_failed"
"""Code of a finding of `backup_health`: one of its checks raised an error."""

CONDITIONS_FOUND = "conditions_found"
"""Code of a health check that worked and found conditions, each of which is reported for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFact:
    """A backup, as the index has it. Sizes in bytes, durations in seconds."""

    id: str
    kind: str
    time: datetime
    bytes_source: int = 0
    bytes_stored: int = 0
    seconds: float = 0.0
    verification: str = "none"
    verified_at: datetime | None = None
    restore_seconds: float | None = None
    problem: str = ""
    check_failed_at: datetime | None = None
    """When its last verification ended without a result."""
    check_failed: str = ""
    repository: str = ""
    stores: tuple[str, ...] = ()
    """Its sources, as ``KIND/NAME``."""
    missing: int = 0
    """Files and folders that belong into it and are not in it."""
    first_missing: str = ""
    """The first of them, and why, in a sentence without its full stop; empty if unknown."""

    def age(self, now: datetime) -> float:
        """Seconds since its cut; 0 for one dated in the future."""
        return max(0.0, (now - self.time).total_seconds())


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """A backup job that succeeded, failed or was interrupted; ``ok`` if it made a backup, be it an incomplete one."""

    id: str
    set: str
    ok: bool
    finished: datetime
    code: str = ""
    message: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFact:
    """A set: its newest backup, its newest proven backup, and its last backup jobs."""

    name: str
    newest: BackupFact | None = None
    proven: BackupFact | None = None
    jobs: tuple[EndedJob, ...] = ()
    """Newest first."""
    missing: int = 0
    """Its backups that vanished from their repositories."""

    @property
    def not_counted(self) -> str:
        """A sentence that says why the newest backup is not the newest proven one; empty if it is, or if there is none."""
        if self.newest is None or (self.proven is not None and self.newest.time <= self.proven.time):
            return ""
        why = {"none": "is not proven", "damaged": "is damaged"}.get(
            self.newest.verification, "holds far less than earlier ones"
        )
        return f"The newest backup, {self.newest.id}, does not count: it {why}."


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryFact:
    """A repository and its disk, in bytes. ``size`` is 0 if the disk cannot be read."""

    name: str
    there: bool = True
    problem: str = ""
    """Why it cannot be opened, and in ``hint`` what to do; both empty if there is simply none."""
    hint: str = ""
    writable: bool = True
    used: int = 0
    free: int = 0
    size: int = 0
    first: datetime | None = None
    """Instant of its oldest backup."""
    missing: int = 0
    """Backups that vanished from it, though nobody deleted them."""
    missing_held: int = 0
    missing_named: tuple[str, ...] = ()
    """Ids of the newest of them."""
    grown_a_day: float | None = None
    """Bytes a day that remain after retention; None while it is too early to tell."""

    @property
    def full_in_days(self) -> float | None:
        """At this growth; None if unknown, or if nothing grows."""
        return self.free / self.grown_a_day if self.size and self.grown_a_day else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFact:
    """A plan, when it is due next, and how its last runs ended."""

    name: str
    title: str
    kind: str
    set: str = ""
    enabled: bool = True
    paused_by: str = ""
    next: datetime | None = None
    """None if it is paused or its times are invalid."""
    cron_problem: str = ""
    refused: str = ""
    """Why its last run could not be queued."""
    failed_in_a_row: int = 0
    """Failed runs since the last success; attempts of one run count once, cancelled runs not at all."""
    last_job: str = ""
    code: str = ""
    """Of the last error, or `CONDITIONS_FOUND`."""
    message: str = ""
    hint: str = ""
    missed: int = 0
    """Runs in the last day for which no worker was there."""
    missed_open: bool = False
    """Whether no later run has succeeded."""
    alert_after: int = 1
    alert_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFact:
    """A host's workers and their last heartbeat."""

    host: str
    beat: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Excluded:
    """A backup that was restored or drilled, and can no longer be restored: it is ``damaged`` or ``missing``."""

    id: str
    time: datetime
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreFact:
    """How long a restore took, and when that was."""

    seconds: float
    time: datetime
    real: bool = False
    """Whether a person restored; otherwise a verification did."""
    excluded: Excluded | None = None
    """Why it does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """Backup jobs that ended on one day, in the site's time zone."""

    day: date
    done: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many backups and jobs there are."""

    backups: int = 0
    proven: int = 0
    damaged: int = 0
    missing: int = 0
    running: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedBackup:
    """A backup in whose files there is damage, what verification found, and the other backups that are damaged by it."""

    id: str
    set: str
    problem: str
    itself: bool = True
    """Whether it is in the index as damaged; otherwise it is missing or was removed."""
    affected: tuple[str, ...] = ()
    """Newest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossFact:
    """A backup that is held because a later one holds much less; what was lost, a sentence a line."""

    id: str
    set: str
    losses: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A running job; ``usual`` is how many seconds such jobs take, None while too few have ended."""

    id: str
    kind: str
    set: str = ""
    seconds: float = 0.0
    usual: float | None = None
    heartbeat: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drills:
    """The last successful drill, whether a later one failed, and since when a drill has been possible."""

    last_good: datetime | None = None
    seconds: float | None = None
    """How long the last successful drill took."""
    could_be_since: datetime | None = None
    failed: datetime | None = None
    failed_job: str = ""
    message: str = ""
    excluded: Excluded | None = None
    """The backup of the newest successful drill, if that drill does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """What a host's worker noted about its clock: the last jump, and the last time in which it did not run."""

    host: str
    jumped: datetime | None = None
    jumped_by: float = 0.0
    """Seconds; negative: back."""
    silent_from: datetime | None = None
    silent_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenApproval:
    """A request that takes two people: it is open, or was carried out or declared an emergency lately."""

    id: str
    title: str
    by: str
    reason: str
    decided_by: str = ""
    emergency: bool = False
    used: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingChannel:
    """An alert channel that has given up messages and delivered none since."""

    name: str
    id: int
    count: int
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditBreak:
    """The first entry of the audit that differs from what was written."""

    entry: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeFact:
    """Something that was noticed in a repository (`catalog.notices`), in a set, about a backup; both may be empty."""

    repository: str
    code: str
    set: str = ""
    backup: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A problem that only `backup_health` can find, because it reads whole stores and repositories."""

    check: str
    """``sources`` or ``repositories``."""
    code: str
    subject: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that conditions look at. Durations in seconds."""

    now: datetime
    host: str
    promised_point: float = 3600.0
    promised_time: float = 300.0
    sets: tuple[SetFact, ...] = ()
    repositories: tuple[RepositoryFact, ...] = ()
    plans: tuple[PlanFact, ...] = ()
    workers: tuple[WorkerFact, ...] = ()
    clocks: tuple[Clock, ...] = ()
    running: tuple[RunningJob, ...] = ()
    waiting_since: tuple[datetime, ...] = ()
    """Since when each queued job could have started."""
    restores: tuple[RestoreFact, ...] = ()
    drills: Drills = field(default_factory=Drills)
    damaged: tuple[DamagedBackup, ...] = ()
    losses: tuple[LossFact, ...] = ()
    """Not confirmed yet."""
    days: tuple[Day, ...] = ()
    counts: Counts = field(default_factory=Counts)
    bytes_to_back_up: int | None = None
    """Size of the first set's stores; read only while there is no backup."""
    failing_channels: tuple[FailingChannel, ...] = ()
    audit_break: AuditBreak | None = None
    approvals: tuple[OpenApproval, ...] = ()
    noticed: tuple[NoticeFact, ...] = ()
    probed: tuple[Probed, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    """Detectors of the project that raised, and what; filled in by alert evaluation."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """What a project's condition gathered, by the condition's name."""

    @property
    def last_restore(self) -> RestoreFact | None:
        """The newest measured restore, by a person or a verification, of a whole backup that can still be restored."""
        return max((one for one in self.restores if one.excluded is None), key=lambda one: one.time, default=None)

    @property
    def excluded_restore(self) -> Excluded | None:
        """The backup of the newest restore that does not count, if it is newer than `last_restore`."""
        last = max(self.restores, key=lambda one: one.time, default=None)
        return last.excluded if last is not None else None
