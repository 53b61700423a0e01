"""The interface of a repository, and the operations that are the same for every backend.

A backend (`folder` is the only one) stores manifests, archives, proofs and holds, publishes and removes backups in one step
each, receives copies (`arrivals`), and provides locks. Finding, loading and deleting by rules is done here.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from ..archive.locate import Locate
from ..errors import BackupInUse, BackupNotFound, DamageFound, EngineError, RepositoryTooNew, UsageError
from ..names import ARCHIVES, BACKUP_ID, DATA, MANIFEST, NAME, SUMS
from ..types import Backup, BackupKind, Hold, Manifest, Problem, Proof
from .arrivals import Arrivals
from .sealing import Sealing
from .soundness import Soundness

FORMAT = 1
MANIFEST_FORMAT = 2
"""That of encrypted backups; others have 1."""

_MOST_SAID = 1000


STAMP = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A backup whose manifest is damaged, or of a later format."""

    set: str
    id: str
    problem: Problem


def set_of(item: Backup | Unreadable) -> str:
    """The set of a backup, readable or not."""
    return item.set if isinstance(item, Unreadable) else item.manifest.set


def stamp(moment: datetime) -> str:
    """A moment in UTC as ids and file names write it: ``20261121T030000Z``."""
    return moment.strftime(STAMP)


def proof_name(proof: Proof) -> str:
    """The name of a proof's file."""
    return f"{stamp(proof.time)}-{proof.time.microsecond:06d}-{proof.depth}.json"


