"""Changes that were made to a set without a key: backups, proofs or holds that vanished, planted holds, a changed journal.

What concerns the content of a backup is a problem of that backup instead (`soundness.UNVOUCHED`).
"""

from ..evidence.vouch import STATEMENT
from ..types import Backup, Problem
from .folder import Repository

JOURNAL = "journal"
"""Code: the journal of a set is missing, was changed or was rolled back, so that no proof counts."""

VANISHED = "vanished"
"""Code: a backup that was signed is gone, and nobody with a key deleted it."""

TAMPERED_HOLD = "tampered_hold"
"""Code: a hold was planted, changed or removed."""

LOST_PROOFS = "lost_proofs"
"""Code: signed proofs are gone, and earlier ones do not count any more."""


def suspicions(repository: Repository, set_name: str) -> list[Problem]:
    """The problems of a set; none where no evidence is kept."""
    evidence = repository.evidence
    if evidence is None or not evidence.kept(set_name):
        return []
    found = []
    journal = evidence.journal(set_name)
    if why := journal.problem or journal.warning:
        message = f"The journal of the set {set_name} cannot be relied on: {why}."
        found.append(Problem(code=JOURNAL, message=message))
    ids = repository.ids(set_name)
    for backup_id in repository.vanished(set_name):
        message = f"{backup_id} is gone from the set {set_name}, and nobody with a key deleted it."
        found.append(Problem(code=VANISHED, message=message, lies_in=backup_id))
    for backup_id, hold in () if journal.problem else repository.holds(set_name):
        if hold is not None and not hold.signed:
            message = f"{backup_id} is held: {hold.reason}."
            found.append(Problem(code=TAMPERED_HOLD, message=message, lies_in=backup_id))
    for backup_id in ids:
        known = journal.backups.get(backup_id)
        signed = set(known.proofs) if known is not None else set()
        if signed and (lost := len(signed - repository.proof_digests(set_name, backup_id))):
            message = f"{lost} of {len(signed)} proofs of {backup_id} are gone; earlier ones do not count."
            found.append(Problem(code=LOST_PROOFS, message=message, lies_in=backup_id))
    return found


def is_unchecked(repository: Repository, backup: Backup) -> bool:
    """Whether a backup is signed, and no key here can tell by whom: nothing vouches for it, and nothing speaks against it."""
    if repository.evidence is not None and repository.evidence.kept(backup.manifest.set):
        return False
    folder = repository.content.inside(f"backups/{backup.manifest.set}/{backup.id}")
    return folder.status(STATEMENT) is not None
