"""What a backup's manifest and proofs do not tell: whether the files that it needs exist, whether another set holds its id,
and whether its sources were sound.

Damage of a block that several backups share is not here: `verify` records it in the proofs of each of them.
"""

import json
from dataclasses import replace
from typing import Protocol

from ..errors import EngineError
from ..names import BACKUP_ID
from ..types import SOURCE_PROBLEMS, Backup, Depth, Manifest, Problem, Proof

SOURCE_SUSPECT = "source_suspect"
"""Code of the problem that a source was damaged in an earlier backup, and no test restore has shown since that it is sound."""

SAME_ID = "same_id"
"""Code of the problem that another set holds a backup with the same id."""

PROOFS = "proofs"
"""Code of the problem that the proofs of a backup, and with them its failures, cannot be read."""

UNVOUCHED = "unvouched"
"""Code of the problem that no trusted key signed a backup."""

DEPENDENT = frozenset({SOURCE_SUSPECT, SAME_ID, UNVOUCHED})
"""Codes of problems that end when another backup is tested or deleted, or when this one is signed."""

_Link = tuple[str | None, Problem | None]
"""A backup's parent, and what is wrong with its files."""


def keeps_damage(backup: Backup) -> bool:
    """Whether a damaged backup is the safety backup of a damaged store, and is as that store was: nothing is wrong with it."""
    codes = {problem.code for problem in backup.problems}
    return backup.manifest.safety and bool(codes) and codes <= {*SOURCE_PROBLEMS, SOURCE_SUSPECT}


class Stored(Protocol):
    """What it takes of a repository to judge its backups; see `base.BaseRepository`."""

    def sets(self) -> list[str]: ...
    def ids(self, set_name: str) -> list[str]: ...
    def read_manifest(self, set_name: str, backup_id: str) -> bytes: ...
    def archive_bytes(self, set_name: str, backup_id: str) -> int | None: ...
    def unvouched(self, set_name: str, backup_id: str, manifest: bytes) -> str: ...
    def proofs_hidden(self, set_name: str, backup_id: str) -> str: ...
    def was_restored(self, set_name: str, backup_id: str) -> bool: ...
    def read(self, set_name: str, backup_id: str) -> Backup: ...