class BaseRepository(ABC):
    """The operations on a repository. Errors are those of `backups.engine.errors`."""

    id: str
    sealing: Sealing
    arrivals: Arrivals

    # Implemented by a backend

    @abstractmethod
    def sets(self) -> list[str]:
        """The names of the sets, in order."""

    @abstractmethod
    def ids(self, set_name: str) -> list[str]:
        """The ids of a set's backups, newest first, without reading any."""

    @abstractmethod
    def exists(self, set_name: str, backup_id: str) -> bool:
        """Whether something is stored under the id, readable or not."""

    @abstractmethod
    def locate(self, set_name: str, *, salvage: bool = False) -> Locate:
        """From the id of a backup of the set to its archive (`archive.reader.locate_in`)."""

    @abstractmethod
    def open_file(self, set_name: str, backup_id: str, name: str) -> int:
        """A descriptor of the manifest, archive or checksums of a backup, to read. Raises ``OSError``."""

    @abstractmethod
    def read_manifest(self, set_name: str, backup_id: str) -> bytes:
        """The manifest's bytes. Raises `BackupNotFound` and `DamageFound`."""

    @abstractmethod
    def read_sums(self, set_name: str, backup_id: str) -> str:
        """The text of ``SHA256SUMS``. Raises `DamageFound`."""

    @abstractmethod
    def proofs(self, set_name: str, backup_id: str) -> tuple[Proof, ...]:
        """The readable proofs of a backup, oldest first."""

    @abstractmethod
    def unvouched(self, set_name: str, backup_id: str, manifest: bytes) -> str:
        """Why nothing vouches for a backup with this manifest, without a full stop; "" if something does, or without keys."""

    @abstractmethod
    def proofs_hidden(self, set_name: str, backup_id: str) -> str:
        """Why the names of a backup's proofs cannot be read; empty when they can, or when there is none."""

    @abstractmethod
    def hold(self, set_name: str, backup_id: str) -> Hold | None:
        """The hold on a backup. One that cannot be read still holds."""

    @abstractmethod
    def was_restored(self, set_name: str, backup_id: str) -> bool:
        """Whether a backup was ever restored to test it, whatever the result. Reads no proof."""

    @abstractmethod
    def archive_bytes(self, set_name: str, backup_id: str) -> int | None:
        """The size of a backup's archive; None if it is missing."""

    @abstractmethod
    def record_proof(self, set_name: str, proof: Proof) -> str:
        """Keep the result of a verification beside the backup of its id. Returns why it does not count, "" if it does."""

    @abstractmethod
    def set_hold(self, backup: Backup, hold: Hold | None) -> str:
        """Hold a backup, or release it. Returns why that is not signed, "" if it is, or need not be."""

    @abstractmethod
    def writing(self, what: str, now: datetime, wait: float = 0.0) -> AbstractContextManager[None]:
        """Be the only writer. Raises `RepositoryLocked` after *wait* seconds."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[None]:
        """Keep backups from being removed. Raises `RepositoryLocked`."""

    @abstractmethod
    def removing(self, wait: float = 0.0) -> AbstractContextManager[None]:
        """Keep readers out. Raises `RepositoryLocked` after *wait* seconds."""

    @abstractmethod
    def stage(self, backup_id: str, token: str) -> Path:
        """A new folder in which a backup is made. The caller is the writer, here and below."""

    @abstractmethod
    def publish(self, staged: Path, manifest: Manifest) -> str:
        """Add manifest and checksums to *staged* and make it a backup, in one step.

        Returns why the journal does not have it yet, "" if it has, or none is kept.
        """

    @abstractmethod
    def remove(self, set_name: str, backup_id: str, now: datetime) -> None:
        """Move a backup into the trash, in one step, without checking whether it is needed."""

    @abstractmethod
    def in_trash(self, now: datetime, grace: timedelta) -> list[str]:
        """The names of what was removed at least *grace* ago; everything in the trash for none."""

    @abstractmethod
    def empty_trash(self, now: datetime, grace: timedelta) -> list[str]:
        """Free what `in_trash` names, and return its names."""

    @abstractmethod
    def discarded(self) -> set[tuple[str, str]]:
        """Set and id of what the trash holds, and of the last 10,000 that left it."""

    @abstractmethod
    def deleted(self, gone: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Set and id of those of the backups *gone* that were deleted or pruned.

        The signed journal says it, or without one, the trash and the names of the last that left it.
        """

    @abstractmethod
    def scratch_folder(self, token: str) -> AbstractContextManager[Path]:
        """A new folder of this process for restores that are not kept; removed at the end."""

    @abstractmethod
    def clear_debris(self) -> list[str]:
        """Remove what interrupted runs left, as far as possible, and return its names, with the error where one occurred."""

    # Finding and loading

    def load(self, set_name: str, backup_id: str, soundness: Soundness | None = None) -> Backup:
        """Read a backup, and judge what it inherits. Raises `BackupNotFound`, `DamageFound`, `RepositoryTooNew`."""
        backup = self.read(set_name, backup_id)
        return replace(backup, inherited=(soundness or Soundness(self, set_name)).inherited(backup))

    def read(self, set_name: str, backup_id: str) -> Backup:
        """Read a backup's manifest, proofs and hold, without what it inherits. Raises as `load`."""
        content = self.read_manifest(set_name, backup_id)
        try:
            manifest = parse_manifest(set_name, backup_id, content, self.sealing)
        except RepositoryTooNew:
            # One flipped bit turns 1 into 3: a later format counts only if the manifest matches its checksum
            if self.expected_sums(set_name, backup_id)[MANIFEST] == hashlib.sha256(content).hexdigest():
                raise
            raise DamageFound(f"The manifest of {backup_id} was changed after it was written.", id=backup_id) from None
        if manifest.id != backup_id or manifest.set != set_name:
            raise DamageFound(
                f"The manifest of {backup_id} in the set {set_name} is that of {manifest.id} in {manifest.set}.", id=backup_id
            )
        return Backup(manifest=manifest, proofs=self.proofs(set_name, backup_id), hold=self.hold(set_name, backup_id))

    def backups(self, set_name: str | None = None) -> list[Backup]:
        """The readable backups of a set, or of all sets, newest first."""
        return [item for item in self.scan(set_name) if isinstance(item, Backup)]

    def scan(self, set_name: str | None = None) -> list[Backup | Unreadable]:
        """All backups of a set, or of all sets, newest first."""
        found = [item for name in self._sets(set_name) for item in self._scan_set(name)]
        return sorted(found, key=lambda item: item.id, reverse=True)

    def newest_first(self, set_name: str) -> Iterator[Backup]:
        """The readable backups of a set; each is read when the iterator reaches it."""
        return (item for item in self._scan_set(set_name) if isinstance(item, Backup))

    def holds(self, set_name: str) -> Iterator[tuple[str, Hold | None]]:
        """The ids of a set's backups, newest first, each with its hold; reads nothing else of them."""
        return ((backup_id, self.hold(set_name, backup_id)) for backup_id in self.ids(set_name))

    def require_backups(self, set_name: str | None) -> None:
        """Raise `BackupNotFound` when a set, or with None the whole repository, holds nothing: then nothing can be checked."""
        sets = [name for name in self.sets() if self.ids(name)]
        if set_name is None and not sets:
            raise BackupNotFound("The repository holds no backup.", hint="Create the first with `refbackup create`.")
        if set_name is not None and set_name not in sets:
            hint = f"Sets with backups: {', '.join(sets)}." if sets else "The repository holds no backup."
            raise BackupNotFound(f"The set {set_name} has no backup.", hint=hint)

    def refuse_unknown(self, set_name: str) -> None:
        """Raise when it is unknown what a backup of a set needs, so that nothing may be removed.

        `RepositoryTooNew` for one of a later format, `PermissionMissing` or another error for one that cannot be read now.
        """
        for backup_id in self.ids(set_name):
            with suppress(DamageFound, BackupNotFound):
                self.read(set_name, backup_id)

    def _scan_set(self, set_name: str) -> Iterator[Backup | Unreadable]:
        soundness = Soundness(self, set_name)
        for backup_id in self.ids(set_name):
            try:
                yield self.load(set_name, backup_id, soundness)
            except BackupNotFound:
                continue  # deleted since the set was listed
            except EngineError as refused:  # a folder that cannot be read must not hide the other backups
                code = "manifest" if isinstance(refused, DamageFound) else refused.code
                problem = Problem(code=code, file=MANIFEST, message=refused.message)
                yield Unreadable(set=set_name, id=backup_id, problem=problem)

    def find(self, wanted: str, set_name: str | None) -> Backup:
        """The backup that *wanted* names: an id, a unique prefix, ``latest``, ``latest:KIND`` or ``@TIME``.

        Each may begin with the name of its set: ``SET/ID``. ``latest`` and ``@TIME`` skip damaged backups and safety backups;
        ``skipped`` of the result names each damaged one, which callers report.
        Without a set, every set is searched for ids and prefixes, and ``default`` otherwise. Raises `BackupNotFound`,
        `DamageFound` for an id that several sets hold, and `UsageError` for a kind or time that is not one.
        """
        set_name, wanted = split_name(wanted, set_name)
        if BACKUP_ID.fullmatch(wanted):
            return self._by_id(wanted, set_name)
        if wanted.startswith("@"):
            return self._newest(set_name or "default", before=_moment(wanted[1:]), kind=None)
        if wanted == "latest" or wanted.startswith("latest:"):
            _, _, kind = wanted.partition(":")
            if kind and kind not in set(BackupKind):
                raise UsageError(f"{wanted!r} names no kind of backup; there are {', '.join(BackupKind)}.")
            return self._newest(set_name or "default", before=None, kind=kind or None)
        places = [(name, backup_id) for name in self._sets(set_name) for backup_id in self.ids(name)]
        matches = [place for place in places if place[1].startswith(wanted)] if wanted else []
        if len({backup_id for _, backup_id in matches}) == 1:
            return self._by_id(matches[0][1], set_name)
        if matches:
            names = ", ".join(backup_id for _, backup_id in matches[:5])
            raise BackupNotFound(f"{wanted!r} is the beginning of {len(matches)} backups: {names}.")
        raise BackupNotFound(f"No backup's id begins with {wanted!r}.")

    def _sets(self, set_name: str | None) -> list[str]:
        return [set_name] if set_name else self.sets()

    def _by_id(self, backup_id: str, set_name: str | None) -> Backup:
        homes = [name for name in self._sets(set_name) if self.exists(name, backup_id)]
        if len(homes) > 1:
            raise DamageFound(
                f"The sets {' and '.join(homes)} each hold a backup {backup_id}, and only one of them was made by `refbackup`.",
                id=backup_id,
                hint=f"Name the one you want: {homes[0]}/{backup_id}. Nothing was changed.",
            )
        if homes:
            return self.load(homes[0], backup_id)
        where = f"the set {set_name}" if set_name else "this repository"
        raise BackupNotFound(f"There is no backup {backup_id} in {where}.")

    def _newest(self, set_name: str, *, before: datetime | None, kind: str | None) -> Backup:
        skipped: list[tuple[str, Problem]] = []
        for item in self._scan_set(set_name):
            if f"-{kind}-" not in item.id if kind else f"-{BackupKind.SNAPSHOT}-" in item.id:
                continue  # without a kind, a snapshot is none: it holds SQLite alone
            if before is not None and (_stamped(item.id) if isinstance(item, Unreadable) else item.manifest.time) > before:
                continue
            if isinstance(item, Unreadable):
                skipped.append((item.id, item.problem))
            elif item.manifest.safety:
                continue  # a safety backup is restored by its own id only
            elif item.damaged:
                skipped.append((item.id, item.problems[0]))
            else:
                return replace(item, skipped=tuple(skipped))
        self.require_backups(set_name)
        when = f" at or before {before.isoformat()}" if before else ""
        raise BackupNotFound(f"The set {set_name} has no undamaged {kind or 'full or incremental'} backup{when}.")

    def expected_sums(self, set_name: str, backup_id: str) -> dict[str, str]:
        """``SHA256SUMS`` as file name → hex digest. Raises `DamageFound`."""
        sums = {}
        for line in self.read_sums(set_name, backup_id).splitlines():
            match = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9.]+)", line)
            if match is None:
                raise DamageFound(f"{SUMS} of {backup_id} has a line that is not a checksum.", id=backup_id)
            sums[match[2]] = match[1]
        if len(sums) != 2 or MANIFEST not in sums or not sums.keys() & set(ARCHIVES):
            raise DamageFound(f"{SUMS} of {backup_id} does not name {DATA} and {MANIFEST}.", id=backup_id)
        return sums

    # Deleting; the caller is the writer

    def dependents(self, set_name: str, backup_id: str) -> list[str]:
        """The ids of the backups that need a backup, newest first: its children, theirs, and so on."""
        needed = {backup_id}
        found = []
        for other in reversed(self.backups(set_name)):
            if other.manifest.parent in needed:
                needed.add(other.id)
                found.append(other.id)
        return found[::-1]

    def delete(self, set_name: str, backup_id: str, now: datetime) -> None:
        """Move a backup, which may be unreadable, into the trash, in one step.

        Raises `BackupInUse` when it is held or others need it, and as `refuse_unknown` when that cannot be known.
        """
        self.refuse_unknown(set_name)
        hold = self.hold(set_name, backup_id)
        if hold is not None:
            raise BackupInUse(
                f"Backup {backup_id} is held: {hold.reason or 'no reason given'}.",
                hint=f"Release it first: refbackup release {backup_id}",
            )
        dependents = self.dependents(set_name, backup_id)
        if dependents:
            raise BackupInUse(
                f"Backup {backup_id} is needed by {', '.join(dependents)}.",
                hint="Delete those first, the newest first, or let `refbackup prune` choose.",
                needed_by=dependents,
            )
        self.remove(set_name, backup_id, now)


