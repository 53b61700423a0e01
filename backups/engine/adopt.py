"""Signs what is in a repository: after an upgrade, after the loss of a key, and when what was noticed is explained."""

import contextlib
from dataclasses import dataclass

from .errors import EngineError, UsageError, from_os_error
from .evidence.journal import Vouched
from .evidence.vouch import sha256
from .repository.folder import Repository
from .runtime.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The backups of each set that are signed now, and the unreadable ones."""

    signed: dict[str, list[str]]
    left_out: list[str]


def adopt(repository: Repository, ctx: Context) -> Adopted:
    """Sign every readable backup with its proofs and its hold, and forget the backups that are gone.

    This trusts the content of the repository as it is: nothing can tell afterwards what was forged before. Each set is signed
    in one step; after a crash, run it again. Raises `UsageError` without a key to sign with, and `RepositoryLocked`.
    """
    evidence = repository.evidence
    if evidence is None or evidence.keys.private is None:
        raise UsageError(
            "There is no key to sign with.", hint="Set BACKUP_SIGNING_KEY to the file of one, outside the repository."
        )
    signed: dict[str, list[str]] = {}
    left_out = []
    try:
        with repository.writing("adopt", ctx.now(), wait=10.0):
            evidence.begin()
            for set_name in repository.sets():
                found = {}
                for backup_id in repository.ids(set_name):
                    ctx.check()
                    try:
                        found[backup_id] = _vouched(repository, set_name, backup_id)
                    except EngineError as problem:
                        left_out.append(backup_id)
                        ctx.log(f"NOT SIGNED {backup_id}: {problem.message}")
                evidence.adopt(set_name, found, ctx.now())
                signed[set_name] = list(found)
    except OSError as problem:
        raise from_os_error(problem, "Signing the backups") from problem
    return Adopted(signed=signed, left_out=left_out)


def _vouched(repository: Repository, set_name: str, backup_id: str) -> Vouched:
    content = repository.read_manifest(set_name, backup_id)
    repository.read(set_name, backup_id)  # only what can be restored is signed
    hold = b""
    with contextlib.suppress(FileNotFoundError):
        hold = repository.read_hold(set_name, backup_id)
    proofs = [digest for _, digest, _ in repository.stored_proofs(set_name, backup_id)]
    return Vouched(sha256(content), sha256(hold) if hold else "", proofs)
