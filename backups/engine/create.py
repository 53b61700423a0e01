"""Makes a backup.

The way of the data: live stores → the cut (`capture.cut`) → blocks → staged archive → published folder → proof.
"""

import itertools
import os
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from .. import __version__
from .application_check import NO_CHECK, ApplicationCheck
from .capture.cut import STEP_TIMEOUT, Cut, Instant
from .capture.digests import digest_source
from .config import DEFAULT_ALLOWANCE, REREAD_HOURS, Allowance
from .errors import EngineError, NoSpace, SourceBroken, UsageError, from_os_error
from .parent import Begun, begin, refuse_plain, usable_parents
from .repository.base import STAMP, stamp
from .repository.folder import Repository
from .repository.soundness import SOURCE_SUSPECT
from .runtime import durable
from .runtime.context import Context
from .shrinkage import compare, end_returned, hold_until_confirmed
from .sources import LogWatch, check_sources, log_cut, pack_request, record_of, size_of
from .types import (
    Backup,
    BackupKind,
    DataFile,
    Depth,
    Encryption,
    Manifest,
    Problem,
    Shrunk,
    Source,
    SourceKind,
    SourceRecord,
)
from .unfinished import unfinished_exchange
from .verify import verify_backup

TORN_TRIES = 3
"""Attempts at a cut before a Chroma directory whose copy is inconsistent counts as broken."""

MOST_LINES = 1000
"""Lines of the log that a manifest keeps."""

