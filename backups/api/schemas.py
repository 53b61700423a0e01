"""The JSON that goes out and comes in. Times are ISO 8601 in UTC, sizes are bytes, durations seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from backups.engine.types import LONGEST_NOTE
from backups.identity.permissions import SCOPES
from backups.jobs.types import BackupId, Count, Name, Only
from backups.models import ApiToken, AuditEntry, IndexedBackup, Job, JobLog, Plan

from .paging import PageQuery

Kind = Literal["full", "incremental", "snapshot"]
Proof = Literal["none", "hashes", "restore", "damaged"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
Note = Annotated[str, StringConstraints(max_length=LONGEST_NOTE)]
Text = Annotated[str, StringConstraints(max_length=200)]


def _scope(name: str) -> str:
    if name not in SCOPES:
        raise ValueError(f"there is no scope of that name; there are {', '.join(SCOPES)}")
    return name


Scope = Annotated[str, AfterValidator(_scope), Field(json_schema_extra={"enum": [*SCOPES]})]


def _utc(moment: datetime) -> datetime:
    if not 1970 <= moment.year <= 9998:
        raise ValueError("give a year from 1970 to 9998")
    return moment.astimezone(UTC)


def _text(value: Any) -> Any:
    if not isinstance(value, str) or "T" not in value.upper():
        raise ValueError("write it as 2026-11-20T10:00:00Z")  # a bare number would be read as seconds
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_text), AfterValidator(_utc)]


class RequestModel(BaseModel):
    """What comes in: nothing that is not known, and nothing that changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """What goes out, read from a row."""

    model_config = ConfigDict(from_attributes=True, frozen=True)


# Backups


class BackupQuery(PageQuery):
    """Which backups."""

    kind: Annotated[Kind | None, Field(description="Backups of one kind.")] = None
    proof: Annotated[Proof | None, Field(description="By what is known of them: `restore` is the strongest proof.")] = None
    set: Annotated[Text, Field(description="Backups of one set.")] = ""
    repository: Annotated[Text, Field(description="Backups in one repository.")] = ""
    host: Annotated[Text, Field(description="Backups that were made on one host.")] = ""
    held: Annotated[bool | None, Field(description="Held, or not held.")] = None
    since: Annotated[Moment | None, Field(description="Cut at this time or later.")] = None
    until: Annotated[Moment | None, Field(description="Cut at this time or earlier.")] = None
    text: Annotated[Text, Field(description="In the note or the id; upper and lower case are the same.")] = ""


class WhereQuery(RequestModel):
    """Which of several repositories that hold the same backup."""

    repository: Annotated[Text, Field(description="Name of the repository; the first that has it if none is given.")] = ""


class SourceShape(ResponseModel):
    """A store in a backup."""

    kind: str
    name: str
    bytes: int
    files: int
    method: str


class BackupShape(ResponseModel):
    """A backup, as the index has it."""

    id: Annotated[str, Field(validation_alias="backup_id")]
    repository: str
    set: str
    kind: str
    parent: str | None
    time: datetime
    finished: datetime
    host: str
    note: str
    bytes_source: int
    bytes_stored: int
    seconds: float
    pause_ms: dict[str, float]
    proof: Proof
    verified_at: datetime | None
    proofs: int
    restore_seconds: float | None
    held: bool
    hold_note: str
    safety: bool
    sources: list[SourceShape]
    problem: str
    job: str | None


class Lineage(ResponseModel):
    """What a backup needs to be restored, nearest first, and the backups that need it directly, newest first."""

    needs: list[str]
    needed_by: list[str]


class WholeBackup(BackupShape):
    """A backup with its manifest, proofs and lineage. The manifest is null when it cannot be read: `problem` says why."""

    manifest: dict[str, Any] | None
    proof_history: list[dict[str, Any]]
    lineage: Lineage


