"""Diagnoses a repository: its backups, signatures, leftovers, trash and space."""

import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from .diagnosis import Advice, Diagnosis, check_space
from .encryption.keyring import Keyring
from .errors import EngineError, PermissionMissing, RepositoryTooNew
from .evidence.keys import Keys
from .progress import counted, human_bytes
from .recipients import encryption_findings
from .repository.arrivals import ARRIVING
from .repository.base import Unreadable, set_of
from .repository.folder import Repository, open_repository
from .repository.scratch import SCRATCH, STAGING
from .repository.soundness import keeps_damage
from .repository.suspicion import suspicions
from .shrinkage import unconfirmed_loss


def check_repository(folder: Path, keys: Keys | None, keyring: Keyring | None, report: Diagnosis) -> None:
    """Add what is found about the repository in *folder*. Changes nothing."""
    try:
        repository = open_repository(folder, keys, keyring)
    except EngineError as problem:
        report.add("problem", str(folder), problem.message, problem.hint)
        return
    for check in (_check_backups, _check_losses, _check_evidence, _check_encryption, _check_debris, _check_trash):
        try:
            check(repository, report)
        except OSError as problem:  # such as a link in the place of a folder: the other folders are checked all the same
            report.add("problem", str(folder), f"it cannot be read: {problem}", Advice.REPOSITORY)
    if not os.access(folder, os.W_OK):
        report.add("problem", str(folder), "this user cannot write to it", "Correct owner and mode.")
    check_space(folder, report, "backups need room")


def _check_backups(repository: Repository, report: Diagnosis) -> None:
    folder, scanned = repository.folder, repository.scan()
    unreadable = [item for item in scanned if isinstance(item, Unreadable)]
    newer = [item.id for item in unreadable if item.problem.code == RepositoryTooNew.code]
    closed = [item.id for item in unreadable if item.problem.code == PermissionMissing.code]
    broken = [item.id for item in unreadable if item.id not in {*newer, *closed}]
    unsound = [item for item in scanned if not isinstance(item, Unreadable) and item.damaged]
    damaged = [item.id for item in unsound if not keeps_damage(item)]
    kept = [item.id for item in unsound if keeps_damage(item)]
    proven = [item for item in scanned if not isinstance(item, Unreadable) and item.verified_at and not item.damaged]
    stored = sum(item.manifest.bytes_stored for item in scanned if not isinstance(item, Unreadable))
    report.add("ok", str(folder), f"{counted(len(scanned), 'backup')}, {human_bytes(stored)}, {len(proven)} verified")
    times = Counter(item.id for item in scanned)
    same = [f"{set_of(item)}/{item.id}" for item in scanned if times[item.id] > 1]
    if same:
        message = f"several sets hold one id: {', '.join(same[:6])}"
        report.add("problem", str(folder), message, "Delete the one that refbackup did not make: refbackup delete SET/ID.")
    damaged = [one for one in damaged if times[one] == 1]
    if broken or damaged:
        named = ", ".join((broken + damaged)[:5])
        report.add("problem", str(folder), f"damaged: {named}", "Make a new full backup, then delete the damaged ones.")
    if closed:
        report.add("problem", str(folder), f"this user cannot read: {', '.join(closed[:5])}", "Correct owner and mode.")
    if newer:
        report.add("problem", str(folder), f"written by a newer version: {', '.join(newer[:5])}", "Upgrade refbackup.")
    if kept:
        message = f"safety backups of damaged stores: {', '.join(kept[:5])}"
        report.add("note", str(folder), message, "Release and delete them when they are no longer needed.")
    if not scanned:
        report.add("warning", str(folder), "it holds no backup", "Make the first one with refbackup create.")
    elif not proven:
        usable = len(unsound) + len(unreadable) < len(scanned)
        todo = "Run refbackup verify latest --depth restore." if usable else "Make a new full backup."
        report.add("warning", str(folder), "no backup is verified", todo)


def _check_losses(repository: Repository, report: Diagnosis) -> None:
    for set_name in repository.sets():
        newest = next((item for item in repository.newest_first(set_name) if not item.manifest.safety), None)
        if newest is not None and (loss := unconfirmed_loss(repository.holds(set_name), newest.id)):
            report.add("warning", str(repository.folder), loss, Advice.CONFIRM_LOSS)


def _check_evidence(repository: Repository, report: Diagnosis) -> None:
    evidence = repository.evidence
    sets = [name for name in repository.sets() if evidence is not None and evidence.kept(name)]
    if not sets:
        report.add("note", str(repository.folder), "no key vouches for its backups", Advice.SIGN)
    elif evidence is not None:
        report.add("ok", str(repository.folder), evidence.keys.words)
    for problem in (one for name in sets for one in suspicions(repository, name)):
        report.add("problem", str(repository.folder), problem.message.removesuffix("."), Advice.LOOK)


def _check_encryption(repository: Repository, report: Diagnosis) -> None:
    for level, message, advice in encryption_findings(repository):
        report.add(level, str(repository.folder), message, advice)


def _check_debris(repository: Repository, report: Diagnosis) -> None:
    left = repository.debris()
    for place, what in ((STAGING, "an interrupted backup"), (SCRATCH, "an interrupted verification")):
        if count := sum(name.startswith(f"{place}/") for name in left):
            report.add(
                "note",
                str(repository.folder / place),
                f"{counted(count, 'folder')} of {what}, or of a running one",
                "The next backup removes them.",
            )
    if arrived := repository.content.names(ARRIVING):
        place = str(repository.folder / ARRIVING)
        message = f"{counted(len(arrived), 'part')} of an interrupted copy, or of a running one"
        report.add("note", place, message, "The next refbackup copy goes on from there.")


def _check_trash(repository: Repository, report: Diagnosis) -> None:
    trash = repository.in_trash(datetime.now(UTC), timedelta(0))
    if trash:
        message = f"{len(trash)} deleted backups"
        report.add("note", str(repository.trash), message, "Delete them now with refbackup prune --empty-trash.")