class Soundness:
    """Judges the backups of one set; reads each manifest and each folder of proofs once. Use one for each operation."""

    def __init__(self, repository: Stored, set_name: str) -> None:
        self._repository = repository
        self._set = set_name
        self._ids: list[str] | None = None
        self._links: dict[str, _Link] = {}
        self._chains: dict[str, Problem | None] = {}
        self._tested: dict[str, Backup | None] = {}
        self._twins: dict[str, str] | None = None

    def inherited(self, backup: Backup) -> tuple[Problem, ...]:
        """The problems of a backup whose manifest and proofs were read."""
        found = (self._of_files(backup.id), self._of_twins(backup.id), self._of_proofs(backup))
        return (*(problem for problem in found if problem is not None), *self._of_sources(backup))

    def verdict(self, backup: Backup, proof: Proof) -> Proof:
        """The new *proof* with what else makes *backup* damaged now, so that it agrees with what ``list`` says afterwards.

        Intact bytes do not tell that the source was sound, or which of two backups with one id is real.
        """
        now = replace(backup, proofs=(*backup.proofs, proof))
        return _with_problems(proof, replace(now, inherited=self.inherited(now)).problems)

    def _of_proofs(self, backup: Backup) -> Problem | None:
        if backup.proofs:
            return None
        why = self._repository.proofs_hidden(self._set, backup.id)
        return Problem(code=PROOFS, message=f"Its proofs cannot be read: {why}.", lies_in=backup.id) if why else None

    def _of_twins(self, backup_id: str) -> Problem | None:
        """Ids are random: one that two sets hold was copied there, and which of the two is the copy cannot be told."""
        if self._twins is None:
            others = [name for name in self._repository.sets() if name != self._set]
            self._twins = {one: name for name in others for one in self._repository.ids(name)}
        if backup_id not in self._twins:
            return None
        other = self._twins[backup_id]
        return Problem(
            code=SAME_ID,
            message=f"The sets {self._set} and {other} each hold a backup {backup_id}, and only one of them was made by "
            "`refbackup`. Delete the other one.",
            lies_in=backup_id,
        )

    def _of_files(self, backup_id: str) -> Problem | None:
        """What is wrong with the files that a backup needs, seen from it: first its own, then those of its ancestors."""
        chain: dict[str, None] = {}
        here: str | None = backup_id
        problem: Problem | None = None
        while here is not None and here not in self._chains and here not in chain:
            parent, problem = self._link(here)
            if problem is not None:
                self._chains[here] = problem
                break
            chain[here] = None
            here = parent
        if here in self._chains and problem is None:
            problem = self._chains[here]
        for one in chain:
            self._chains[one] = problem
        if problem is None or self._link(backup_id)[1] is not None:
            return problem
        return problem.model_copy(update={"message": f"A backup that it needs is damaged: {problem.message}"})

    def _link(self, backup_id: str) -> _Link:
        if backup_id not in self._links:
            self._links[backup_id] = self._read_link(backup_id)
        return self._links[backup_id]

    def _read_link(self, backup_id: str) -> _Link:
        try:
            content = self._repository.read_manifest(self._set, backup_id)
            about = json.loads(content)
            parent, expected = about.get("parent"), about["data"]["bytes"]
            if about["id"] != backup_id:
                return None, Problem(code="manifest", message=f"The manifest of {backup_id} is that of another backup.")
            if parent is not None and not BACKUP_ID.fullmatch(parent):
                raise ValueError
        except EngineError as problem:
            return None, Problem(code="missing_file", message=problem.message, lies_in=backup_id)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None, Problem(code="manifest", message=f"The manifest of {backup_id} cannot be read.", lies_in=backup_id)
        if why := self._repository.unvouched(self._set, backup_id, content):
            return parent, Problem(code=UNVOUCHED, message=f"Nothing vouches for {backup_id}: {why}.", lies_in=backup_id)
        found = self._repository.archive_bytes(self._set, backup_id)
        if found is None:
            return parent, Problem(code="missing_file", message=f"The archive of {backup_id} is missing.", lies_in=backup_id)
        if found != expected:
            message = f"The archive of {backup_id} has {found} bytes instead of {expected}."
            return parent, Problem(code="archive_size", message=message, lies_in=backup_id)
        return parent, None

    def _of_sources(self, backup: Backup) -> list[Problem]:
        """Sources that the last test restore before *backup* found damaged, unless it was tested itself."""
        if self._is_tested(backup):
            return []
        blamed = self._last_tested_before(backup.id)
        if blamed is None or blamed.failure is None:
            return []
        found = []
        for problem in blamed.failure.problems:
            if problem.code in SOURCE_PROBLEMS and _holds(backup.manifest, problem.source):
                message = (
                    f"{problem.source or 'A source'} was damaged in {blamed.id}, and no test restore has succeeded since: "
                    f"{problem.message}"
                )
                found.append(Problem(code=SOURCE_SUSPECT, source=problem.source, message=message, lies_in=blamed.id))
        return found[:1]

    def _last_tested_before(self, backup_id: str) -> Backup | None:
        """The newest backup before *backup_id* that was restored to test it, safety backups excepted."""
        if self._ids is None:
            self._ids = self._repository.ids(self._set)
        passed = []
        found: Backup | None = None
        for older in (one for one in self._ids if one < backup_id):
            if older in self._tested:
                found = self._tested[older]
                break
            passed.append(older)
            found = self._tested_backup(older)
            if found is not None:
                break
        for one in passed:
            self._tested[one] = found
        return found

    def _tested_backup(self, backup_id: str) -> Backup | None:
        if not self._repository.was_restored(self._set, backup_id):
            return None
        try:
            backup = self._repository.read(self._set, backup_id)
        except EngineError:
            return None
        return backup if self._is_tested(backup) and not backup.manifest.safety else None

    @staticmethod
    def _is_tested(backup: Backup) -> bool:
        """Whether a restore has shown that its sources are sound, or that they are not."""
        if backup.failure is not None:
            return any(problem.code in SOURCE_PROBLEMS for problem in backup.failure.problems)
        return any(proof.ok and proof.depth is Depth.RESTORE for proof in backup.proofs)


def results(backup: Backup) -> tuple[Proof, ...]:
    """The proofs of *backup*, oldest first, as they are shown: none is good if its source was damaged when it was backed up."""
    failed = backup.failure.problems if backup.failure is not None else ()
    of_source = (*backup.manifest.problems, *(problem for problem in failed if problem.code in SOURCE_PROBLEMS))
    return tuple(_with_problems(proof, of_source) for proof in backup.proofs)


def _with_problems(proof: Proof, found: tuple[Problem, ...]) -> Proof:
    known = {problem.model_copy(update={"lies_in": None}) for problem in proof.problems}
    more = tuple(one for one in found if one.model_copy(update={"lies_in": None}) not in known)
    return proof.model_copy(update={"ok": False, "problems": (*proof.problems, *more)}) if more else proof


def _holds(manifest: Manifest, source: str | None) -> bool:
    return source is None or any(source in (record.name, record.prefix) for record in manifest.sources)
