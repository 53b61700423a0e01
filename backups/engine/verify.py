"""Verify backups: read every byte that a backup needs, or restore it and check the stores.

The result, good or bad, is recorded in the repository as a proof, where ``list`` and retention find it on any machine.
"""

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from .application_check import NO_CHECK, ApplicationCheck
from .archive.blocks import BLOCK
from .archive.locate import BlockDamaged
from .archive.reader import Archives
from .archive.sharing import Spot, sharers
from .archive.table import EntryType, FrameRef, Tree
from .check_stores import Findings, check_stores, unchecked_in
from .encryption.chain import ENVELOPE
from .errors import NO_SPACE, DamageFound, RepositoryTooNew, from_os_error
from .extract import data_bytes, extract
from .names import MANIFEST, SUMS
from .repository.folder import Repository
from .repository.soundness import PROOFS
from .runtime.context import Context, Phase
from .runtime.enclosure import NotAllowed
from .runtime.space import need_space
from .runtime.threads import pool, run_ahead
from .types import Backup, Depth, Problem, Proof

_PIECE = 1 << 20
_BATCH, _AHEAD = 8, 16
"""Blocks that a thread checks at once, and batches that are worked on ahead."""


class Checked:
    """The frames that were read and are good, so that a run over many backups reads each frame once."""

    def __init__(self) -> None:
        self._good: set[tuple[str, int]] = set()

    def fresh(self, refs: Iterable[FrameRef]) -> list[FrameRef]:
        """The *refs* not checked yet, without duplicates, in the order of their archives."""
        wanted = {(ref.backup, ref.frame) for ref in refs} - self._good
        return [FrameRef(backup, frame) for backup, frame in sorted(wanted)]

    def note(self, ref: FrameRef) -> None:
        """Record that *ref* is good."""
        self._good.add((ref.backup, ref.frame))


def verify_backup(
    repository: Repository,
    backup: Backup,
    depth: Depth,
    ctx: Context,
    *,
    checked: Checked | None = None,
    drill: bool = False,
    application: ApplicationCheck = NO_CHECK,
    written_only: bool = False,
) -> Proof:
    """Verify one backup and record the result.

    ``hashes`` reads and checks every byte that the backup needs: manifest, archive, tables and every block, those of its
    ancestors included. ``restore`` restores it into the repository's scratch folder, runs SQLite's checks, opens Chroma in a
    child process, compares all records with the digests of the cut, and searches. On a sound backup it then runs the commands
    of *application*, whose results the proof keeps.

    With *written_only*, ``hashes`` checks only the blocks in the backup's own archive, all of which were just written: a
    backup every ten seconds cannot read all its ancestors each time. They were checked when they were made.

    Damage gives a failed proof. A result for which the disk has no space is returned as `Proof.unrecorded`. Errors mean that
    the backup could not be verified: `NoSpace`, `Cancelled`, `RepositoryLocked`, and `KeyMissing` for one that no key at hand
    opens.
    A crash leaves a scratch folder, which the next backup removes.
    """
    began = time.monotonic()
    findings = Findings()
    repository.sealing.chain_of(backup.manifest)
    if altered := repository.sealing.altered_envelope(backup.manifest):
        findings.add("envelope", altered, file=ENVELOPE)
    try:
        with repository.reading():
            with ThreadPoolExecutor(1) as beside:
                summed = beside.submit(_check_files, repository, backup, ctx)
                if depth is Depth.HASHES:
                    _check_blocks(repository, backup, findings, ctx, checked or Checked(), written_only=written_only)
                else:
                    _check_restore(repository, backup, findings, ctx, application, drill=drill)
                files = summed.result()
            findings.bytes += files.bytes
            findings.problems[:0] = files.problems
            if findings.problems:
                findings.problems = _with_others(repository, backup, findings)
        proof = Proof(
            id=backup.id,
            time=ctx.now(),
            ok=not findings.problems,
            depth=depth,
            seconds=round(time.monotonic() - began, 3),
            bytes=findings.bytes,
            problems=tuple(findings.problems),
            checks=findings.checks,
            drill=drill,
            scope="written" if written_only and depth is Depth.HASHES else "needed",
        )
        for part in unchecked_in(proof):
            ctx.log(f"NOT CHECKED {part}")
        try:
            if why := _record(repository, backup.manifest.set, proof):
                ctx.log(f"NOT SIGNED The result for {backup.id} does not count: {why}")
        except NotAllowed as problem:
            unrecorded = Problem(code=PROOFS, message=f"The result cannot be recorded: {problem}.")
            proof = proof.model_copy(update={"ok": False, "problems": (*proof.problems, unrecorded)})
        except OSError as problem:
            if problem.errno in NO_SPACE:
                proof = proof.model_copy(update={"unrecorded": f"{problem.strerror}"})
            is_read_only = problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
            if proof.ok and not is_read_only and not proof.unrecorded:
                raise
            why = "the repository is read-only" if is_read_only else "it cannot be written"
            ctx.log(f"The result could not be recorded, because {why}: {problem}")
    except OSError as problem:
        raise from_os_error(problem, f"Verifying {backup.id}") from problem
    return proof


