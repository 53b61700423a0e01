"""A repository in a folder.

::

    REPO/
      repository.json                 {"format": 1, "id": ..., "created": ...}
      backups/<set>/<id>/             one published backup; appears and disappears in one rename
        manifest.json  data.tar.zst  SHA256SUMS      written once
        proofs/<time>-<depth>.json    results of verifications, one file each
        hold.json                     exists while the backup is held
      staging/<id>.<token>/           a backup being made; a later run clears what a crash left
      trash/<deleted>.<set>.<id>/     deleted, kept for a grace period
      trash/.emptied                  what left the trash
      scratch/<token>/                restores made for verification
      writer  readers                 locks (leases.py)
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from ..archive.reader import MAX_MANIFEST_BYTES, read_manifest
from ..errors import (
    NO_SPACE,
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
from ..types import Backup, Depth, Hold, Manifest, Proof
from . import leases
from .base import DATA, FORMAT, MANIFEST, SUMS, BaseRepository, stamp

EMPTIED = ".emptied"
"""File in the trash with the names of what left it, the newest last."""

MOST_EMPTIED = 10_000
MOST_PROOFS = 40
"""How many proofs of each depth are kept for a backup: a failure is lifted by a later success as deep, never by time."""


class Repository(BaseRepository):
    """An existing repository; `initialise` makes one, `open_repository` opens one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.staging = folder / "staging"
        self.scratch = folder / "scratch"
        self.trash = folder / "trash"

    def backup_folder(self, set_name: str, backup_id: str) -> Path:
        """The folder of a backup, which may not exist."""
        return self.folder / "backups" / set_name / backup_id

    def writing(self, what: str, now: datetime, wait: float = 0.0) -> AbstractContextManager[None]:
        return leases.writing(self.folder, what, now.isoformat(timespec="seconds"), wait)

    def reading(self) -> AbstractContextManager[None]:
        return leases.reading(self.folder)

    def removing(self) -> AbstractContextManager[None]:
        return leases.removing(self.folder)

    # Reading

    def sets(self) -> list[str]:
        try:
            names = sorted(entry.name for entry in os.scandir(self.folder / "backups") if entry.is_dir())
        except FileNotFoundError:
            return []
        return [name for name in names if NAME.fullmatch(name)]

    def ids(self, set_name: str) -> list[str]:
        try:
            entries = os.scandir(self.folder / "backups" / set_name)
        except FileNotFoundError:
            return []
        return sorted((entry.name for entry in entries if BACKUP_ID.fullmatch(entry.name)), reverse=True)

    def exists(self, set_name: str, backup_id: str) -> bool:
        return self.backup_folder(set_name, backup_id).is_dir()

    def read_manifest(self, set_name: str, backup_id: str) -> bytes:
        try:
            return read_manifest(self.backup_folder(set_name, backup_id))
        except FileNotFoundError:
            if self.exists(set_name, backup_id):
                raise DamageFound(f"Backup {backup_id} has no manifest.", id=backup_id) from None
            raise BackupNotFound(f"There is no backup {backup_id} in the set {set_name}.") from None
        except ValueError as problem:
            raise DamageFound(f"The manifest of {backup_id} cannot be read: {problem}.", id=backup_id) from None
        except OSError as problem:
            raise from_os_error(problem, f"Reading the manifest of {backup_id}") from problem

    def read_sums(self, set_name: str, backup_id: str) -> str:
        try:
            return (self.backup_folder(set_name, backup_id) / SUMS).read_text("ascii")
        except (OSError, ValueError) as problem:
            raise DamageFound(f"{SUMS} of {backup_id} cannot be read: {problem}.", id=backup_id) from problem

    def proofs(self, set_name: str, backup_id: str) -> tuple[Proof, ...]:
        folder = self.backup_folder(set_name, backup_id) / "proofs"
        try:
            names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
        except OSError:
            return ()
        proofs = []
        for name in names:
            try:
                proof = Proof.model_validate_json((folder / name).read_bytes())
            except (OSError, ValidationError):
                continue  # a proof that cannot be read proves nothing
            if proof.id == backup_id:
                proofs.append(proof)
        return tuple(proofs)

    def was_restored(self, set_name: str, backup_id: str) -> bool:
        try:
            names = os.scandir(self.backup_folder(set_name, backup_id) / "proofs")
        except OSError:
            return False
        with names:
            return any(entry.name.endswith(f"-{Depth.RESTORE}.json") for entry in names)

    def archive_bytes(self, set_name: str, backup_id: str) -> int | None:
        try:
            return (self.backup_folder(set_name, backup_id) / DATA).stat().st_size
        except OSError:
            return None

    def hold(self, set_name: str, backup_id: str) -> Hold | None:
        try:
            return Hold.model_validate_json((self.backup_folder(set_name, backup_id) / "hold.json").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            return Hold(time=datetime.fromisoformat("1970-01-01T00:00:00Z"), note="hold.json cannot be read")

    # Recording

    def record_proof(self, set_name: str, proof: Proof) -> None:
        folder = self.backup_folder(set_name, proof.id) / "proofs"
        durable.make_folder(folder)
        name = f"{stamp(proof.time)}-{proof.time.microsecond:06d}-{proof.depth}.json"
        durable.write_file(folder / name, proof.model_dump_json(exclude_defaults=True).encode())
        for old in sorted(folder.glob(f"*-{proof.depth}.json"))[:-MOST_PROOFS]:
            old.unlink()

    def set_hold(self, backup: Backup, hold: Hold | None) -> None:
        path = self.backup_folder(backup.manifest.set, backup.id) / "hold.json"
        if hold is not None:
            durable.write_file(path, hold.model_dump_json().encode())
        elif path.exists():
            path.unlink()
            durable.sync_folder(path.parent)

    # Making and removing

    def clear_debris(self) -> list[str]:
        cleared = []
        for folder in (self.staging, self.scratch):
            for left in sorted(folder.iterdir()) if folder.is_dir() else []:
                if folder == self.scratch and _in_use(left):
                    continue
                try:
                    durable.remove_tree(left)
                except OSError as problem:  # leftovers take space, but must not block a backup
                    cleared.append(f"{folder.name}/{left.name}, but not all of it: {problem.strerror or problem}")
                else:
                    cleared.append(f"{folder.name}/{left.name}")
        return cleared

    def is_scratch(self, place: Path) -> bool:
        """Whether *place* lies in a scratch folder of a running process, which nobody else clears."""
        above = [folder for folder in place.parents if folder.parent == Path(os.path.realpath(self.scratch))]
        return any(_in_use(folder) for folder in above)

    def stage(self, backup_id: str, token: str) -> Path:
        folder = self.staging / f"{backup_id}.{token}"
        durable.make_folder(folder)
        return folder

    def publish(self, staged: Path, manifest: Manifest) -> None:
        """Write manifest and checksums into *staged*, sync it and move it to its place. The last step is one rename."""
        content = manifest.model_dump_json(indent=1).encode() + b"\n"
        if len(content) > MAX_MANIFEST_BYTES:
            raise EngineError(
                f"The manifest would take {len(content) >> 20} MiB, and no more than {MAX_MANIFEST_BYTES >> 20} can be read.",
                hint="Back up Chroma directories with so many collections in sets of their own. Nothing was published.",
            )
        durable.write_file(staged / MANIFEST, content)
        sums = f"{manifest.data.sha256}  {DATA}\n{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n"
        durable.write_file(staged / SUMS, sums.encode())
        durable.sync_folder(staged)
        durable.publish(staged, self.backup_folder(manifest.set, manifest.id))

    def remove(self, set_name: str, backup_id: str, now: datetime) -> None:
        durable.make_folder(self.trash)
        durable.publish(self.backup_folder(set_name, backup_id), self.trash / f"{stamp(now)}.{set_name}.{backup_id}")

    def in_trash(self, now: datetime, grace: timedelta) -> list[str]:
        names = sorted(left.name for left in self.trash.iterdir() if left.name != EMPTIED) if self.trash.is_dir() else []
        oldest = stamp(now - grace)
        return [name for name in names if not grace or name.split(".", 1)[0] <= oldest]

    def empty_trash(self, now: datetime, grace: timedelta) -> list[str]:
        names = self.in_trash(now, grace)
        for name in names:
            durable.remove_tree(self.trash / name)
        if names:
            self._note_emptied(names)
        return names

    def _note_emptied(self, names: list[str]) -> None:
        """Remember what left the trash, so that it is not taken for lost. Without space for that, it is."""
        path = self.trash / EMPTIED
        before = path.read_text().splitlines() if path.is_file() else []
        try:
            durable.write_file(path, "".join(f"{name}\n" for name in [*before, *names][-MOST_EMPTIED:]).encode())
        except OSError as problem:
            if problem.errno not in NO_SPACE:
                raise

    def deleted(self) -> set[tuple[str, str]]:
        names = [left.name for left in self.trash.iterdir()] if self.trash.is_dir() else []
        if EMPTIED in names:
            names += (self.trash / EMPTIED).read_text(errors="replace").splitlines()
        parts = (name.partition(".")[2].rpartition(".") for name in names)
        return {(set_name, backup_id) for set_name, _, backup_id in parts}


def _in_use(folder: Path) -> bool:
    """Whether the process that made a scratch folder, named in it, is alive on this host."""
    pid = folder.name.split(".")[0]
    return pid.isdigit() and Path("/proc", pid).exists()


def initialise(folder: Path, now: datetime) -> Repository:
    """Make a repository in *folder*, which is new or empty. Raises `UsageError`, `NoSpace`, `PermissionMissing`."""
    try:
        if (folder / "repository.json").exists():
            raise UsageError(f"{folder} is already a repository.", hint="Nothing was changed.")
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty.", hint="Choose a new or empty folder. Nothing was changed.")
        durable.make_folder(folder)
        for name in ("backups", "trash"):  # deleting must not need space for a new folder
            durable.make_folder(folder / name)
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
            hint='The backups may be intact. Write {"format": 1, "id": "", "created": ""} into the file and verify.',
        ) from None
    if not isinstance(version, int) or version > FORMAT:
        raise RepositoryTooNew(f"{folder} has format {version}; this version reads up to {FORMAT}.")
    return Repository(folder)