class NewBackup(RequestModel):
    """A backup to be made."""

    kind: Annotated[Kind, Field(description="`snapshot` holds SQLite alone.")] = "full"
    set: Annotated[Name | Literal[""], Field(description="What to back up; the default set if none is given.")] = ""
    repository: Annotated[Text, Field(description="Where to; the default repository if none is given.")] = ""
    only: Annotated[
        tuple[Only, ...], Field(max_length=20, description="Only these stores: `sqlite`, `chroma`, `files`, or `KIND:NAME`.")
    ] = ()
    note: Note = ""
    verify: Annotated[
        Literal["none", "hashes", "restore"] | None,
        Field(description="How to prove it; the strongest that fits if none is given."),
    ] = None


class Proving(RequestModel):
    """How far to look: every byte, or a whole restore with the stores opened."""

    depth: Literal["hashes", "restore"] = "hashes"


class SetProving(Proving):
    """Which backups of a repository to prove."""

    set: Name | Literal[""] = ""
    everything: Annotated[bool, Field(description="All of the set, or its newest only.")] = False


class Holding(RequestModel):
    """Why a backup is held."""

    note: Note = ""


class ToFolder(RequestModel):
    """A restore into a new folder below the one that the operator set (`RESTORE_FOLDER`)."""

    to: Literal["folder"]
    folder: Annotated[Name, Field(description="Name of the new folder.")]
    only: Annotated[Only | None, Field(description="One store: `sqlite`, `chroma`, `files`, or `KIND:NAME`.")] = None
    check: Annotated[bool, Field(description="Open and check what was restored.")] = True


class InPlace(RequestModel):
    """A restore over the live stores, after a safety backup of them."""

    to: Literal["in_place"]
    confirm: Annotated[Text, Field(description="The backup's id, typed in full.")]
    password: Annotated[
        str | None,
        StringConstraints(max_length=4096),
        Field(description="Of the account; needed with a session, not with a token."),
    ] = None
    only: Annotated[Only | None, Field(description="One store: `sqlite`, `chroma`, `files`, or `KIND:NAME`.")] = None


Restoring = Annotated[ToFolder | InPlace, Field(discriminator="to")]


class Previewing(RequestModel):
    """What a restore in place would change."""

    only: Only | None = None


def backup(row: IndexedBackup) -> BackupShape:
    """A backup of the index."""
    return BackupShape.model_validate(_backup(row))


def whole_backup(
    row: IndexedBackup, manifest: dict[str, Any] | None, proofs: list[dict[str, Any]], lineage: Lineage, problem: str = ""
) -> WholeBackup:
    """A backup with all that its repository tells of it."""
    known = _backup(row) | {"manifest": manifest, "proof_history": proofs, "lineage": lineage}
    return WholeBackup.model_validate(known | ({"problem": problem} if problem else {}))


def _backup(row: IndexedBackup) -> dict[str, Any]:
    return {
        **{name: getattr(row, name) for name in _SAME},
        "parent": row.parent_id or None,
        "pause_ms": {"sqlite": row.pause_sqlite, "chroma": row.pause_chroma},
        "proof": row.verification,
        "job": row.job or None,
    }


_SAME = (
    *("backup_id", "repository", "set", "kind", "time", "finished", "host", "note", "bytes_source", "bytes_stored", "seconds"),
    *("verified_at", "proofs", "restore_seconds", "held", "hold_note", "safety", "sources", "problem"),
)


# Jobs


class JobQuery(PageQuery):
    """Which jobs."""

    state: Annotated[State | None, Field(description="Jobs in one state.")] = None
    kind: Annotated[Text, Field(description="Jobs of one kind, such as `backup` or `restore_in_place`.")] = ""
    schedule: Annotated[Text, Field(description="Jobs of one schedule, by its name.")] = ""
    repository: Annotated[Text, Field(description="Jobs on one repository.")] = ""
    set: Annotated[Text, Field(description="Jobs on one set.")] = ""
    backup: Annotated[Text, Field(description="Jobs that made a backup, or are about it, by its id.")] = ""
    by: Annotated[Text, Field(description="Jobs that one account or plan asked for.")] = ""
    since: Annotated[Moment | None, Field(description="Asked for at this time or later.")] = None
    until: Annotated[Moment | None, Field(description="Asked for at this time or earlier.")] = None


