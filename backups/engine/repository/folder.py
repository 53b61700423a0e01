"""A repository in a folder.

::

    REPO/
      repository.json                 {"format": 1, "id": ..., "created": ...}
      backups/<set>/<id>/             one published backup; appears and disappears in one rename
        manifest.json  data.tar.zst  SHA256SUMS      written once
        proofs/<time>-<depth>.json    results of verifications, one file each
        hold.json                     there while the backup is held
      staging/<id>.<token>/           a backup being made; a later run clears what a crash left
      trash/<deleted>.<set>.<id>/     deleted, kept for a grace period
      scratch/<token>/                restores made for verification
      writer  readers                 locks (lock.py)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from ..archive.reader import read_manifest
from ..errors import (
    BackupInUse,
    BackupNotFound,
    DamageFound,
    EngineError,
    RepositoryMissing,
    RepositoryTooNew,
    UsageError,
    from_os_error,
)
from ..names import BACKUP_ID, NAME
from ..runtime import durable
from ..types import Backup, BackupKind, Hold, Manifest, Problem, Proof
from . import leases

FORMAT = 1
STAMP = "%Y%m%dT%H%M%SZ"
MOST_PROOFS = 40
"""How many proofs of each depth are kept of a backup: a failure is lifted by a later success as deep, never by time."""

MANIFEST, DATA, SUMS = "manifest.json", "data.tar.zst", "SHA256SUMS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A folder that bears a backup's name and whose manifest cannot be believed."""

    set: str
    id: str
    problem: Problem


def stamp(moment: datetime) -> str:
    """A moment as ids and file names write it: ``20261121T030000Z``."""
    return moment.strftime(STAMP)


