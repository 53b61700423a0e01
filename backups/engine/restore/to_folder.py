"""Restores a backup into a folder. ``in_place`` uses the same steps to stage what it exchanges."""

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..archive.reader import Archives
from ..archive.table import EntryType, Tree
from ..check_stores import Findings, check_stores
from ..errors import DamageFound, TargetOccupied, UsageError, from_os_error
from ..extract import Lost, data_bytes, extract
from ..names import MANIFEST
from ..repository.folder import Repository
from ..repository.soundness import UNVOUCHED
from ..runtime import durable
from ..runtime.context import Context
from ..runtime.space import need_space
from ..types import SOURCE_PROBLEMS, Backup, Depth, Problem, SourceKind, SourceRecord
from ..verify import record_failure
from .partial import clear_partials, partial_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The result of a restore, or of a dry run.

    ``bytes`` counts what was written; ``lost`` has the blocks a salvage zeroed. ``damaged`` has the problems, as JSON, of
    stores that were damaged when they were backed up, and are restored as they were.
    """

    id: str
    to: str
    seconds: float
    bytes: int
    checks: dict[str, Any]
    dry_run: bool = False
    lost: tuple[Lost, ...] = ()
    damaged: tuple[dict[str, Any], ...] = ()


def select(backup: Backup, only: str | None) -> tuple[SourceRecord, ...]:
    """The sources of *backup* that ``--only KIND[:NAME]`` selects; all for None. Raises `UsageError`."""
    if only is None:
        return backup.manifest.sources
    kind, _, name = only.partition(":")
    if kind not in set(SourceKind):
        raise UsageError(f"--only takes {', '.join(SourceKind)}, each with an optional :NAME, not {only!r}.")
    chosen = tuple(record for record in backup.manifest.sources if record.kind == kind and name in ("", record.name))
    if not chosen:
        held = ", ".join(f"{record.kind}:{record.name}" for record in backup.manifest.sources)
        raise UsageError(f"Backup {backup.id} does not hold {only}; it holds {held}.")
    return chosen


def wanted_by(records: tuple[SourceRecord, ...]) -> Callable[[str], bool]:
    """A function that says whether a path of the archive belongs to one of *records*, logs of raw databases included."""
    whole = frozenset(record.prefix + suffix for record in records for suffix in ("", "-wal", "-journal"))
    below = tuple(record.prefix + "/" for record in records)

    def wanted(path: str) -> bool:
        return path in whole or path.startswith(below)

    return wanted


def check_manifest(repository: Repository, backup: Backup) -> None:
    """Raise `DamageFound` if the manifest was changed since it was published, or if nobody vouches for what is restored.

    Raises `KeyMissing` if it is encrypted and no key at hand opens it.
    """
    unvouched = next((problem for problem in backup.inherited if problem.code == UNVOUCHED), None)
    if unvouched is not None:
        raise DamageFound(
            f"{unvouched.message} Nothing was restored.",
            hint="Restore another backup. If you know where this one is from, sign it first: refbackup adopt",
            id=backup.id,
        )
    repository.sealing.chain_of(backup.manifest)
    expected = repository.expected_sums(backup.manifest.set, backup.id)[MANIFEST]
    content = repository.read_manifest(backup.manifest.set, backup.id)
    if hashlib.sha256(content).hexdigest() != expected:
        raise DamageFound(
            f"The manifest of {backup.id} was changed after it was written. Nothing was restored.",
            hint="Restore another backup; `refbackup verify --all` shows which are sound.",
            id=backup.id,
        )


def plan(
    repository: Repository, backup: Backup, records: tuple[SourceRecord, ...], *, salvage: bool = False
) -> tuple[Archives, Tree, int]:
    """The open archives, the tree, and the bytes of *records*. The caller closes the archives.

    Raises `DamageFound`; with *salvage*, a changed manifest is used as long as its fields are valid, and where one is lost,
    the archive says where its table is.
    """
    if not salvage:
        check_manifest(repository, backup)
    archives = Archives(repository.locate(backup.manifest.set, salvage=salvage))
    try:
        tree = archives.tree(backup.id)
    except BaseException:
        archives.close()
        raise
    wanted = wanted_by(records)
    return archives, tree, sum(entry.size for path, entry in tree.entries.items() if wanted(path))


def _refuse_inside(place: Path, folder: Path, name: str) -> None:
    """A repository deletes what it does not know, and an application takes what is in its folders for its own."""
    if place.is_relative_to(os.path.realpath(folder)):
        raise TargetOccupied(f"{place} lies inside {name}.", hint=f"Choose a folder outside {folder}. Nothing was written.")


def _refuse_target(repository: Repository, backup: Backup, target: Path, place: Path) -> None:
    """Raise `TargetOccupied` unless *target*, which is *place* without links, is new or empty, and outside of all others."""
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise TargetOccupied(f"{target} exists and is not an empty folder.")
    if not repository.is_scratch(place):
        _refuse_inside(place, repository.folder, "the repository")
    for record in backup.manifest.sources:
        if record.kind is not SourceKind.SQLITE:
            _refuse_inside(place, Path(record.path), f"the live store {record.prefix}")
    if place.is_mount():
        raise TargetOccupied(f"{target} is a mount point, which cannot be exchanged.", hint="Choose a new folder in it.")


def restore_to(
    repository: Repository,
    backup: Backup,
    target: Path,
    ctx: Context,
    *,
    only: str | None = None,
    dry_run: bool = False,
    check: bool = False,
    salvage: bool = False,
) -> Restored:
    """Restore *backup* into the new or empty folder *target*, completely or not at all.

    1. Check the manifest, the space and the target, and remove what killed restores left beside it.
    2. Write everything into a folder beside the target (`partial`), check each block against its hash, and sync it.
    3. With *check*, open the stores and compare them with the manifest.
    4. Rename the folder to *target*, with the mode and owner of an existing empty folder.

    A store that was damaged when it was backed up is restored as it was, and named in the result.

    With *salvage*, blocks that cannot be read become zeros and are listed in the result: the last resort if no backup is sound.

    A crash before 4 leaves ``.refbackup-partial.TOKEN`` beside the target. Raises `DamageFound`, `TargetOccupied`, `NoSpace`.
    """
    began = time.monotonic()
    records = select(backup, only)
    lost: list[Lost] = []
    damaged = [problem for record in records for problem in record.problems]
    place = Path(os.path.realpath(target))
    try:
        with ExitStack() as stack:
            _refuse_target(repository, backup, target, place)
            if not dry_run:
                clear_partials(place.parent, ctx.log)
            with repository.reading():
                archives, tree, size = plan(repository, backup, records, salvage=salvage)
                with archives:
                    copied = sum(record.bytes for record in records if check and record.kind is SourceKind.CHROMA)
                    need_space(place.parent, data_bytes(archives, tree, wanted_by(records)) + copied, f"restore {backup.id}")
                    checks = _counts(tree, records)
                    if not dry_run:
                        durable.make_folder(place.parent, 0o755)
                        staged = stack.enter_context(partial_folder(place.parent, ctx.token))
                        with ctx.phase("restore", "write", size) as phase:
                            extract(
                                archives,
                                tree,
                                staged,
                                phase,
                                wanted=wanted_by(records),
                                lost=lost.append if salvage else None,
                            )
            if not dry_run:
                if check:
                    findings = _checked(repository, backup, staged, records, ctx)
                    checks |= findings.checks
                    damaged += [problem for problem in findings.problems if problem not in damaged]
                durable.sync_tree_folders(staged)
                if place.exists():
                    _give_mode(staged, place.stat())
                    place.rmdir()
                durable.publish(staged, place)
    except DamageFound as damage:
        problem = Problem(
            code="restore", message=damage.message, file=backup.manifest.archive, offset=damage.details.get("offset")
        )
        if "problems" in damage.details:
            record_failure(repository, backup, Depth.RESTORE, [problem], ctx)
        else:
            record_failure(repository, backup, Depth.HASHES, [problem], ctx, damage=damage)
        raise
    except OSError as problem:
        raise from_os_error(problem, f"Restoring into {target}") from problem
    return Restored(
        id=backup.id,
        to=str(target),
        seconds=round(time.monotonic() - began, 3),
        bytes=size,
        checks=checks,
        dry_run=dry_run,
        lost=tuple(sorted(lost, key=lambda block: (block.path, block.offset))),
        damaged=tuple(problem.model_dump(mode="json") for problem in damaged),
    )


def _give_mode(staged: Path, before: os.stat_result) -> None:
    """Give *staged* the mode and the owner of the empty folder that it replaces."""
    if os.geteuid() == 0:
        os.chown(staged, before.st_uid, before.st_gid)
    staged.chmod(stat.S_IMODE(before.st_mode))


def _counts(tree: Tree, records: tuple[SourceRecord, ...]) -> dict[str, Any]:
    wanted = wanted_by(records)
    entries = [entry for path, entry in tree.entries.items() if wanted(path)]
    return {
        "files": sum(1 for entry in entries if entry.kind is EntryType.FILE),
        "blocks": sum(len(entry.blocks) for entry in entries),
        "hashes": "every block is checked as it is written",
    }


def check_untouched(backup: Backup, folder: Path, record: SourceRecord, findings: Findings, ctx: Context) -> None:
    """Run `check_stores` on one store restored in *folder* without changing it.

    A newer chromadb migrates the directory that it opens, so a copy is opened.
    """
    if record.kind is not SourceKind.CHROMA:
        check_stores(backup, folder, findings, ctx, only={record.prefix})
        return
    opened = folder / ".opened"
    try:
        shutil.copytree(folder / record.prefix, opened / record.prefix, symlinks=True)
        check_stores(backup, opened, findings, ctx, only={record.prefix})
    finally:
        durable.remove_tree(opened)


def _checked(repository: Repository, backup: Backup, folder: Path, records: tuple[SourceRecord, ...], ctx: Context) -> Findings:
    """The results; all problems in them were in the sources already. Raises `DamageFound` for any other."""
    findings = Findings()
    for record in records:
        check_untouched(backup, folder, record, findings, ctx)
    if any(problem.code not in SOURCE_PROBLEMS for problem in findings.problems):
        raise DamageFound(
            f"The data restored from {backup.id} is damaged and was not published: {findings.problems[0].message}",
            id=backup.id,
            problems=[problem.model_dump(mode="json") for problem in findings.problems],
        )
    if findings.problems and not backup.manifest.problems:
        record_failure(repository, backup, Depth.RESTORE, findings.problems, ctx)
    return findings