class Progress(ResponseModel):
    """How far a phase of a job is; `fraction` is from 0 to 1, null when the total is not known."""

    phase: str
    done: int
    total: int | None
    fraction: float | None
    rate: float
    seconds_left: float | None


class JobShape(ResponseModel):
    """A job."""

    id: UUID
    kind: str
    arguments: dict[str, Any]
    note: str
    state: State
    created: datetime
    started: datetime | None
    finished: datetime | None
    seconds: float | None
    via: str
    by: str
    schedule: str | None
    host: str
    repository: str
    set: str
    attempt: int
    attempts: int
    again_after: UUID | None
    cancel_asked: datetime | None
    progress: Progress
    backup_id: str | None
    result: dict[str, Any] | None
    error: dict[str, Any] | None


class LogQuery(RequestModel):
    """Which lines of a log."""

    after: Annotated[
        int, Field(ge=0, le=(1 << 63) - 1, description="Lines after the one with this id: `last` of the answer before.")
    ] = 0
    level: Annotated[Literal["info", "warning", "error"] | None, Field(description="Lines of one level.")] = None
    text: Annotated[Text, Field(description="Lines that hold this; upper and lower case are the same.")] = ""
    limit: Annotated[int, Field(ge=1, le=2000, description="Most lines to return.")] = 500


class LogLine(ResponseModel):
    """A line that a job wrote."""

    id: int
    time: datetime
    level: Literal["info", "warning", "error"]
    line: str


class Log(ResponseModel):
    """Lines of a job's log, oldest first. Ask again with `after=last` until `ended` is true and no line came."""

    lines: list[LogLine]
    last: int
    ended: bool


def job(row: Job) -> JobShape:
    """A job, with its plan already read (``select_related("plan")``)."""
    took = row.took
    return JobShape(
        id=row.pk,
        kind=row.kind,
        arguments=row.arguments,
        note=row.note,
        state=row.state,  # type: ignore[arg-type]  # the choices are those of the literal
        created=row.created,
        started=row.started,
        finished=row.finished,
        seconds=took.total_seconds() if took else None,
        via=row.via,
        by=row.by,
        schedule=row.plan.name if row.plan else None,
        host=row.host,
        repository=row.repository,
        set=row.set,
        attempt=row.attempt,
        attempts=row.attempts,
        again_after=row.again_after_id,
        cancel_asked=row.cancel_asked,
        progress=Progress(
            phase=row.phase, done=row.done, total=row.total, fraction=row.fraction, rate=row.rate, seconds_left=row.left
        ),
        backup_id=row.backup_id or None,
        result=row.result,
        error=row.error,
    )


def line(row: JobLog) -> LogLine:
    """A line of a log."""
    return LogLine.model_validate(row)


# Schedules


class ScheduleQuery(RequestModel):
    """Which schedules."""

    kind: Annotated[Text, Field(description="Schedules of one kind of job.")] = ""
    enabled: Annotated[bool | None, Field(description="Those that run, or those that are paused.")] = None


class ScheduleShape(ResponseModel):
    """A plan: what is done by itself, and when. `next` has its next five times, none while it is paused."""

    name: str
    title: str
    kind: str
    arguments: dict[str, Any]
    cron: str
    time_zone: str
    in_words: str
    enabled: bool
    paused_by: str
    host: str
    attempts: int
    limit_minutes: int
    alert_to: list[str]
    alert_after: int
    builtin: bool
    next: list[datetime]
    last_job: UUID | None
    last_state: State | None


Cron = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Zone = Annotated[str, StringConstraints(min_length=1, max_length=64)]


Addresses = Annotated[list[Annotated[str, StringConstraints(max_length=254)]], Field(max_length=50)]


