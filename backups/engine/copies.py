"""Copies backups from one repository to another.

Bytes are copied as they are stored, so that the far end needs no key and the backup's own hashes decide. ::

    arrive     archive, checksums, hold and signature in the far end's ``arriving``; the archive goes on where it was cut short
    read back  every byte at the far end, compared with the hash in the manifest
    publish    one rename, the parent before the incremental
    sign       the far end's journal, with the copier's key
    prove      what was read back is the copy's own proof; no proof is copied

============================ ==========================================================================
a crash while, or before     leaves
============================ ==========================================================================
arriving                     what has arrived; the next copy goes on from there
reading back, publishing     everything; the next copy reads it back and publishes it
signing, proving             a backup without proof; the next copy reads it back, signs and proves it
============================ ==========================================================================
"""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass

from .encryption.chain import ENVELOPE, MOST_ENVELOPE_BYTES
from .errors import BackupNotFound, Cancelled, DamageFound, EngineError, NoSpace, UsageError, from_os_error
from .evidence.vouch import MOST_STATEMENT_BYTES, STATEMENT, sha256
from .names import MANIFEST, SUMS
from .repository.arrivals import HOLD, MOST_HOLD_BYTES, ORIGIN, Arrival
from .repository.base import Unreadable, set_of
from .repository.folder import MOST_SUMS_BYTES, Repository
from .repository.soundness import SOURCE_SUSPECT
from .runtime.context import Context, Phase
from .types import SOURCE_PROBLEMS, Backup, Depth, Problem, Proof
from .verify import record_failure

