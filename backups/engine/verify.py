"""Prove backups: every byte that one needs, or a whole restore with the stores opened and compared.

A proof is recorded in the repository, good or bad, so that ``list`` and retention know it on any machine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .archive.blocks import BLOCK
from .archive.reader import Archives, BlockDamaged, locate_in
from .archive.sharing import Spot, sharers
from .archive.table import EntryType, FrameRef, Tree
from .errors import DamageFound, EngineError, NoSpace, RepositoryTooNew, from_os_error
from .examination import examine as examined
from .extract import extract
from .repository.folder import DATA, MANIFEST, SUMS, Repository
from .runtime import durable
from .runtime.child import Child
from .runtime.context import Context, Phase
from .runtime.space import need_space
from .types import Backup, Depth, Problem, Proof, SourceKind, SourceRecord

PROBER = "backups.engine.prober"
_PIECE = 1 << 20
_MOST_PROBLEMS = 50


@dataclass(slots=True)
class Findings:
    """What a verification found so far."""

    problems: list[Problem] = field(default_factory=list)
    spots: dict[Problem, Spot] = field(default_factory=dict)
    checks: dict[str, Any] = field(default_factory=dict)
    bytes: int = 0

    def add(self, code: str, message: str, spot: Spot | None = None, **place: Any) -> None:
        """Note a problem, and the damaged *spot* in an archive that causes it; beyond fifty only the first are kept."""
        if len(self.problems) < _MOST_PROBLEMS:
            problem = Problem(code=code, message=message, **place)
            self.problems.append(problem)
            if spot is not None:
                self.spots[problem] = spot


class Checked:
    """The frames that were read and found good, so that a run over many backups reads each once."""

    def __init__(self) -> None:
        self._good: set[tuple[str, int]] = set()

    def fresh(self, refs: Iterable[FrameRef]) -> list[FrameRef]:
        """Those of *refs* that were not checked yet, each once, in the order in which they lie in their archives."""
        wanted = {(ref.backup, ref.frame) for ref in refs} - self._good
        return [FrameRef(backup, frame) for backup, frame in sorted(wanted)]

    def note(self, ref: FrameRef) -> None:
        """Remember that *ref* is good."""
        self._good.add((ref.backup, ref.frame))


def verify_backup(
    repository: Repository,
    backup: Backup,
    depth: Depth,
    ctx: Context,
    *,
    checked: Checked | None = None,
    drill: bool = False,
    probe: Callable[[Path], dict[str, Any]] | None = None,
    examine: str = "",
    written_only: bool = False,
) -> Proof:
    """Verify one backup and record the result.

    ``hashes`` reads and checks every byte that the backup needs: manifest, archive, tables, and each block, its parents'
    included. ``restore`` does so by restoring it into the repository's scratch folder, and then runs SQLite's checks and opens
    Chroma in a child, compares all records with the digests of the cut, and searches. A failed proof is a result, not an
    error; what is raised says that it could not be carried out (`NoSpace`, `Cancelled`, `RepositoryLocked`).

    *examine* is a command of the application (`examination`) that looks at the restored stores of a sound backup; what it says
    is kept in the proof's checks as ``application``.

    With *written_only*, ``hashes`` checks what the backup's own archive stores, all of which was just written: a backup every
    ten seconds cannot read all its ancestors each time, which were checked when they were made.

    A crash leaves a scratch folder, which the next backup clears.
    """
    began = time.monotonic()
    findings = Findings()
    try:
        with repository.reading():
            with ThreadPoolExecutor(1) as beside:
                summed = beside.submit(_check_files, repository, backup, ctx)
                if depth is Depth.HASHES:
                    _check_blocks(repository, backup, findings, ctx, checked or Checked(), written_only=written_only)
                else:
                    _check_restore(repository, backup, findings, ctx, drill=drill, probe=probe, examine=examine)
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
        try:
            repository.record_proof(backup, proof)
        except OSError as problem:
            if problem.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            ctx.log(f"The result could not be recorded, for the repository may not be written to: {problem}")
    except OSError as problem:
        raise from_os_error(problem, f"Verifying {backup.id}") from problem
    return proof


def record_failure(repository: Repository, backup: Backup, depth: Depth, problems: list[Problem], ctx: Context) -> None:
    """Record what a restore found wrong, so that ``latest`` passes over the backup. A repository on read-only media forgets."""
    proof = Proof(id=backup.id, time=ctx.now(), ok=False, depth=depth, seconds=0.0, bytes=0, problems=tuple(problems))
    with contextlib.suppress(OSError):
        repository.record_proof(backup, proof)


def verify_many(
    repository: Repository, backups: list[Backup], depth: Depth, ctx: Context, *, examine: str = ""
) -> Iterator[Proof]:
    """Verify several backups one after the other, yielding each proof; blocks that they share are read once."""
    checked = Checked()
    for backup in backups:
        ctx.check()
        yield verify_backup(repository, backup, depth, ctx, checked=checked, examine=examine)


def _check_files(repository: Repository, backup: Backup, ctx: Context) -> Findings:
    """Compare manifest and archive with ``SHA256SUMS``, and the archive with what the manifest says of it."""
    folder = repository.backup_folder(backup.manifest.set, backup.id)
    findings = Findings()
    wanted = backup.manifest.data
    try:
        expected = repository.expected_sums(backup.manifest.set, backup.id)
    except DamageFound as damage:
        findings.add("checksums", damage.message, file=SUMS)
        expected = {DATA: wanted.sha256}
    for name in sorted(expected):
        total = hashlib.sha256()
        size = 0
        try:
            with (folder / name).open("rb") as file:
                while piece := file.read(_PIECE):
                    ctx.check()
                    total.update(piece)
                    size += len(piece)
        except FileNotFoundError:
            findings.add("missing_file", f"{name} is missing.", file=name)
            continue
        findings.bytes += size
        found = total.hexdigest()
        if name == MANIFEST:
            if found != expected[name]:
                findings.add("manifest", f"{name} is not what was written: its SHA-256 differs.", file=name)
        elif size != wanted.bytes:
            message = f"{name} has {size} bytes instead of {wanted.bytes}."
            findings.add("archive_size", message, file=name, offset=min(size, wanted.bytes))
        elif found not in (expected[name], wanted.sha256):
            findings.add("archive", f"{name} is not what was written: its SHA-256 differs.", file=name)
        elif expected[name] != wanted.sha256:
            wrong = SUMS if found == wanted.sha256 else MANIFEST
            findings.add("checksums", f"{wrong} names another SHA-256 than {name} has.", file=wrong)
    return findings


def _check_blocks(
    repository: Repository, backup: Backup, findings: Findings, ctx: Context, checked: Checked, *, written_only: bool
) -> None:
    with Archives(locate_in(repository.backup_folder(backup.manifest.set, ""))) as archives:
        tree = _tree(archives, backup, findings)
        if tree is None:
            return
        refs = checked.fresh(
            ref for entry in tree.entries.values() for ref in tree.refs(entry) if not written_only or ref.backup == backup.id
        )
        with (
            ctx.phase("verify", "blocks", sum(_raw(archives, ref) or 0 for ref in refs)) as phase,
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
        ):
            pending: deque[Future[_Bad]] = deque()
            bad: _Bad = {}
            try:
                for batch in _batches(refs, 8):
                    pending.append(threads.submit(_check_batch, archives, batch, checked, phase))
                    if len(pending) > 16:
                        bad |= pending.popleft().result()
                while pending:
                    bad |= pending.popleft().result()
            except BaseException:
                for left in pending:
                    left.cancel()
                raise
            findings.bytes += phase.done
        _name_blocks(archives, tree, bad, findings)


def _batches(refs: list[FrameRef], size: int) -> Iterator[list[FrameRef]]:
    iterator = iter(refs)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


_Bad = dict[FrameRef, tuple[str, Spot]]
"""The references that cannot be read, each with what was said and the spot that causes it."""


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
    """Where the damage lies: the frame that a `BlockDamaged` names, else a whole archive, that of *backup* if none is named."""
    if isinstance(damage, BlockDamaged):
        return damage.backup, damage.offset
    return str(damage.details.get("id", backup)), None


def _raw(archives: Archives, ref: FrameRef) -> int | None:
    """The size of a block as its table tells it, None where that cannot be read."""
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
        findings.add("table", damage.message, spot, file=DATA, offset=damage.details.get("offset"))
        return None


def _name_blocks(archives: Archives, tree: Tree, bad: _Bad, findings: Findings) -> None:
    """Turn damaged frames into problems that name the files of the backup which hold them, and the byte there.

    So it does with blocks that have not the size of their place.
    """
    for path, entry in tree.entries.items():
        for number, ref in enumerate(tree.refs(entry)):
            start, end = number * BLOCK, min((number + 1) * BLOCK, entry.size)
            if ref in bad:
                message, spot = bad[ref]
            elif _raw(archives, ref) != end - start:
                frame = archives.frame(ref)
                message, spot = f"A block of {frame.raw} bytes does not fit its place", (ref.backup, frame.offset)
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
    """Name in each problem the other backups of the set that need what is damaged.

    Damage of the archive that lies in no block and not in the table harms no other backup; its place is looked for.
    """
    others = [other for other in repository.ids(backup.manifest.set) if other != backup.id]
    own = {spot for spot in findings.spots.values() if spot[0] == backup.id}
    named = []
    with Archives(locate_in(repository.backup_folder(backup.manifest.set, ""))) as archives:
        shared = sharers(archives, others, set(findings.spots.values()))
        for problem in findings.problems:
            if problem in findings.spots:
                known = set(shared[findings.spots[problem]])
            elif problem.file == DATA:
                known = {other for spot in own for other in shared[spot]}
            else:
                known = set()
            update: dict[str, Any] = {"also_in": tuple(other for other in others if other in known)}
            if problem.code == "archive" and not own:
                update["offset"] = archives.damaged_glue(backup.id)
                if update["offset"] is None:
                    update["message"] = f"{problem.message} All blocks and headers still read as written: no content changed."
            named.append(problem.model_copy(update=update))
    return named


def _check_restore(
    repository: Repository,
    backup: Backup,
    findings: Findings,
    ctx: Context,
    *,
    drill: bool,
    probe: Callable[[Path], dict[str, Any]] | None,
    examine: str,
) -> None:
    if drill:
        findings.checks["recovery_point_seconds"] = round(max(0.0, (ctx.now() - backup.manifest.time).total_seconds()), 3)
    scratch = repository.scratch / f"{os.getpid()}.{ctx.token()}"
    try:
        need_space(repository.folder, backup.manifest.bytes_source, "restore the backup for verification")
        durable.make_folder(scratch)
        began = time.monotonic()
        with Archives(locate_in(repository.backup_folder(backup.manifest.set, ""))) as archives:
            tree = _tree(archives, backup, findings)
            if tree is None:
                return
            try:
                with ctx.phase("verify", "restore", backup.manifest.bytes_source) as phase:
                    findings.bytes += extract(archives, tree, scratch, phase, sync=drill)
            except DamageFound as damage:
                spot = _spot(damage, backup.id)
                findings.add("block", damage.message, spot, file=DATA, offset=spot[1])
                return
        findings.checks["restore_seconds"] = round(time.monotonic() - began, 3)
        check_stores(backup, scratch, findings, ctx)
        findings.checks["files"] = sum(1 for entry in tree.entries.values() if entry.kind is EntryType.FILE)
        if probe is not None and not findings.problems:
            with ctx.phase("verify", "probe"):
                findings.checks["probe"] = probe(scratch)
        if examine and not findings.problems:
            with ctx.phase("verify", "examine"):
                findings.checks["application"] = examined(examine, backup, scratch, ctx)
    finally:
        durable.remove_tree(scratch)


def check_stores(backup: Backup, folder: Path, findings: Findings, ctx: Context, *, only: set[str] | None = None) -> None:
    """Open the stores of *backup* restored in *folder*, in a child, and compare them with what the source held."""
    for record in backup.manifest.sources:
        if only is not None and record.prefix not in only:
            continue
        if record.kind is SourceKind.SQLITE:
            _check_sqlite(record, folder / record.prefix, findings, ctx)
        elif record.kind is SourceKind.CHROMA:
            _check_chroma(record, folder / record.prefix, findings, ctx)


def _check_sqlite(record: SourceRecord, path: Path, findings: Findings, ctx: Context) -> None:
    if record.method == "raw":
        findings.problems.extend(record.problems)
        return
    with ctx.phase("verify", f"check {record.prefix}", record.bytes) as phase:
        answer = probe(ctx, "sqlite", record.bytes, findings, record, path=str(path))
        phase.reach(record.bytes)
    if answer is None:
        return
    for message in answer["integrity"]:
        findings.add("sqlite_integrity", message, source=record.name, file=record.prefix)
    findings.checks[record.prefix] = {
        "integrity_check": "ok" if not answer["integrity"] else "failed",
        "foreign_key_check": answer["foreign_keys"],
        "tables": answer["tables"],
    }


def _check_chroma(record: SourceRecord, directory: Path, findings: Findings, ctx: Context) -> None:
    if any(problem.code == "chroma_structure" for problem in record.problems):
        findings.problems.extend(record.problems)
        return
    with ctx.phase("verify", f"compare {record.prefix}", record.bytes) as phase:
        answer = probe(ctx, "digests", record.bytes, findings, record, directory=str(directory))
        if answer is None:
            return
        if "problem" in answer:
            findings.add("chroma_structure", answer["problem"], source=record.name, file=record.prefix)
            return
        _compare_digests(record, answer["collections"], findings)
        opened = probe(ctx, "chroma", record.bytes, findings, record, directory=str(directory))
        phase.reach(record.bytes)
    if opened is None:
        return
    for message in opened["problems"]:
        findings.add("chroma_content", message, source=record.name, file=record.prefix)
    findings.checks[record.prefix] = {
        "chromadb": opened["client"] or "not installed: the files were compared, the client was not opened",
        "collections": opened["collections"]
        or {item["name"]: {"count": item["count"]} for item in answer["collections"].values()},
    }


def _compare_digests(record: SourceRecord, found: dict[str, dict[str, Any]], findings: Findings) -> None:
    expected = {item.id: item for item in record.collections}
    for identifier in sorted(expected.keys() | found.keys()):
        if identifier not in found or identifier not in expected:
            name = expected[identifier].name if identifier in expected else found[identifier]["name"]
            findings.add("chroma_content", f"The collection {name} is on one side only.", source=record.name)
            continue
        wanted = expected[identifier].digest
        for part in ("count", "indexed", "recent", "records"):
            if found[identifier][part] != getattr(wanted, part):
                what = {"count": "number of records", "indexed": "vectors", "recent": "log"}.get(part, "records")
                findings.add(
                    "chroma_content",
                    f"The {what} of {expected[identifier].name} are not those that the source held.",
                    source=record.name,
                    file=record.prefix,
                )


def probe(
    ctx: Context, do: str, size: int, findings: Findings, record: SourceRecord, **arguments: str
) -> dict[str, Any] | None:
    """Ask a fresh child to open a store; a child that crashes or hangs is a finding. The limit grows with *size*."""
    limit = 120.0 + size / 5_000_000
    try:
        with Child(PROBER) as child:
            answer: dict[str, Any] = child.ask(do, timeout=limit, check=ctx.check, **arguments)
            return answer
    except NoSpace:
        raise
    except EngineError as problem:
        if problem.code == "cancelled":
            raise
        findings.add("unopenable", f"{record.prefix} cannot be opened: {problem.message}", source=record.name)
        return None