_PARENT_TRIES = 3
"""Backups, newest first, that are tried as the parent before the backup becomes full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to back up and how. ``wait`` and ``within`` limit the wait for the repository's lock and for a cut, in seconds,
    ``max_pause`` the time that an attempt at the cut holds writers up.

    ``force`` also backs up stores that an interrupted restore in place left mixed; a safety backup always does, and its caller
    says whether they are ``mixed``.
    ``exclude`` has patterns (`left_out.Patterns`) of what is left out of folders of files. When the last backup that read every
    file is older than ``reread_hours``, an incremental reads those too whose times did not change.
    """

    sources: tuple[Source, ...]
    set: str = "default"
    kind: BackupKind = BackupKind.FULL
    note: str = ""
    verify: Depth | None = None
    wait: float = 0.0
    within: float = 30.0
    max_pause: float = 1.0
    safety: bool = False
    mixed: bool = False
    force: bool = False
    job: str = ""
    exclude: tuple[str, ...] = ()
    reread_hours: float = REREAD_HOURS
    allowance: Allowance = DEFAULT_ALLOWANCE
    application: ApplicationCheck = NO_CHECK


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A published backup, why it became full instead of incremental ("" if it did not), and the seconds that it took."""

    backup: Backup
    reason: str
    seconds: float


@dataclass(slots=True)
class _Packed:
    """The result of one attempt: the staged archive and its part of the manifest."""

    instant: Instant
    data: DataFile
    sources: tuple[SourceRecord, ...]
    read_all: bool
    torn: list[str] = field(default_factory=list)


def create_backup(repository: Repository, request: Request, ctx: Context) -> Created:
    """Back up the sources at one instant, publish the backup and verify it.

    ====================================================================================== ==================================
    step                                                                                   a crash leaves
    ====================================================================================== ==================================
    1. Check the sources, take the writer's lock, clear what a crashed run left.           nothing
    2. Choose a parent; without a usable one, an incremental becomes full.                 nothing
    3. Take the cut; read, hash and compress into ``staging/``.                            a staging folder, cleared by the next
    4. Write manifest and checksums, sync, rename into place.                              the staging folder, or the backup
    5. Verify, and record the proof.                                                       the backup without a proof
    ====================================================================================== ==================================

    Safe to call from any process: only child processes touch live stores. Raises `SourceBroken`, `SourceBusy`,
    `RepositoryLocked`, `NoSpace`, `PermissionMissing`, `Cancelled`. A source that is damaged but readable gives a backup whose
    manifest lists the problems; such a backup is never used in place of a good one. Raises `ExchangeUnfinished` for stores that
    an interrupted restore in place left mixed.
    """
    began = time.monotonic()
    check_sources(request.sources, repository)
    if not request.safety and (unfinished := unfinished_exchange(request.sources)):
        if not request.force:
            raise unfinished.as_error("No backup was made.")
        ctx.log(unfinished.message)
        request = replace(request, mixed=True)
    try:
        with repository.writing(f"create ({request.kind})", ctx.now(), request.wait):
            with repository.reading():
                pass  # a lock that the verification cannot take is refused before there is a backup
            for left in repository.clear_debris():
                ctx.log(f"Removed what an interrupted run left: {left}")
            backup, reason = _create(repository, request, ctx)
    except OSError as problem:
        raise from_os_error(problem, "Making the backup") from problem
    if request.verify is not None:
        try:
            depth = request.verify if request.safety else _depth(repository, backup, request.verify, ctx)
            proof = verify_backup(repository, backup, depth, ctx, written_only=True, application=request.application)
            if proof.ok and proof.unrecorded:
                raise NoSpace(f"The proof cannot be written: {proof.unrecorded}.")
        except EngineError as problem:
            raise type(problem)(
                f"{backup.id} is published, but it could not be verified: {problem.message}",
                hint=f"Verify it with `refbackup verify {backup.id} --depth {request.verify}`.",
                id=backup.id,
            ) from problem
        counted = repository.proofs(backup.manifest.set, backup.id) if proof.ok else (proof,)
        backup = Backup(manifest=backup.manifest, proofs=counted)
    return Created(backup=backup, reason=reason, seconds=time.monotonic() - began)


def _depth(repository: Repository, backup: Backup, wanted: Depth, ctx: Context) -> Depth:
    """*wanted*, or a restore when an earlier one found a source damaged: hashes cannot tell whether it is sound again."""
    inherited = repository.load(backup.manifest.set, backup.id).inherited
    suspect = next((problem for problem in inherited if problem.code == SOURCE_SUSPECT), None)
    if suspect is None or wanted is Depth.RESTORE:
        return wanted
    ctx.log(f"Verified by a restore, because {suspect.message}")
    return Depth.RESTORE


def _create(repository: Repository, request: Request, ctx: Context) -> tuple[Backup, str]:
    sources = list(request.sources)
    if request.kind is BackupKind.SNAPSHOT:
        sources = [source for source in sources if source.kind is SourceKind.SQLITE]
        if not sources:
            raise UsageError("A snapshot holds only SQLite databases, and none is given.")
    repository.sealing.read_again()
    refuse_plain(repository, request.set)
    parents: list[Backup] = []
    if request.kind is BackupKind.INCREMENTAL:
        parents = list(itertools.islice(usable_parents(repository.newest_first(request.set)), _PARENT_TRIES))
    rereads = partial(_reads_all, request=request, ctx=ctx)
    for attempt in range(1, TORN_TRIES + 1):
        began = _moment(repository, request.set, ctx)
        token = ctx.token()
        staged = repository.stage(f"{stamp(began)}-{request.kind}-{token}", ctx.token())
        try:
            with repository.working_folder(staged, ctx.token()) as scratch, Cut(ctx, scratch) as cut:
                name = (stamp(began), token)
                begun = begin(cut, repository, request.set, request.kind, parents, rereads, staged, name, ctx)
                parent = begun.parent
                packed = _pack(cut, sources, repository, request, parent, scratch, ctx)
            if packed.torn and attempt < TORN_TRIES:
                ctx.log(f"The copy is inconsistent and is taken again: {'; '.join(packed.torn)}")
                continue
            before = None if request.safety else parent or next(usable_parents(repository.newest_first(request.set)), None)
            earlier = usable_parents(repository.newest_first(request.set))
            whole = begun.kind is not BackupKind.SNAPSHOT
            existing = repository.ids(request.set)
            packed.sources, lost = compare(before, packed.sources, request.allowance, existing, earlier, whole=whole)
            for item in lost:
                ctx.log(f"SHRUNK {item.message}")
            manifest = _manifest(begun, request, packed, lost, ctx)
            if before is not None and lost:
                hold_until_confirmed(repository, before, manifest)
            if why := repository.publish(staged, manifest, begun.chain):
                ctx.log(f"NOT IN THE JOURNAL {manifest.id}, which is published: {why}")
            if before is not None:
                end_returned(repository, manifest)
            return Backup(manifest=manifest), begun.reason
        finally:
            durable.remove_tree(staged)
    raise AssertionError("the last attempt returns")


def _moment(repository: Repository, set_name: str, ctx: Context) -> datetime:
    """The time in the id: now, or a second after the newest backup that the set ever had: ids sort in the order of creation."""
    now = ctx.now()
    signed = repository.evidence.journal(set_name).newest if repository.evidence is not None else ""
    newest = max([*repository.ids(set_name)[:1], signed])
    if newest[:16] < stamp(now):
        return now
    after = datetime.strptime(newest[:16], STAMP).replace(tzinfo=UTC) + timedelta(seconds=1)
    if after - now > timedelta(minutes=1):
        ctx.log(f"The newest backup, {newest}, is in the future; the new id is one second later")
    return after


def _reads_all(parent: Backup, request: Request, ctx: Context) -> bool:
    """Whether an incremental on *parent* reads every file, because times were trusted for long enough."""
    last = parent.manifest.read_all
    return last is None or ctx.now() - last >= timedelta(hours=request.reread_hours)


def _is_trusted(repository: Repository, parent: Backup) -> bool:
    """Whether no later backup is damaged, as one would be whose records do not have the digest that was carried on."""
    later = itertools.takewhile(lambda item: item.id != parent.id, repository.newest_first(parent.manifest.set))
    return not any(item.damaged for item in later)


def _pack(
    cut: Cut,
    sources: list[Source],
    repository: Repository,
    request: Request,
    parent: Backup | None,
    scratch: Path,
    ctx: Context,
) -> _Packed:
    with ctx.phase("create", "cut") as phase:
        instant = cut.take(sources, request.within, request.max_pause)
        _refuse_unknown_files(repository, request, sources, instant)
        phase.pause_ms = instant.pauses.model_dump()
        log_cut(instant, ctx)
        cut.copy_pinned(instant)
    before = {record.prefix: record for record in parent.manifest.sources} if parent is not None else {}
    carry_on = (
        parent is not None and not request.safety and not _reads_all(parent, request, ctx) and _is_trusted(repository, parent)
    )
    requests = [pack_request(source, sources, instant, cut, repository, request.exclude) for source in sources]
    table = parent.manifest.data if parent is not None else None
    with ctx.phase("create", "store", sum(size_of(source) for source in sources)) as phase:
        watch = LogWatch([source.path for source in sources if source.kind is SourceKind.SQLITE], ctx)
        cut.packer.begin(
            "pack",
            sources=requests,
            partial_bytes=table.partial_bytes if table else 0,
            whole_bytes=table.whole_bytes if table else 0,
        )
        digests = {
            source.prefix: digest_source(cut, source, instant, before.get(source.prefix), watch.check, ctx, carry_on=carry_on)
            for source in sources
            if source.kind is SourceKind.CHROMA and source.name not in instant.broken
        }
        rows = cut.holder.ask("count", timeout=STEP_TIMEOUT, check=watch.check)
        answer = cut.packer.finish(timeout=STEP_TIMEOUT, on_event=lambda event: phase.reach(event["bytes"]), check=watch.check)
        cut.holder.ask("release", timeout=STEP_TIMEOUT, check=ctx.check)
    torn = [found.message for found in digests.values() if isinstance(found, Problem)]
    records = tuple(
        record_of(
            source,
            instant,
            answer["sources"][source.prefix],
            digests,
            rows.get(source.prefix, {}),
            request.exclude,
            ctx,
        )
        for source in sources
    )
    return _Packed(instant, DataFile.model_validate(answer["data"]), records, answer["read_all"], torn)


def _refuse_unknown_files(repository: Repository, request: Request, sources: list[Source], instant: Instant) -> None:
    """Raise `SourceBroken` for a file that is not a database and is in no earlier backup: the path is wrong."""
    for source in sources:
        pin = instant.pins.get(source.name) if source.kind is SourceKind.SQLITE else None
        if request.safety or pin is None or pin.method != "raw" or not pin.not_a_database:
            continue
        earlier = repository.newest_first(request.set)
        if not any(record.prefix == source.prefix for backup in earlier for record in backup.manifest.sources):
            raise SourceBroken(
                f"{source.path} is not a SQLite database, and no earlier backup holds it.",
                hint="Correct the path; of an encrypted database, back up an export. No backup was made.",
            )


def _manifest(
    begun: Begun,
    request: Request,
    packed: _Packed,
    lost: tuple[Shrunk, ...],
    ctx: Context,
) -> Manifest:
    for record in packed.sources:
        for problem in record.problems:
            ctx.log(f"DAMAGED {record.prefix}: {problem.message}")
    left = len(ctx.lines) - MOST_LINES
    parent = begun.parent
    return Manifest(
        format=1 if begun.chain is None else 2,
        id=begun.id,
        set=request.set,
        kind=begun.kind,
        parent=parent.id if parent is not None else None,
        time=packed.instant.time,
        read_all=packed.instant.time if packed.read_all or parent is None else parent.manifest.read_all,
        finished=ctx.now(),
        host=os.uname().nodename,
        engine=__version__,
        note=request.note,
        sources=packed.sources,
        bytes_source=sum(record.bytes for record in packed.sources),
        bytes_stored=packed.data.bytes,
        pause_ms=packed.instant.pauses,
        data=packed.data,
        encryption=Encryption(**begun.chain.header.as_json()) if begun.chain is not None else None,
        safety=request.safety,
        mixed=request.mixed,
        job=request.job,
        shrunk=lost,
        log=(*ctx.lines[:MOST_LINES], *([f"and {left:,} lines more"] if left > 0 else [])),
    )
