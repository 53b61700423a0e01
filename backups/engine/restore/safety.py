"""The safety backup of a restore in place: the live stores as they were, whatever their state."""

from dataclasses import replace

from ..chroma_files.tables import DATABASE
from ..create import Request, create_backup
from ..errors import Cancelled, DamageFound, EngineError, NoSpace, RestoreRefused
from ..prune import delete
from ..repository.folder import Repository
from ..runtime.context import Context
from ..types import Backup, BackupKind, Depth, Hold, Source, SourceKind
from .targets import Target


def can_be_backed_up(target: Target) -> bool:
    """Whether there is a store that a safety backup can hold."""
    return (target.path / DATABASE if target.record.kind is SourceKind.CHROMA else target.path).exists()


def make_safety_backup(
    repository: Repository, targets: list[Target], set_name: str, note: str, within: float, ctx: Context, *, mixed: bool
) -> Backup | None:
    """Back up the live stores, and hold that backup. None if no store exists. *within* limits the wait for a cut, in seconds.

    *mixed*: an interrupted restore left them.

    Raises `RestoreRefused` if it cannot be made, or cannot be read again.
    """
    existing = tuple(
        Source(kind=target.record.kind, name=target.record.name, path=target.path)
        for target in targets
        if can_be_backed_up(target)
    )
    if not existing:
        ctx.log("None of the targets exists, so no safety backup is made.")
        return None
    request = Request(
        sources=existing,
        set=set_name,
        kind=BackupKind.INCREMENTAL,
        note=note,
        verify=Depth.HASHES,
        wait=60.0,
        within=within,
        max_pause=max(within, 1.0),
        safety=True,
        mixed=mixed,
    )
    try:
        saved = create_backup(repository, request, replace(ctx, lines=[])).backup
        repository.set_hold(saved, Hold(time=ctx.now(), note=note))
        if saved.proof is not None and not saved.proof.ok:
            raise DamageFound(f"{saved.id} cannot be read again: {saved.proof.problems[0].message}", hint="Check the disk.")
    except (Cancelled, NoSpace):
        raise
    except EngineError as problem:
        raise RestoreRefused(
            f"The safety backup failed: {problem.message} Nothing was changed.", hint=problem.hint, reason=problem.code
        ) from problem
    ctx.log(f"Safety backup of the live data: {saved.id}")
    return saved


def discard(repository: Repository, saved: Backup, ctx: Context) -> None:
    """Remove a safety backup that a later one has replaced, or leave it held if that fails."""
    hold = repository.hold(saved.manifest.set, saved.id)
    try:
        repository.set_hold(saved, None)
        delete(repository, saved, ctx)
    except (EngineError, OSError) as problem:
        repository.set_hold(saved, hold)
        ctx.log(f"{saved.id}, which is not needed any more, could not be removed: {problem}")