def changed_files(repository: Repository, backup: Backup, ctx: Context) -> list[Problem]:
    """What ``SHA256SUMS`` shows without a key: files that are missing, or were changed after they were written.

    Nothing is recorded. Raises `EngineError`.
    """
    try:
        with repository.reading():
            return _check_files(repository, backup, ctx).problems
    except OSError as problem:
        raise from_os_error(problem, f"Reading {backup.id}") from problem


def record_failure(
    repository: Repository,
    backup: Backup,
    depth: Depth,
    problems: list[Problem],
    ctx: Context,
    *,
    damage: DamageFound | None = None,
) -> None:
    """Record damage that a restore found, so that ``latest`` skips the backup. Does nothing if the repository is read-only.

    The backups that share the damaged place which *damage* names are marked too.
    """
    if damage is not None:
        findings = Findings(problems=problems, spots=dict.fromkeys(problems, _spot(damage, backup.id)))
        problems = _with_others(repository, backup, findings)
    proof = Proof(id=backup.id, time=ctx.now(), ok=False, depth=depth, seconds=0.0, bytes=0, problems=tuple(problems))
    with contextlib.suppress(OSError):
        _record(repository, backup.manifest.set, proof)


def _record(repository: Repository, set_name: str, proof: Proof) -> str:
    """Record a proof and, for each backup that shares what it found damaged, a failed one that names it in ``checks``.

    So no backup looks sound whose data is known to be damaged, and a later success of that backup lifts the mark. Returns why
    the proof does not count, "" if it does.
    """
    why = repository.record_proof(set_name, proof)
    for other in sorted({other for problem in proof.problems for other in problem.also_in}):
        shared = tuple(
            problem.model_copy(update={"also_in": tuple(one for one in (proof.id, *problem.also_in) if one != other)})
            for problem in proof.problems
            if other in problem.also_in
        )
        failed = Proof(
            id=other,
            time=proof.time,
            ok=False,
            depth=Depth.HASHES,
            seconds=0.0,
            bytes=0,
            problems=shared,
            checks={"found_in": proof.id},
        )
        with contextlib.suppress(NotAllowed):  # proofs that cannot be read are damage of that backup already
            repository.record_proof(set_name, failed)
    return why


def verify_many(
    repository: Repository,
    backups: list[Backup],
    depth: Depth,
    ctx: Context,
    *,
    application: ApplicationCheck = NO_CHECK,
) -> Iterator[Proof]:
    """Verify several backups, yielding each proof, in their order; blocks that those of a set share are read once."""
    checked: dict[str, Checked] = {}
    for backup in backups:
        ctx.check()
        of_set = checked.setdefault(backup.manifest.set, Checked())
        yield verify_backup(repository, backup, depth, ctx, checked=of_set, application=application)


