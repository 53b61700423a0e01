"""Chooses what a new backup builds on, and opens its archive."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .capture.cut import STEP_TIMEOUT, Cut
from .encryption.chain import ChainKey, new_chain
from .errors import KeyMissing
from .repository.folder import Repository
from .repository.soundness import UNVOUCHED
from .runtime.context import Context
from .types import Backup, BackupKind

_LOOKED_AT = 100
"""Newest backups of a set that are looked at for encryption."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A backup whose archive is open: its id, its parent, why an incremental has none, and the chain that encrypts it."""

    id: str
    kind: BackupKind
    parent: Backup | None = None
    reason: str = ""
    chain: ChainKey | None = None


def usable_parents(backups: Iterable[Backup]) -> Iterator[Backup]:
    """The *backups* that an incremental may build on, in their order: undamaged ones that hold every store.

    Safety backups are excluded: they may hold only some stores, and retention removes them after their release.
    """
    return (
        item
        for item in backups
        if item.manifest.kind is not BackupKind.SNAPSHOT and not (item.manifest.safety or item.manifest.locked or item.damaged)
    )


def begin(
    cut: Cut,
    repository: Repository,
    set_name: str,
    wanted: BackupKind,
    parents: list[Backup],
    rereads: Callable[[Backup], bool],
    staged: Path,
    name: tuple[str, str],
    ctx: Context,
) -> Begun:
    """Open the archive in the folder *staged* on the newest readable one of *parents*, or on none.

    *name* is the beginning and the end of the id. *rereads* says whether all files are read although the parent has them.
    """
    moment, token = name
    where: dict[str, Any] = {
        "folder": str(staged),
        "repository": str(repository.folder),
        "set_name": set_name,
        "timeout": STEP_TIMEOUT,
        "check": ctx.check,
    }
    reasons = []
    for parent in parents:
        chain = repository.sealing.chain_of(parent.manifest)
        if why := _ends_chain(repository, parent.manifest.set, chain):
            reasons.append(f"{parent.id} {why}")
            continue
        owner = f"{moment}-{BackupKind.INCREMENTAL}-{token}"
        reread = rereads(parent)
        problem = cut.packer.ask("begin", owner=owner, parent=parent.id, chain=_shown(chain), reread=reread, **where)
        if problem is None:
            return Begun(id=owner, kind=BackupKind.INCREMENTAL, parent=parent, chain=chain)
        ctx.log(f"{parent.id} cannot be the parent: {problem}")
        reasons.append(f"{parent.id} is damaged")
    kind = BackupKind.FULL if wanted is BackupKind.INCREMENTAL else wanted
    owner = f"{moment}-{kind}-{token}"
    chain = new_chain(set_name, owner) if repository.sealing.is_active else None
    cut.packer.ask("begin", owner=owner, parent=None, chain=_shown(chain), **where)
    if wanted is not BackupKind.INCREMENTAL:
        return Begun(id=owner, kind=kind, chain=chain)
    reason = "; ".join(reasons) or _unvouched(repository, set_name)
    reason = reason or f"the set {set_name} has no undamaged full or incremental backup yet"
    ctx.log(f"The incremental becomes a full backup: {reason}")
    return Begun(id=owner, kind=kind, reason=reason, chain=chain)


def _shown(chain: ChainKey | None) -> dict[str, str] | None:
    """A chain's key for the packer, which gets it through a pipe."""
    return {"id": chain.chain, "key": chain.key.hex()} if chain is not None else None


def _ends_chain(repository: Repository, set_name: str, chain: ChainKey | None) -> str:
    """Why no backup may continue the *chain* of a parent, as the end of a sentence about it; "" if one may."""
    if chain is None:
        return "is not encrypted" if repository.sealing.is_active else ""
    keyring = repository.sealing.keyring
    begun = keyring is not None and keyring.continues(set_name, chain.header)
    return "" if begun else "is of a chain that this host did not begin, or has ended"


def refuse_plain(repository: Repository, set_name: str) -> None:
    """Raise `KeyMissing` for a plain backup in a set with encrypted ones, or in a new set beside encrypted ones."""
    if repository.sealing.is_active:
        return
    sets = [set_name] if repository.ids(set_name) else repository.sets()
    if any(repository.is_sealed(one, backup_id) for one in sets for backup_id in repository.ids(one)[:_LOOKED_AT]):
        where = f"The set {set_name}" if sets == [set_name] else "The repository"
        raise KeyMissing(
            f"{where} holds encrypted backups, and this host does not know for whom to encrypt. No backup was made.",
            hint="Name this host's key in BACKUP_ENCRYPTION_KEY. If it is lost, run `refbackup key init` with a new one.",
        )


def _unvouched(repository: Repository, set_name: str) -> str:
    """Why the newest backup cannot be a parent, if that is because nobody signed it or what it needs."""
    newest = next(repository.newest_first(set_name), None)
    inherited = newest.inherited if newest is not None else ()
    return next((problem.message.removesuffix(".") for problem in inherited if problem.code == UNVOUCHED), "")
