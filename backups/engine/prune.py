"""Removes backups that retention does not keep. `repository.retention` decides, without side effects."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from .errors import UsageError, from_os_error
from .repository.base import Unreadable, set_of
from .repository.folder import Repository
from .repository.retention import Candidate, Decision, EmptyPolicyError, Policy, decide, removal_order
from .runtime.context import Context
from .types import Backup


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """The decision for each backup of a set, newest first, and the names deleted from the trash."""

    decisions: tuple[Decision, ...]
    emptied: tuple[str, ...]
    dry_run: bool


def prune(
    repository: Repository,
    set_name: str,
    policy: Policy,
    ctx: Context,
    *,
    dry_run: bool,
    trash: timedelta,
    wait: float = 0.0,
) -> Pruned:
    """Move backups that *policy* does not keep to the trash, and delete backups that were in it for longer than *trash*.

    It waits *wait* seconds for writers and readers to end.

    It needs no free space, and empties the trash first. Dependents go before what they depend on, so that a crash leaves only
    usable backups. Backups whose manifest cannot be read stay. Raises `UsageError` for an empty policy, `RepositoryLocked`, and
    `RepositoryTooNew` if there is a backup of a later format, because it may need any other.
    """
    now = ctx.now()
    try:
        if dry_run:
            return Pruned(decisions=_decide(repository, set_name, policy, ctx), emptied=(), dry_run=True)
        with _alone(repository, ctx, wait):
            decisions = _decide(repository, set_name, policy, ctx)
            emptied = repository.empty_trash(now, trash)
            for backup_id in removal_order(candidates(repository.backups(set_name)), decisions):
                ctx.check()
                repository.remove(set_name, backup_id, now)
                ctx.log(f"Removed {backup_id}")
            emptied += repository.empty_trash(now, trash)
    except OSError as problem:
        raise from_os_error(problem, "Pruning") from problem
    return Pruned(decisions=decisions, emptied=tuple(emptied), dry_run=False)


@contextmanager
def _alone(repository: Repository, ctx: Context, wait: float) -> Iterator[None]:
    """Be the only process that writes to or reads from the repository, after *wait* seconds at most."""
    until = time.monotonic() + wait
    with repository.writing("prune", ctx.now(), wait), repository.removing(max(0.0, until - time.monotonic())):
        yield


def empty_trash(repository: Repository, ctx: Context, *, dry_run: bool, wait: float = 0.0) -> list[str]:
    """Delete everything in the trash, and return its names. Needs no free space. Raises `RepositoryLocked`."""
    now = ctx.now()
    try:
        if dry_run:
            return repository.in_trash(now, timedelta(0))
        with _alone(repository, ctx, wait):
            return repository.empty_trash(now, timedelta(0))
    except OSError as problem:
        raise from_os_error(problem, "Emptying the trash") from problem


def _decide(repository: Repository, set_name: str, policy: Policy, ctx: Context) -> tuple[Decision, ...]:
    refuse_empty(policy)
    repository.refuse_unknown(set_name)
    return decide(candidates(repository.backups(set_name)), policy, ctx.now())


def refuse_empty(policy: Policy) -> None:
    """Raise `UsageError` for a policy without a rule."""
    if policy.is_empty:
        raise UsageError(f"{str(EmptyPolicyError()).capitalize()}.", hint="For example: --keep-daily 7 --keep-weekly 4.")


def candidates(backups: list[Backup]) -> list[Candidate]:
    """Backups as retention sees them.

    A proof counts until later damage is found in what the backup builds on. If any backup is restore-tested, only
    restore-tested ones count as verified: hashes do not detect that a database was captured broken.
    """
    restored = any(backup.verification == "restore" for backup in backups)
    spoiled: dict[str, datetime] = {}
    for backup in sorted(backups, key=lambda item: item.id):
        found = [backup.failure.time] if backup.failure is not None and not backup.failure.blames_source else []
        found += [spoiled[backup.manifest.parent]] if backup.manifest.parent in spoiled else []
        if found:
            spoiled[backup.id] = max(found)
    return [
        Candidate(
            id=backup.id,
            time=backup.manifest.time,
            # like a snapshot, a safety backup must not be kept instead of a good backup
            kind="snapshot" if backup.manifest.safety else backup.manifest.kind.value,
            needs=frozenset(filter(None, [backup.manifest.parent])),
            hold=(backup.hold.reason or "no reason given") if backup.hold else None,
            damaged=backup.damaged,
            verified=_is_proven(backup, spoiled.get(backup.id)) and (not restored or backup.verification == "restore"),
            incomplete=backup.manifest.incomplete,
        )
        for backup in backups
    ]


def _is_proven(backup: Backup, spoiled: datetime | None) -> bool:
    proven = backup.verified_at
    return proven is not None and not backup.damaged and (spoiled is None or proven > spoiled)


def delete(repository: Repository, backup: Backup | Unreadable, ctx: Context) -> None:
    """Move one backup to the trash. Raises `BackupInUse` if it is held or other backups need it."""
    with repository.writing("delete", ctx.now()), repository.removing():
        repository.delete(set_of(backup), backup.id, ctx.now())