class NewSchedule(RequestModel):
    """A plan to be made. `arguments` are those of the kind of job."""

    name: Name
    title: Annotated[str, StringConstraints(max_length=120)] = ""
    kind: Annotated[str, StringConstraints(max_length=40)]
    arguments: dict[str, Any] = Field(default_factory=dict)
    cron: Annotated[Cron, Field(description="Minute, hour, day of month, month, day of week: `0 3 * * *`.")]
    time_zone: Zone = "UTC"
    enabled: bool = True
    host: Annotated[str, StringConstraints(max_length=255)] = ""
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    limit_minutes: Annotated[int, Field(ge=1, le=40_000)] = 1440
    alert_to: Annotated[list[Annotated[str, StringConstraints(max_length=254)]], Field(max_length=50)] = Field(
        default_factory=list
    )
    alert_after: Annotated[int, Field(ge=1, le=1000)] = 1


class ScheduleChange(RequestModel):
    """What to change of a plan; what is not named stays."""

    title: Annotated[str, StringConstraints(max_length=120)] | None = None
    kind: Annotated[str, StringConstraints(max_length=40)] | None = None
    arguments: dict[str, Any] | None = None
    cron: Cron | None = None
    time_zone: Zone | None = None
    host: Annotated[str, StringConstraints(max_length=255)] | None = None
    attempts: Annotated[int, Field(ge=1, le=20)] | None = None
    limit_minutes: Annotated[int, Field(ge=1, le=40_000)] | None = None
    alert_to: Addresses | None = None
    alert_after: Annotated[int, Field(ge=1, le=1000)] | None = None


class TimesQuery(RequestModel):
    """A cron expression to be looked at."""

    cron: Annotated[Cron, Field(description="Minute, hour, day of month, month, day of week: `0 3 * * *`.")]
    time_zone: Annotated[Zone, Field(description="Zone in which it is read.")] = "UTC"
    count: Annotated[int, Field(ge=1, le=50, description="How many times to return.")] = 5


class Times(ResponseModel):
    """A cron expression in plain words, and when it is due next."""

    cron: str
    time_zone: str
    in_words: str
    next: list[datetime]


# Repositories


class SetSummary(ResponseModel):
    """The backups of one set in a repository."""

    name: str
    backups: int
    bytes_stored: int
    newest: datetime | None


class RepositoryShape(ResponseModel):
    """A repository, and the disk that it lies on. `problem` says why it cannot be used; sizes that are not known are null."""

    name: str
    default: bool
    usable: bool
    problem: str
    free: int | None
    size: int | None


class WholeRepository(RepositoryShape):
    """A repository with what it holds, by the index."""

    sets: list[SetSummary]
    bytes_stored: int


class Pruning(RequestModel):
    """What to keep: at least one rule. `dry_run` only says what would go."""

    set: Name | Literal[""] = ""
    every_set: bool = False
    keep_last: Count = 0
    keep_hourly: Count = 0
    keep_daily: Count = 0
    keep_weekly: Count = 0
    keep_monthly: Count = 0
    keep_yearly: Count = 0
    keep_within: Annotated[str, StringConstraints(pattern=r"^(\d+[hdwmy])*$", max_length=40)] = ""
    verified_floor: Count = 2
    dry_run: bool = False


# Audit


class AuditQuery(PageQuery):
    """Which entries."""

    who: Annotated[Text, Field(description="By one account or plan.")] = ""
    action: Annotated[Text, Field(description="Of one action, such as `backup.requested`.")] = ""
    target: Annotated[Text, Field(description="About one thing, such as `backup:ID` or `job:ID`.")] = ""
    since: Annotated[Moment | None, Field(description="At this time or later.")] = None
    until: Annotated[Moment | None, Field(description="At this time or earlier.")] = None


class AuditShape(ResponseModel):
    """An entry of the audit."""

    number: int
    time: datetime
    who: str
    who_id: str
    via: str
    token: str
    address: str
    action: str
    target: str
    before: Any
    after: Any
    previous: str
    hash: str


class AuditVerdict(ResponseModel):
    """Whether the chain of the audit holds; if not, the first entry that does not, and why."""

    holds: bool
    entries: int
    head: str
    broken_at: int | None
    why: str


def entry(row: AuditEntry) -> AuditShape:
    """An entry of the audit."""
    return AuditShape.model_validate(row)


# Tokens