class Repository:
    """An existing repository; `initialise` makes one, `open_repository` finds one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / "staging"
        self.scratch = folder / "scratch"
        self.trash = folder / "trash"

    def backup_folder(self, set_name: str, backup_id: str) -> Path:
        """Where the backup is, or would be."""
        return self.folder / "backups" / set_name / backup_id

    def writing(self, what: str, now: datetime, wait: float = 0.0) -> AbstractContextManager[None]:
        """Be the only writer; see `lock.writing`."""
        return leases.writing(self.folder, what, now.isoformat(timespec="seconds"), wait)

    def reading(self) -> AbstractContextManager[None]:
        """Keep backups in place; see `lock.reading`. A repository on read-only media needs no lock."""
        return leases.reading(self.folder)

    def removing(self) -> AbstractContextManager[None]:
        """Wait for readers; see `lock.removing`."""
        return leases.removing(self.folder)

    # Finding backups

    def sets(self) -> list[str]:
        """The names of the sets that have a folder."""
        try:
            found = sorted(entry.name for entry in os.scandir(self.folder / "backups") if entry.is_dir())
        except FileNotFoundError:
            return []
        return [name for name in found if NAME.fullmatch(name)]

    def ids(self, set_name: str) -> list[str]:
        """The ids of a set's backups, newest first, without reading any."""
        try:
            entries = os.scandir(self.folder / "backups" / set_name)
        except FileNotFoundError:
            return []
        return sorted((entry.name for entry in entries if BACKUP_ID.fullmatch(entry.name)), reverse=True)

    def load(self, set_name: str, backup_id: str) -> Backup:
        """Read a backup's manifest, proofs and hold. Raises `BackupNotFound`, `DamageFound`, `RepositoryTooNew`."""
        folder = self.backup_folder(set_name, backup_id)
        try:
            content = read_manifest(folder)
        except FileNotFoundError:
            if folder.is_dir():
                raise DamageFound(f"Backup {backup_id} has no manifest.", id=backup_id) from None
            raise BackupNotFound(f"There is no backup {backup_id} in the set {set_name}.") from None
        except ValueError as problem:
            raise DamageFound(f"The manifest of {backup_id} cannot be read: {problem}.", id=backup_id) from None
        except OSError as problem:
            raise from_os_error(problem, f"Reading the manifest of {backup_id}") from problem
        try:
            manifest = parse_manifest(backup_id, content)
        except RepositoryTooNew:
            # One flipped bit makes a 1 a 3: only a manifest that is as it was written is believed to be of a later format
            if self.expected_sums(set_name, backup_id)[MANIFEST] == hashlib.sha256(content).hexdigest():
                raise
            raise DamageFound(f"The manifest of {backup_id} is not what was written.", id=backup_id) from None
        if manifest.id != backup_id or manifest.set != set_name:
            raise DamageFound(f"The manifest in {folder} is that of {manifest.id} in {manifest.set}.", id=backup_id)
        return Backup(manifest=manifest, proofs=_proofs(folder), hold=_hold(folder))

    def backups(self, set_name: str | None = None) -> list[Backup]:
        """The readable backups of a set, or of all sets, newest first."""
        return [found for found in self.scan(set_name) if isinstance(found, Backup)]

    def scan(self, set_name: str | None = None) -> list[Backup | Unreadable]:
        """All backups of a set, or of all sets, newest first; those whose manifest is damaged as `Unreadable`."""
        found = [item for name in ([set_name] if set_name else self.sets()) for item in self._scan_set(name)]
        return sorted(found, key=lambda item: item.id, reverse=True)

    def refuse_newer(self, set_name: str) -> None:
        """Raise `RepositoryTooNew` when a set holds a backup of a later format: what that needs is not known here."""
        for item in self._scan_set(set_name):
            if isinstance(item, Unreadable) and item.problem.code == RepositoryTooNew.code:
                raise RepositoryTooNew(item.problem.message)

    def newest_first(self, set_name: str) -> Iterator[Backup]:
        """The readable backups of a set, each read when it is asked for."""
        return (found for found in self._scan_set(set_name) if isinstance(found, Backup))

    def _scan_set(self, set_name: str) -> Iterator[Backup | Unreadable]:
        for backup_id in self.ids(set_name):
            try:
                yield self.load(set_name, backup_id)
            except BackupNotFound:
                continue  # deleted since the folder was listed
            except (DamageFound, RepositoryTooNew) as refused:
                code = "manifest" if isinstance(refused, DamageFound) else refused.code
                problem = Problem(code=code, file=MANIFEST, message=refused.message)
                yield Unreadable(set=set_name, id=backup_id, problem=problem)

    def find(self, wanted: str, set_name: str | None) -> Backup:
        """The backup that *wanted* names: an id, a unique prefix, ``latest``, ``latest:KIND`` or ``@TIME``.

        ``latest`` and ``@TIME`` pass over damaged backups and those that a restore made of what it replaced. *set_name* None
        looks in every set for ids and in ``default`` for the others. Raises `BackupNotFound`.
        """
        if BACKUP_ID.fullmatch(wanted):
            return self._by_id(wanted, set_name)
        if wanted.startswith("@"):
            return self._newest(set_name or "default", before=_moment(wanted[1:]), kind=None)
        if wanted == "latest" or wanted.startswith("latest:"):
            _, _, kind = wanted.partition(":")
            if kind and kind not in set(BackupKind):
                raise UsageError(f"{wanted!r} names no kind of backup; there are {', '.join(BackupKind)}.")
            return self._newest(set_name or "default", before=None, kind=kind or None)
        places = [(name, known) for name in self._sets(set_name) for known in self.ids(name)]
        matches = [place for place in places if place[1].startswith(wanted)] if wanted else []
        if len(matches) > 1:
            names = ", ".join(known for _, known in matches[:5])
            raise BackupNotFound(f"{wanted!r} is the beginning of {len(matches)} backups: {names}.")
        if not matches:
            raise BackupNotFound(f"No backup's id begins with {wanted!r}.")
        return self.load(*matches[0])

    def _sets(self, set_name: str | None) -> list[str]:
        return [set_name] if set_name else self.sets()

    def _by_id(self, backup_id: str, set_name: str | None) -> Backup:
        for name in self._sets(set_name):
            if self.backup_folder(name, backup_id).is_dir():
                return self.load(name, backup_id)
        raise BackupNotFound(f"There is no backup {backup_id}.")

    def _newest(self, set_name: str, *, before: datetime | None, kind: str | None) -> Backup:
        for backup_id in self.ids(set_name):
            if kind and f"-{kind}-" not in backup_id:
                continue
            try:
                backup = self.load(set_name, backup_id)
            except EngineError:
                continue
            if backup.damaged or (before is not None and backup.manifest.time > before):
                continue
            if kind is None and backup.manifest.kind is BackupKind.SNAPSHOT:
                continue  # it holds SQLite alone
            if backup.manifest.safety:
                continue  # what a restore replaced is restored by its own id only
            return backup
        when = f" at or before {before.isoformat()}" if before else ""
        raise BackupNotFound(f"The set {set_name} has no undamaged {kind or 'full or incremental'} backup{when}.")

    # Recording

    def record_proof(self, backup: Backup, proof: Proof) -> None:
        """Keep the result of a verification beside the backup."""
        folder = self.backup_folder(backup.manifest.set, backup.id) / "proofs"
        durable.make_folder(folder)
        name = f"{stamp(proof.time)}-{proof.time.microsecond:06d}-{proof.depth}.json"
        durable.write_file(folder / name, proof.model_dump_json(exclude_defaults=True).encode())
        for old in sorted(folder.glob(f"*-{proof.depth}.json"))[:-MOST_PROOFS]:
            old.unlink()

    def set_hold(self, backup: Backup, hold: Hold | None) -> None:
        """Hold a backup, or release it."""
        path = self.backup_folder(backup.manifest.set, backup.id) / "hold.json"
        if hold is not None:
            durable.write_file(path, hold.model_dump_json().encode())
        elif path.exists():
            path.unlink()
            durable.sync_folder(path.parent)

    # Making and removing; the caller holds the writer's lock

    def clear_debris(self) -> list[str]:
        """Remove what interrupted runs left staged and return what it was."""
        cleared = []
        for folder in (self.staging, self.scratch):
            for left in sorted(folder.iterdir()) if folder.is_dir() else []:
                if folder == self.scratch and _in_use(left):
                    continue
                durable.remove_tree(left)
                cleared.append(f"{folder.name}/{left.name}")
        return cleared

    def stage(self, backup_id: str, token: str) -> Path:
        """A new folder in which a backup is made."""
        folder = self.staging / f"{backup_id}.{token}"
        durable.make_folder(folder)
        return folder

    def publish(self, staged: Path, manifest: Manifest) -> None:
        """Write manifest and checksums into *staged*, sync it and move it to its place. The last step is one rename."""
        content = manifest.model_dump_json(indent=1).encode() + b"\n"
        durable.write_file(staged / MANIFEST, content)
        sums = f"{manifest.data.sha256}  {DATA}\n{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n"
        durable.write_file(staged / SUMS, sums.encode())
        durable.sync_folder(staged)
        durable.publish(staged, self.backup_folder(manifest.set, manifest.id))

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

        Raises `BackupInUse` when it is held or others need it, and `RepositoryTooNew` when it cannot be known who does.
        """
        self.refuse_newer(set_name)
        hold = _hold(self.backup_folder(set_name, backup_id))
        if hold is not None:
            raise BackupInUse(
                f"Backup {backup_id} is held: {hold.note or 'no reason given'}.",
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

    def remove(self, set_name: str, backup_id: str, now: datetime) -> None:
        """Move a backup's folder into the trash without asking whether it is needed."""
        durable.make_folder(self.trash)
        durable.publish(self.backup_folder(set_name, backup_id), self.trash / f"{stamp(now)}.{set_name}.{backup_id}")

    def empty_trash(self, now: datetime, grace: timedelta) -> list[str]:
        """Remove for good what was deleted longer than *grace* ago, and return its names."""
        emptied = []
        oldest = stamp(now - grace)
        for left in sorted(self.trash.iterdir()) if self.trash.is_dir() else []:
            if left.name.split(".", 1)[0] <= oldest:
                durable.remove_tree(left)
                emptied.append(left.name)
        return emptied

    def expected_sums(self, set_name: str, backup_id: str) -> dict[str, str]:
        """``SHA256SUMS`` as file name → hex digest. Raises `DamageFound`."""
        try:
            lines = (self.backup_folder(set_name, backup_id) / SUMS).read_text("ascii").splitlines()
        except (OSError, ValueError) as problem:
            raise DamageFound(f"{SUMS} of {backup_id} cannot be read: {problem}.", id=backup_id) from problem
        sums = {}
        for line in lines:
            match = re.fullmatch(r"([0-9a-f]{64})  ([A-Za-z0-9.]+)", line)
            if match is None:
                raise DamageFound(f"{SUMS} of {backup_id} has a line that is no checksum.", id=backup_id)
            sums[match[2]] = match[1]
        if sums.keys() != {DATA, MANIFEST}:
            raise DamageFound(f"{SUMS} of {backup_id} does not name {DATA} and {MANIFEST}.", id=backup_id)
        return sums