def split_name(wanted: str, set_name: str | None) -> tuple[str | None, str]:
    """The set and the rest of ``SET/ID``; *set_name* if *wanted* names no set. Raises `UsageError` if it names another."""
    named, slash, rest = wanted.rpartition("/")
    if not slash:
        return set_name, wanted
    if not NAME.fullmatch(named) or set_name not in (None, named):
        given = f" is not in the set {set_name}" if NAME.fullmatch(named) else " does not name a backup"
        raise UsageError(f"{wanted!r}{given}.", hint="Write it as SET/ID, without --set.")
    return named, rest


def parse_manifest(set_name: str, backup_id: str, content: bytes, sealing: Sealing) -> Manifest:
    """Read a manifest. Raises `RepositoryTooNew` for a later format and `DamageFound` for anything else that is wrong."""
    try:
        version = json.loads(content).get("format")
    except (ValueError, AttributeError, RecursionError):
        raise DamageFound(f"The manifest of {backup_id} is not a JSON object.", id=backup_id) from None
    if isinstance(version, int) and version > MANIFEST_FORMAT:
        raise RepositoryTooNew(f"Backup {backup_id} has format {version}; this version reads up to {MANIFEST_FORMAT}.")
    try:
        return sealing.manifest(set_name, backup_id, content)
    except ValidationError as problem:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors(include_input=False)[:5])
        raise DamageFound(f"The manifest of {backup_id} is not valid: {where[:_MOST_SAID]}.", id=backup_id) from None


def _stamped(backup_id: str) -> datetime:
    return datetime.strptime(backup_id[:16], STAMP).replace(tzinfo=UTC)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a point in time.", hint="Write it as @2026-11-20T10:00Z.") from None
    if moment.tzinfo is None:
        raise UsageError(f"{text!r} has no time zone.", hint=f"Write @{text}Z for UTC, or @{text}+02:00.")
    return moment