_PIECE = 1 << 20
_PACES = 4
"""Pieces a second at least, so that a slow copy can be cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A backup that was not copied, and why."""

    set: str
    id: str
    problem: Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What a copy did: set and id of each backup, and bytes.

    ``resumed`` bytes had arrived before; ``left_out`` was deleted or pruned at the far end.
    """

    copied: tuple[tuple[str, str], ...]
    present: int
    left_out: tuple[tuple[str, str], ...]
    refused: tuple[Refused, ...]
    sent: int
    resumed: int


def copy_backups(
    source: Repository,
    target: Repository,
    set_name: str | None,
    chosen: Sequence[Backup],
    ctx: Context,
    *,
    wait: float = 60.0,
    limit: float | None = None,
) -> Copied:
    """Copy the *chosen* backups with their chains, or everything that *target* lacks: of a set, or with None of all sets.

    What was deleted or pruned at *target* is not copied again, unless it is chosen or another backup to be copied needs it.
    Damaged backups, and those that need them, are refused; the rest is copied. A backup that is damaged only because its source
    was is copied, and counts as damaged there too. *limit* is in bytes per second, *wait* the seconds to wait for locks.

    Raises `UsageError` for one repository given twice, `NoSpace`, `Cancelled` and `RepositoryLocked`. Whatever was published
    before stays.
    """
    if source.id and source.id == target.id:
        raise UsageError(
            f"{source.folder} and {target.folder} have the same id: they are one repository, or copies of one folder.",
            hint="Make the one to copy to with `refbackup init`. Nothing was changed.",
        )
    run = _Copy(source, target, ctx, wait, limit)
    try:
        with target.arrivals.receiving(wait):
            run.copy(set_name, chosen)
    except Cancelled:
        raise Cancelled(f"Cancelled. {run.progress}") from None
    except NoSpace as full:
        raise _full(full.message, run) from None
    except OSError as problem:
        error = from_os_error(problem, f"Copying to {target.folder}")
        raise (_full(error.message, run) if isinstance(error, NoSpace) else error) from problem
    return run.result()


def _full(message: str, run: "_Copy") -> NoSpace:
    hint = "Free space there: `refbackup prune --empty-trash` deletes what is in its trash; then copy again."
    return NoSpace(f"{message.removesuffix('.')}. {run.progress}", hint=hint)


class _Copy:
    """One run."""

    def __init__(self, source: Repository, target: Repository, ctx: Context, wait: float, limit: float | None) -> None:
        self._source, self._target, self._ctx, self._wait, self._limit = source, target, ctx, wait, limit
        self._copied: list[tuple[str, str]] = []
        self._left_out: list[tuple[str, str]] = []
        self._refused: list[Refused] = []
        self._present = self._sent = self._resumed = 0

    @property
    def progress(self) -> str:
        """What has been done, in a sentence."""
        return f"{len(self._copied)} backups were copied; what arrived of the next is kept, and not sent again."

    def result(self) -> Copied:
        return Copied(
            copied=tuple(self._copied),
            present=self._present,
            left_out=tuple(self._left_out),
            refused=tuple(self._refused),
            sent=self._sent,
            resumed=self._resumed,
        )

    def copy(self, set_name: str | None, chosen: Sequence[Backup]) -> None:
        sets = sorted({one.manifest.set for one in chosen}) if chosen else [set_name] if set_name else self._source.sets()
        missing: list[Backup | Unreadable] = []
        for name in sets:
            missing += self._missing(name, {item.id for item in chosen if item.manifest.set == name})
        total = sum(item.manifest.data.bytes for item in missing if isinstance(item, Backup))
        with self._ctx.phase("copy", "send and read back", 2 * total) as phase:
            for item in missing:
                self._ctx.check()
                with self._refusing(set_of(item), item.id):
                    if isinstance(item, Unreadable):
                        raise _Refusal(item.problem)
                    self._one(item, phase)

    @contextmanager
    def _refusing(self, set_name: str, backup_id: str) -> Iterator[None]:
        try:
            yield
        except BackupNotFound:
            self._ctx.log(f"{backup_id} was deleted in the meantime")
        except _Refusal as refusal:
            self._refused.append(Refused(set=set_name, id=backup_id, problem=refusal.problem))
            self._ctx.log(f"NOT COPIED {backup_id}: {refusal.problem.message}")

    def _missing(self, set_name: str, chosen: Set[str]) -> list[Backup | Unreadable]:
        """What the far end lacks of a set, each parent before what needs it. Finishes what a crash left there."""
        items = {item.id: item for item in self._source.scan(set_name)}
        there = set(self._target.ids(set_name))
        discarded = {one for name, one in self._target.discarded() if name == set_name} - there if not chosen else set()
        wanted: set[str] = set()
        for backup_id in (one for one in items if one in chosen or (not chosen and one not in discarded)):
            self._present += backup_id in there
            here: str | None = backup_id
            while here in items and here not in wanted and here not in there:
                wanted.add(here)
                item = items[here]
                here = item.manifest.parent if isinstance(item, Backup) else None
        self._left_out += [(set_name, one) for one in sorted(discarded & items.keys() - wanted)]
        if not chosen:
            self._target.arrivals.keep_only(set_name, wanted, wanted | there)
        for backup_id in sorted(self._target.arrivals.unfinished(set_name) & there):
            with self._refusing(set_name, backup_id):
                found = items.get(backup_id)
                self._finish(found if isinstance(found, Backup) else self._target.read(set_name, backup_id))
        return [items[backup_id] for backup_id in sorted(wanted)]

    def _one(self, backup: Backup, phase: Phase) -> None:
        manifest = backup.manifest
        with self._source.reading():
            content = self._checked(backup)
            arrival = self._target.arrivals.of(manifest.set, backup.id, content)
            try:
                seconds = self._send(backup, arrival, phase)
            except DamageFound as damage:
                arrival.discard()
                problem = Problem(code="archive", message=damage.message, file=manifest.archive)
                record_failure(self._source, backup, Depth.HASHES, [problem], self._ctx)
                raise _Refusal(problem) from None
            self._put_rest(backup, content, arrival)
        with self._target.writing("copy", self._ctx.now(), self._wait):
            if manifest.parent is not None and not self._target.exists(manifest.set, manifest.parent):
                raise _Refusal(_without(manifest.parent))
            self._target.arrivals.publish(arrival, manifest.set, backup.id, self._ctx.now())
        self._copied.append((manifest.set, backup.id))
        self._ctx.log(f"Copied {backup.id}")
        self._prove(backup, seconds)

    def _checked(self, backup: Backup) -> bytes:
        """The file of the manifest of a backup that may be copied. Raises `_Refusal`."""
        manifest = backup.manifest
        failed = backup.failure.problems if backup.failure is not None else ()
        for problem in (*backup.inherited, *failed):
            if problem.code != SOURCE_SUSPECT and problem.code not in SOURCE_PROBLEMS:
                raise _Refusal(problem)
        if self._target.sealing.is_active and manifest.encryption is None:
            raise _Refusal(Problem(code="not_encrypted", message="It is not encrypted, and the repository to copy to is."))
        if manifest.encryption is not None and manifest.parent is None and self._envelope(backup) is None:
            raise _Refusal(Problem(code="missing_file", message=f"{ENVELOPE} is missing, and with it the key.", file=ENVELOPE))
        try:
            content = self._source.read_manifest(manifest.set, backup.id)
            expected = self._source.expected_sums(manifest.set, backup.id)
            if expected != {MANIFEST: sha256(content), manifest.archive: manifest.data.sha256}:
                raise DamageFound(f"Manifest and {SUMS} of {backup.id} contradict each other.", id=backup.id)
            if (parent := manifest.parent) is not None:
                if not self._target.exists(manifest.set, parent):
                    raise _Refusal(_without(parent))
                if self._target.read_manifest(manifest.set, parent) != self._source.read_manifest(manifest.set, parent):
                    raise DamageFound(f"It needs {parent}, and the repository to copy to has another one of that id.")
        except DamageFound as damage:
            raise _Refusal(Problem(code="manifest", message=damage.message, file=MANIFEST)) from None
        return content

    def _send(self, backup: Backup, arrival: Arrival, phase: Phase) -> float:
        """Let the archive arrive, and read it back. Returns how long that took. Raises `DamageFound` if it is damaged here."""
        archive, size = backup.manifest.archive, backup.manifest.data.bytes
        arrived = arrival.size(archive)
        if arrived > size:
            arrival.discard()
            arrived = 0
        self._resumed += arrived
        phase.total = (phase.total or 0) - arrived
        for first in (arrived, 0):
            if first < size:
                self._target.arrivals.need_space(size - first)
            with arrival.appending(archive) as append:
                for piece in self._pieces(backup, first, self._limit):
                    append(piece)
                    self._sent += len(piece)
                    phase.advance(len(piece))
            began = time.monotonic()
            if self._is_intact(backup, arrival.read_back(archive), phase):
                return time.monotonic() - began
            if not self._is_intact(backup, self._pieces(backup, 0, None), None):
                raise DamageFound(f"{archive} was changed after it was written: its SHA-256 differs.", id=backup.id)
            arrival.discard()
            phase.total += 2 * size
        raise EngineError(
            f"{self._target.folder} returns other bytes of {backup.id} than were written there.",
            hint="Check that disk. The backup is intact where it was copied from, and nothing was published.",
        )

    def _pieces(self, backup: Backup, first: int, limit: float | None) -> Iterator[bytes]:
        """The archive from the byte *first* on, at most *limit* bytes a second. Raises `DamageFound` if it cannot be read."""
        size = _PIECE if limit is None else max(1, min(_PIECE, int(limit / _PACES)))
        began, sent = time.monotonic(), 0
        try:
            descriptor = self._source.open_file(backup.manifest.set, backup.id, backup.manifest.archive)
            with os.fdopen(descriptor, "rb", buffering=0) as file:
                file.seek(first)
                while piece := file.read(size):
                    self._ctx.check()
                    yield piece
                    sent += len(piece)
                    if limit is not None and (early := sent / limit - (time.monotonic() - began)) > 0:
                        time.sleep(early)
        except OSError as problem:
            raise DamageFound(f"The archive of {backup.id} cannot be read: {problem}.", id=backup.id) from problem

    def _is_intact(self, backup: Backup, pieces: Iterator[bytes], phase: Phase | None) -> bool:
        total, size = hashlib.sha256(), 0
        for piece in pieces:
            self._ctx.check()
            total.update(piece)
            size += len(piece)
            if phase is not None:
                phase.advance(len(piece))
        return (total.hexdigest(), size) == (backup.manifest.data.sha256, backup.manifest.data.bytes)

    def _put_rest(self, backup: Backup, content: bytes, arrival: Arrival) -> None:
        """Let the small files arrive, the manifest last: signature and hold with the backup, the envelope of its chain."""
        where = backup.manifest.set, backup.id
        first = self._small(*where, ORIGIN, MOST_STATEMENT_BYTES) or self._small(*where, STATEMENT, MOST_STATEMENT_BYTES)
        hold = self._small(*where, HOLD, MOST_HOLD_BYTES)
        if hold is None and backup.hold is not None:
            hold = backup.hold.model_dump_json().encode()
        small = {
            ORIGIN: first,
            HOLD: hold,
            ENVELOPE: self._envelope(backup),
            SUMS: self._small(*where, SUMS, MOST_SUMS_BYTES),
            MANIFEST: content,
        }
        for name, stored in small.items():
            if stored is not None:
                arrival.put(name, stored)

    def _envelope(self, backup: Backup) -> bytes | None:
        return self._small(backup.manifest.set, backup.id, ENVELOPE, MOST_ENVELOPE_BYTES)

    def _small(self, set_name: str, backup_id: str, name: str, most: int) -> bytes | None:
        """A small file of a backup here; None if there is none that can be read, or it is too large."""
        try:
            with os.fdopen(self._source.open_file(set_name, backup_id, name), "rb") as file:
                content = file.read(most + 1)
        except OSError:
            return None
        return content if len(content) <= most else None

    def _finish(self, backup: Backup) -> None:
        """Read back, sign and prove a copy that was published when a run was cut short. Raises `_Refusal`."""
        manifest = backup.manifest
        began = time.monotonic()
        with os.fdopen(self._target.open_file(manifest.set, backup.id, manifest.archive), "rb", buffering=0) as file:
            intact = self._is_intact(backup, iter(lambda: file.read(_PIECE), b""), None)
        if not intact:
            problem = Problem(
                code="archive", message=f"{manifest.archive} was changed after it was copied.", file=manifest.archive
            )
            record_failure(self._target, backup, Depth.HASHES, [problem], self._ctx)
            raise _Refusal(problem)
        self._prove(backup, time.monotonic() - began)

    def _prove(self, backup: Backup, seconds: float) -> None:
        """Sign a published copy, and record that its bytes were read back. What its source had wrong is wrong with it too."""
        manifest, now = backup.manifest, self._ctx.now()
        failed = backup.failure.problems if backup.failure is not None else ()
        problems = [one for one in (*manifest.problems, *failed) if one.code in SOURCE_PROBLEMS]
        proof = Proof(
            id=backup.id,
            time=now,
            ok=not problems,
            depth=Depth.HASHES,
            seconds=round(seconds, 3),
            bytes=manifest.data.bytes,
            problems=tuple(dict.fromkeys(problems)),
            checks={"copied_from": self._source.id},
            scope="written",
        )
        why = self._target.arrivals.sign(manifest.set, backup.id, now)
        why = self._target.record_proof(manifest.set, proof) or why
        if why:
            self._ctx.log(f"NOT SIGNED The copy of {backup.id} and its proof do not count: {why}")
        self._target.arrivals.done(manifest.set, backup.id)


class _Refusal(Exception):
    """A backup is not copied; the others are."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def _without(parent: str) -> Problem:
    return Problem(code="missing_file", message=f"It needs {parent}, which was not copied.", lies_in=parent)