def _check_files(repository: Repository, backup: Backup, ctx: Context) -> Findings:
    """Compare manifest and archive with ``SHA256SUMS``, and the archive with the manifest."""
    findings = Findings()
    wanted, archive = backup.manifest.data, backup.manifest.archive
    try:
        expected = repository.expected_sums(backup.manifest.set, backup.id)
    except DamageFound as damage:
        findings.add("checksums", damage.message, file=SUMS)
        expected = {archive: wanted.sha256}
    for name in sorted(expected):
        total = hashlib.sha256()
        try:
            with os.fdopen(repository.open_file(backup.manifest.set, backup.id, name), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if name == archive and size != wanted.bytes:
                    message = f"{name} has {size} bytes instead of {wanted.bytes}."
                    findings.add("archive_size", message, file=name, offset=min(size, wanted.bytes))
                    continue
                while piece := file.read(_PIECE):
                    ctx.check()
                    total.update(piece)
        except FileNotFoundError:
            findings.add("missing_file", f"{name} is missing.", file=name)
            continue
        except NotAllowed as problem:
            findings.add("missing_file", f"{name} cannot be read: {problem}.", file=name)
            continue
        findings.bytes += size
        found = total.hexdigest()
        if name == MANIFEST:
            if found != expected[name]:
                findings.add("manifest", f"{name} was changed after it was written: its SHA-256 differs.", file=name)
        elif found not in (expected[name], wanted.sha256):
            findings.add("archive", f"{name} was changed after it was written: its SHA-256 differs.", file=name)
        elif expected[name] != wanted.sha256:
            wrong = SUMS if found == wanted.sha256 else MANIFEST
            findings.add("checksums", f"The SHA-256 of {name} in {wrong} is wrong.", file=wrong)
    return findings


def _check_blocks(
    repository: Repository, backup: Backup, findings: Findings, ctx: Context, checked: Checked, *, written_only: bool
) -> None:
    with Archives(repository.locate(backup.manifest.set)) as archives:
        tree = _tree(archives, backup, findings)
        if tree is None:
            return
        refs = checked.fresh(
            ref for entry in tree.entries.values() for ref in tree.refs(entry) if not written_only or ref.backup == backup.id
        )
        with (
            ctx.phase("verify", "blocks", sum(_raw(archives, ref) or 0 for ref in refs)) as phase,
            pool() as threads,
        ):
            batches = (refs[first : first + _BATCH] for first in range(0, len(refs), _BATCH))
            tasks = (partial(_check_batch, archives, batch, checked, phase) for batch in batches)
            bad: _Bad = {}
            for found in run_ahead(threads, tasks, _AHEAD):
                bad |= found
            findings.bytes += phase.done
        _name_blocks(archives, tree, bad, findings)


_Bad = dict[FrameRef, tuple[str, Spot]]
"""References that cannot be read, each with the error message and the damaged spot."""


def _check_batch(archives: Archives, refs: list[FrameRef], checked: Checked, phase: Phase) -> _Bad:
    bad: _Bad = {}
    for ref in refs:
        try:
            phase.advance(len(archives.read(ref)))
            checked.note(ref)
        except DamageFound as damage:
            bad[ref] = (damage.message, _spot(damage, ref.backup))
    return bad


def _spot(damage: DamageFound, backup: str) -> Spot:
    """The damaged spot: the frame of a `BlockDamaged`, else a whole archive, by default that of *backup*."""
    if isinstance(damage, BlockDamaged):
        return damage.backup, damage.offset
    return str(damage.details.get("id", backup)), None


def _raw(archives: Archives, ref: FrameRef) -> int | None:
    """The size of a block according to its table; None if that cannot be read."""
    try:
        return archives.frame(ref).raw
    except DamageFound:
        return None


def _tree(archives: Archives, backup: Backup, findings: Findings) -> Tree | None:
    try:
        return archives.tree(backup.id)
    except RepositoryTooNew:
        raise
    except DamageFound as damage:
        spot = (str(damage.details.get("id", backup.id)), None)
        findings.add("table", damage.message, spot, file=backup.manifest.archive, offset=damage.details.get("offset"))
        return None


def _name_blocks(archives: Archives, tree: Tree, bad: _Bad, findings: Findings) -> None:
    """Report damaged frames, and blocks of the wrong size, by the files and offsets that they affect."""
    for path, entry in tree.entries.items():
        for number, ref in enumerate(tree.refs(entry)):
            start, end = number * BLOCK, min((number + 1) * BLOCK, entry.size)
            if ref in bad:
                message, spot = bad[ref]
            elif _raw(archives, ref) != end - start:
                frame = archives.frame(ref)
                message, spot = f"A block has the wrong size, {frame.raw} bytes", (ref.backup, frame.offset)
            else:
                continue
            findings.add(
                "block",
                f"{message}: bytes {start} to {end} of {path}.",
                spot,
                source="/".join(path.split("/")[:2]),
                file=path,
                offset=start,
            )


def _with_others(repository: Repository, backup: Backup, findings: Findings) -> list[Problem]:
    """The problems, each with the other backups of the set that need the damaged part.

    Damage of an archive outside of blocks and table affects no other backup; its offset is searched for.
    """
    others = [other for other in repository.ids(backup.manifest.set) if other != backup.id]
    own = {spot for spot in findings.spots.values() if spot[0] == backup.id}
    named = []
    with Archives(repository.locate(backup.manifest.set)) as archives:
        shared = sharers(archives, others, set(findings.spots.values()))
        for problem in findings.problems:
            affected: set[str]
            if problem in findings.spots:
                affected = set(shared[findings.spots[problem]])
            elif problem.file == backup.manifest.archive:
                affected = {other for spot in own for other in shared[spot]}
            else:
                affected = set()
            spot = findings.spots.get(problem)
            update: dict[str, Any] = {"also_in": tuple(other for other in others if other in affected)}
            update["lies_in"] = spot[0] if spot is not None else backup.id
            if problem.code == "archive" and not own:
                update["offset"] = archives.first_corrupt_gap(backup.id)
                if update["offset"] is None:
                    update["message"] = f"{problem.message} All blocks and headers are intact: no content changed."
            named.append(problem.model_copy(update=update))
    return named


def _check_restore(
    repository: Repository,
    backup: Backup,
    findings: Findings,
    ctx: Context,
    application: ApplicationCheck,
    *,
    drill: bool,
) -> None:
    if drill:
        findings.checks["recovery_point_seconds"] = round(max(0.0, (ctx.now() - backup.manifest.time).total_seconds()), 3)
    with repository.scratch_folder(ctx.token()) as scratch:
        began = time.monotonic()
        with Archives(repository.locate(backup.manifest.set)) as archives:
            tree = _tree(archives, backup, findings)
            if tree is None:
                return
            try:
                needed = data_bytes(archives, tree, lambda path: True)
                need_space(repository.folder, needed, "restore the backup for verification")
                with ctx.phase("verify", "restore", backup.manifest.bytes_source) as phase:
                    findings.bytes += extract(archives, tree, scratch, phase, sync=drill)
            except DamageFound as damage:
                # The first damaged block ends a restore: find the others, and with them all backups that share one
                _check_blocks(repository, backup, findings, ctx, Checked(), written_only=False)
                if not findings.problems:
                    spot = _spot(damage, backup.id)
                    findings.add("block", damage.message, spot, file=backup.manifest.archive, offset=spot[1])
                return
        findings.checks["restore_seconds"] = round(time.monotonic() - began, 3)
        check_stores(backup, scratch, findings, ctx)
        findings.checks["files"] = sum(1 for entry in tree.entries.values() if entry.kind is EntryType.FILE)
        if not findings.problems:
            findings.checks |= application.run(backup, scratch, ctx)