class TokenQuery(PageQuery):
    """Which tokens."""

    everybody: Annotated[bool, Field(description="Those of all accounts, which takes a permission of its own.")] = False
    usable: Annotated[bool | None, Field(description="Neither revoked nor expired, or one of these.")] = None


class TokenShape(ResponseModel):
    """A token. Its secret is nowhere kept; `hint` is its beginning."""

    id: int
    name: str
    username: str
    hint: str
    scopes: list[str]
    created: datetime
    expires: datetime | None
    revoked: datetime | None
    used: datetime | None
    used_from: str | None
    usable: bool


class IssuedToken(TokenShape):
    """A new token, with its secret, which is told this once: null when the answer is told again (`Idempotency-Key`)."""

    secret: str | None


class NewToken(RequestModel):
    """A token to be made, for whoever asks."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=120)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(SCOPES))]
    days: Annotated[int | None, Field(ge=1, le=3650, description="How long it is good; null for ever.")] = 90


def token(row: ApiToken) -> TokenShape:
    """A token."""
    return TokenShape.model_validate(row)


# Status


class Reason(ResponseModel):
    """Something that keeps the data from being safe, or that somebody should know; `todo` says what to do."""

    code: str
    level: Literal["protected", "at_risk", "unprotected"]
    text: str
    todo: str
    page: str


class Measure(ResponseModel):
    """What is, against what is promised, in seconds; null when it is not known yet."""

    seconds: float | None
    promised: float
    kept: bool


class Space(ResponseModel):
    """Bytes that backups take, and what is left of the disk that is full first."""

    used: int
    free: int
    size: int
    full_in_days: float | None


class SuccessDay(ResponseModel):
    """Backups of one day."""

    day: str
    done: int
    failed: int


class Success(ResponseModel):
    """How the backups of the last 30 days ended."""

    done: int
    failed: int
    rate: float | None
    days: list[SuccessDay]


class Counts(ResponseModel):
    """How many there are."""

    backups: int
    proven: int
    damaged: int
    running: int
    waiting: int


class NextRun(ResponseModel):
    """A schedule's next time."""

    time: datetime
    title: str
    plan: str
    kind: str


class Status(ResponseModel):
    """Are we safe?"""

    at: datetime
    level: Literal["protected", "at_risk", "unprotected"]
    sentence: str
    reasons: list[Reason]
    recovery_point: Measure
    recovery_time: Measure
    space: Space
    success: Success
    counts: Counts
    newest_proven: str | None
    next: list[NextRun]


class ReadinessItem(ResponseModel):
    """One part of the score. What was never tested earns nothing."""

    code: str
    title: str
    state: Literal["met", "partly", "missed", "untested"]
    points: int
    earned: float
    text: str
    todo: str
    page: str


class Readiness(ResponseModel):
    """Would a recovery work today? `score` is of 100; `level` for a machine, `sentence` for a person."""

    at: datetime
    score: int
    level: Literal["ready", "gaps", "not_ready"]
    sentence: str
    items: list[ReadinessItem]


class Check(ResponseModel):
    """One part of readiness."""

    ok: bool
    says: str


class Ready(ResponseModel):
    """Whether this process can answer, and whether a worker takes what it queues."""

    status: Literal["ready", "not_ready"]
    checks: dict[str, Check]


class EarlierRestore(RequestModel):
    """A restore, as earlier clients ask for it: the backup's id and where to."""

    backup_id: BackupId
    restore: Restoring


def plan(row: Plan, in_words: str, next_times: list[datetime], last: Job | None) -> ScheduleShape:
    """A plan, with what follows from its cron expression."""
    same = {name: getattr(row, name) for name in _PLAN_SAME}
    last_state: Any = last.state if last else None
    return ScheduleShape(**same, in_words=in_words, next=next_times, last_job=last.pk if last else None, last_state=last_state)


_PLAN_SAME = (
    *("name", "title", "kind", "arguments", "cron", "time_zone", "enabled", "paused_by", "host", "attempts", "limit_minutes"),
    *("alert_to", "alert_after", "builtin"),
)