def parse_manifest(backup_id: str, content: bytes) -> Manifest:
    """Read a manifest. Raises `RepositoryTooNew` for a later format and `DamageFound` for anything else that is wrong."""
    try:
        version = json.loads(content).get("format")
    except (ValueError, AttributeError, RecursionError):
        raise DamageFound(f"The manifest of {backup_id} is no JSON object.", id=backup_id) from None
    if isinstance(version, int) and version > FORMAT:
        raise RepositoryTooNew(f"Backup {backup_id} has format {version}; this version reads up to {FORMAT}.")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as problem:
        where = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in problem.errors()[:5])
        raise DamageFound(f"The manifest of {backup_id} is not valid: {where}.", id=backup_id) from None


def _proofs(folder: Path) -> tuple[Proof, ...]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder / "proofs") if not entry.name.startswith("."))
    except OSError:
        return ()
    proofs = []
    for name in names:
        try:
            proof = Proof.model_validate_json((folder / "proofs" / name).read_bytes())
        except (OSError, ValidationError):
            continue  # a proof that cannot be read proves nothing
        if proof.id == folder.name:
            proofs.append(proof)
    return tuple(proofs)


def _hold(folder: Path) -> Hold | None:
    try:
        return Hold.model_validate_json((folder / "hold.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        return Hold(time=datetime.fromisoformat("1970-01-01T00:00:00Z"), note="hold.json cannot be read")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is no point in time.", hint="Write it as @2026-11-20T10:00Z.") from None
    if moment.tzinfo is None:
        raise UsageError(f"{text!r} has no time zone.", hint=f"Write @{text}Z for UTC, or @{text}+02:00.")
    return moment


def _in_use(folder: Path) -> bool:
    """Whether the process that made a scratch folder, named in it, is alive on this host."""
    pid = folder.name.split(".")[0]
    return pid.isdigit() and Path("/proc", pid).exists()


def initialise(folder: Path, now: datetime) -> Repository:
    """Make a repository in *folder*, which is new or empty. Raises `UsageError`, `NoSpace`, `PermissionMissing`."""
    try:
        if (folder / "repository.json").exists():
            raise UsageError(f"{folder} is a repository already.", hint="Nothing was changed.")
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty.", hint="Choose a new or empty folder. Nothing was changed.")
        durable.make_folder(folder)
        durable.make_folder(folder / "backups")
        about = {"format": FORMAT, "id": str(uuid.uuid4()), "created": now.isoformat(timespec="seconds")}
        durable.write_file(folder / "repository.json", json.dumps(about).encode() + b"\n")
    except OSError as problem:
        raise from_os_error(problem, f"Making a repository in {folder}") from problem
    return Repository(folder)


def open_repository(folder: Path) -> Repository:
    """The repository in *folder*. Raises `RepositoryMissing` and `RepositoryTooNew`."""
    try:
        about = json.loads((folder / "repository.json").read_bytes())
        version = about["format"]
    except FileNotFoundError:
        raise RepositoryMissing(f"There is no repository in {folder}.") from None
    except NotADirectoryError:
        raise RepositoryMissing(f"{folder} is not a folder.") from None
    except OSError as problem:
        raise from_os_error(problem, f"Opening the repository {folder}") from problem
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RepositoryMissing(
            f"{folder}/repository.json cannot be read.",
            hint='The backups in it may be sound. Write {"format": 1, "id": "", "created": ""} into the file and verify.',
        ) from None
    if not isinstance(version, int) or version > FORMAT:
        raise RepositoryTooNew(f"{folder} has format {version}; this version reads up to {FORMAT}.")
    return Repository(folder)
