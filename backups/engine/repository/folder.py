"""A repository in a folder.

::

    REPO/
      repository.json                 {"format": 1, "id": ..., "created": ...}
      backups/<set>/<id>/             one published backup; appears and disappears in one rename
        manifest.json  data.tar.zst  SHA256SUMS      written once
        signature.json                who made it (`evidence`); in a repository that is signed
        proofs/<time>-<depth>.json    results of verifications, one file each
        hold.json                     exists while the backup is held
      backups/<set>/journal.jsonl     what is vouched for (`evidence`); in a repository that is signed
      staging/<id>.<token>/           a backup being made; a later run clears what a crash left
      arriving/<set>.<id>.<digits>/   a backup being copied here (arrivals.py)
      trash/<deleted>.<set>.<id>/     deleted, kept for a grace period
      trash/.emptied                  what left the trash
      scratch/<token>/                restores made for verification
      writer readers journal copying  locks (leases.py)
"""

import stat
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from ..archive.locate import MAX_MANIFEST_BYTES, MAX_MANIFEST_COMMAS, Locate, locate_in, read_manifest
from ..encryption.chain import ENVELOPE, ChainKey
from ..encryption.keyring import Keyring
from ..errors import (
    BackupNotFound,
    DamageFound,
    EngineError,
    KeyMissing,
    UsageError,
    from_os_error,
)
from ..evidence.journal import Do
from ..evidence.keys import Keys
from ..evidence.vouch import STATEMENT, Evidence, journal_file, sha256
from ..names import ARCHIVES, BACKUP_ID, MANIFEST, NAME, SEALED_DATA, SUMS
from ..runtime import durable
from ..runtime.enclosure import Enclosure, NotAllowed
from ..types import Backup, Depth, Hold, Manifest, Proof
from . import leases, trash
from .about import ABOUT, is_unused, read_about, write_about
from .arrivals import Arrivals
from .base import BaseRepository, parse_manifest, proof_name, stamp
from .scratch import SCRATCH, STAGING, Debris, Scratch, inner_scratch
from .sealing import Sealing, bare

MOST_SETS = 10_000
MOST_SUMS_BYTES, MOST_HOLD_BYTES, MOST_PROOF_BYTES = 1 << 12, 1 << 16, 1 << 22
MOST_PROOF_COMMAS = 150_000

_UNKNOWN = datetime.fromisoformat("1970-01-01T00:00:00Z")
MOST_PROOFS = 40
"""How many proofs of each depth are kept for a backup: a failure is lifted by a later success as deep, never by time."""


class Repository(BaseRepository):
    """An existing repository; `initialise` makes one, `open_repository` opens one."""

    def __init__(self, folder: Path, keys: Keys | None = None, repository_id: str = "", keyring: Keyring | None = None) -> None:
        self.folder = folder
        self.id = repository_id
        self.content = Enclosure(folder)
        """All files and folders of the repository are opened, made and removed through it."""
        locked = partial(leases.journalling, self.content)
        self.evidence = Evidence(self.content, repository_id, keys, locked) if keys is not None else None
        self.sealing = Sealing(self.content, keyring)
        self.arrivals = Arrivals(self.content, self.evidence)
        self.staging, self.trash = folder / STAGING, folder / "trash"
        inside = folder / SCRATCH
        self.scratch = keyring.scratch if keyring is not None and (keyring.is_active or keyring.identities) else inside
        self._debris = Debris(self.content, tuple(Scratch(place) for place in dict.fromkeys((self.scratch, inside))))

    def backup_folder(self, set_name: str, backup_id: str) -> Path:
        """Where a backup is or would be, for messages."""
        return self.content.path(f"backups/{set_name}/{backup_id}")

    def _backup(self, set_name: str, backup_id: str) -> Enclosure:
        return self.content.inside(f"backups/{set_name}/{backup_id}")

    def writing(self, what: str, now: datetime, wait: float = 0.0) -> AbstractContextManager[None]:
        return leases.writing(self.content, what, now.isoformat(timespec="seconds"), wait)

    def reading(self) -> AbstractContextManager[None]:
        return leases.reading(self.content)

    def removing(self, wait: float = 0.0) -> AbstractContextManager[None]:
        return leases.removing(self.content, wait)

    # Reading

    def sets(self) -> list[str]:
        names = [name for name in self.content.names("backups", MOST_SETS) if NAME.fullmatch(name)]
        found = {name for name in names if not self._is_file(f"backups/{name}")}
        return sorted(found | self.evidence.sets() if self.evidence is not None else found)

    def _is_file(self, path: str) -> bool:
        """A stray file is not a set. A link or a pipe in place of a set is not skipped: reading it reports what it is."""
        found = self.content.status(path)
        return found is not None and stat.S_ISREG(found.st_mode)

    def ids(self, set_name: str) -> list[str]:
        return [name for name in reversed(self.content.names(f"backups/{set_name}")) if BACKUP_ID.fullmatch(name)]

    def exists(self, set_name: str, backup_id: str) -> bool:
        return self.content.is_folder(f"backups/{set_name}/{backup_id}")

    def locate(self, set_name: str, *, salvage: bool = False) -> Locate:
        return locate_in(self.content.inside(f"backups/{set_name}"), self.sealing.chains(set_name), salvage=salvage)

    def is_sealed(self, set_name: str, backup_id: str) -> bool:
        """Whether a backup's archive is encrypted, by its name alone."""
        return self._backup(set_name, backup_id).status(SEALED_DATA) is not None

    def open_file(self, set_name: str, backup_id: str, name: str) -> int:
        return self._backup(set_name, backup_id).open_file(name)

    def read_manifest(self, set_name: str, backup_id: str) -> bytes:
        try:
            return read_manifest(self._backup(set_name, backup_id))
        except FileNotFoundError:
            if self.exists(set_name, backup_id):
                raise DamageFound(f"Backup {backup_id} has no manifest.", id=backup_id) from None
            raise BackupNotFound(f"There is no backup {backup_id} in the set {set_name}.") from None
        except NotAllowed as problem:
            raise DamageFound(f"The manifest of {backup_id} cannot be read: {problem}.", id=backup_id) from None
        except OSError as problem:
            raise from_os_error(problem, f"Reading the manifest of {backup_id}") from problem

    def read_sums(self, set_name: str, backup_id: str) -> str:
        try:
            return self._backup(set_name, backup_id).read(SUMS, MOST_SUMS_BYTES).decode("ascii")
        except (OSError, ValueError) as problem:
            raise DamageFound(f"{SUMS} of {backup_id} cannot be read: {problem}.", id=backup_id) from problem

    def unvouched(self, set_name: str, backup_id: str, manifest: bytes) -> str:
        return self.evidence.why_not(set_name, backup_id, manifest) if self.evidence is not None else ""

    def _kept(self, set_name: str) -> Evidence | None:
        return self.evidence if self.evidence is not None and self.evidence.kept(set_name) else None

    def vanished(self, set_name: str) -> list[str]:
        """The signed backups of a set that are gone although nobody with a key deleted them, newest first."""
        return self.evidence.vanished(set_name, self.ids(set_name)) if self.evidence is not None else []

    def forget(self, set_name: str, backup_id: str, now: datetime) -> None:
        """Record that a backup which vanished is known to be lost."""
        if self.evidence is not None:
            self.evidence.record(set_name, Do.REMOVE, backup_id, now)

    def proofs(self, set_name: str, backup_id: str) -> tuple[Proof, ...]:
        return tuple(proof for proof, _, _ in self._counted(set_name, backup_id))

    def _counted(self, set_name: str, backup_id: str) -> list[tuple[Proof, str, str]]:
        if (evidence := self._kept(set_name)) is None:
            return self.stored_proofs(set_name, backup_id)
        counted = evidence.counted(set_name, backup_id, self.proof_digests(set_name, backup_id))
        return [one for one in self.stored_proofs(set_name, backup_id, counted) if one[2] == proof_name(one[0])]

    def proof_digests(self, set_name: str, backup_id: str) -> set[str]:
        """The SHA-256 of each file among a backup's proofs."""
        return {sha256(content) for _, content in self._proof_files(set_name, backup_id)}

    def stored_proofs(
        self, set_name: str, backup_id: str, among: Collection[str] | None = None
    ) -> list[tuple[Proof, str, str]]:
        """The readable proofs of a backup, including ones that do not count, each with its file's SHA-256 and name.

        With *among*, files with another SHA-256 are not parsed.
        """
        found = []
        for name, content in self._proof_files(set_name, backup_id) if among is None or among else ():
            digest = sha256(content)
            if among is None or digest in among:
                with suppress(ValueError, DamageFound):
                    proof = self.sealing.proof(set_name, backup_id, content)
                    if proof.id == backup_id:
                        found.append((proof, digest, name))
        return found

    def _proof_files(self, set_name: str, backup_id: str) -> Iterator[tuple[str, bytes]]:
        folder = self._backup(set_name, backup_id).inside("proofs")
        for name in self._proof_names(set_name, backup_id):
            with suppress(OSError):  # a proof that cannot be read proves nothing
                yield name, folder.read(name, MOST_PROOF_BYTES, MOST_PROOF_COMMAS)

    def proofs_hidden(self, set_name: str, backup_id: str) -> str:
        try:
            self._backup(set_name, backup_id).names("proofs")
        except OSError as problem:
            return str(problem)
        return ""

    def _proof_names(self, set_name: str, backup_id: str) -> list[str]:
        try:
            names = self._backup(set_name, backup_id).names("proofs")
        except OSError:
            return []  # `proofs_hidden` says why
        return [name for name in names if not name.startswith(".")][-MOST_PROOFS * len(Depth) :]

    def was_restored(self, set_name: str, backup_id: str) -> bool:
        return any(name.endswith(f"-{Depth.RESTORE}.json") for name in self._proof_names(set_name, backup_id))

    def archive_bytes(self, set_name: str, backup_id: str) -> int | None:
        try:
            found = [self._backup(set_name, backup_id).status(name) for name in ARCHIVES]
        except OSError:
            return None
        sizes = [one.st_size for one in found if one is not None and stat.S_ISREG(one.st_mode)]
        return sizes[0] if len(sizes) == 1 else None

    def hold(self, set_name: str, backup_id: str) -> Hold | None:
        evidence = self._kept(set_name)
        try:
            content = self.read_hold(set_name, backup_id)
            hold = self.sealing.hold(set_name, backup_id, content)
        except FileNotFoundError:
            if evidence is None or not evidence.is_held(set_name, backup_id):
                return None
            return Hold(time=_UNKNOWN, note="hold.json was removed, and nobody released it", signed=False)
        except (OSError, ValueError, DamageFound):
            return Hold(time=_UNKNOWN, note="hold.json cannot be read", signed=evidence is None)
        return hold.model_copy(update={"signed": evidence is None or evidence.has_hold(set_name, backup_id, content)})

    def read_hold(self, set_name: str, backup_id: str) -> bytes:
        """The file of a hold. Raises ``OSError``."""
        return self._backup(set_name, backup_id).read("hold.json", MOST_HOLD_BYTES)

    def seen(self, set_name: str, backup_id: str) -> str:
        """A short text that is another one after every change of a backup, its proofs, its hold or the size of its archive."""
        folder = self._backup(set_name, backup_id)
        changed = ".".join(f"{folder.changed(path):x}" for path in ("", "proofs", MANIFEST))
        vouched = self.evidence.state_of(set_name, backup_id) if self.evidence is not None else ""
        return f"{changed}.{self.archive_bytes(set_name, backup_id)}.{zlib.crc32(set_name.encode()):x}{vouched}"

    # Recording

    def record_proof(self, set_name: str, proof: Proof) -> str:
        folder = self._backup(set_name, proof.id).inside("proofs")
        folder.make_folder()
        older = [(digest, name) for old, digest, name in self._counted(set_name, proof.id) if old.depth is proof.depth]
        surplus = older[: max(0, len(older) + 1 - MOST_PROOFS)]  # never what others planted, nor in its favour
        content = self._stored(set_name, proof)
        folder.write_file(proof_name(proof), content)
        more = {"dropped": [digest for digest, _ in surplus]} if surplus else {}
        why = self._record_done(set_name, Do.PROOF, proof.id, proof.time, content, **more)
        for _, name in surplus if not why else ():
            folder.unlink(name)
        return why

    def _stored(self, set_name: str, proof: Proof) -> bytes:
        """A proof as it is stored; of an encrypted backup without a readable manifest, only what is visible."""
        try:
            manifest = parse_manifest(set_name, proof.id, self.read_manifest(set_name, proof.id), self.sealing)
            return self.sealing.stored_proof(proof, self.sealing.chain_of(manifest))
        except (DamageFound, BackupNotFound, KeyMissing):
            is_plain = not self.is_sealed(set_name, proof.id)
            return self.sealing.stored_proof(proof if is_plain else bare(proof), None)

    def set_hold(self, backup: Backup, hold: Hold | None) -> str:
        set_name, now = backup.manifest.set, datetime.now(UTC)
        folder = self._backup(set_name, backup.id)
        if folder.is_folder("hold.json"):  # it holds, like anything else of that name
            folder.remove_tree("hold.json")
        if hold is not None:
            content = self.sealing.stored_hold(backup, hold)
            folder.write_file("hold.json", content)
            return self._record_done(set_name, Do.HOLD, backup.id, now, content)
        why = self.evidence.record(set_name, Do.RELEASE, backup.id, now) if self.evidence is not None else ""
        folder.unlink("hold.json")
        return why

    def _record_done(self, set_name: str, do: Do, backup_id: str, now: datetime, content: bytes, **more: list[str]) -> str:
        """Record what has been done, and is not undone by an error here: that is returned."""
        if self.evidence is None:
            return ""
        try:
            return self.evidence.record(set_name, do, backup_id, now, sha256=sha256(content), **more)
        except (EngineError, OSError) as problem:
            return str(problem).removesuffix(".")

    # Making and removing

    def debris(self) -> list[str]:
        """What interrupted or running backups and verifications have left: ``staging/NAME``, ``scratch/NAME``."""
        return self._debris.names()

    def clear_debris(self) -> list[str]:
        return self._debris.clear()

    def clear_scratch(self, pid: int) -> None:
        """Remove the scratch folders of a process that ended."""
        self._debris.clear_scratch(pid)

    def is_scratch(self, place: Path) -> bool:
        """As `scratch.Scratch.holds`."""
        return self._debris.holds(place)

    def scratch_folder(self, token: str) -> AbstractContextManager[Path]:
        return Scratch(self.scratch).new(token)

    def working_folder(self, staged: Path, token: str) -> AbstractContextManager[Path]:
        """Where copies are captured for the backup that is made in *staged*: outside of a repository that is encrypted."""
        return inner_scratch(staged) if self.scratch.parent == self.folder else self.scratch_folder(token)

    def stage(self, backup_id: str, token: str) -> Path:
        name = f"{STAGING}/{backup_id}.{token}"
        self.content.make_folder(name)
        return self.content.path(name)

    def publish(self, staged: Path, manifest: Manifest, chain: ChainKey | None = None) -> str:
        """Write manifest and checksums into *staged*, sync it and move it to its place. The last step is one rename.

        With a *chain*, the backup is encrypted with its key; a full backup also gets the chain's envelope.
        Returns why the journal does not have the backup yet, "" if it has, or none is kept.
        """
        content = self.sealing.stored_manifest(manifest, chain)
        if len(content) > MAX_MANIFEST_BYTES or content.count(b",") > MAX_MANIFEST_COMMAS:
            raise EngineError(
                f"The manifest would take {len(content) >> 20} MiB, and no more than {MAX_MANIFEST_BYTES >> 20} can be read.",
                hint="Back up Chroma directories with so many collections in sets of their own. Nothing was published.",
            )
        if chain is not None and manifest.parent is None:
            self.sealing.stage_chain(staged, chain)
        durable.write_file(staged / MANIFEST, content)
        sums = f"{manifest.data.sha256}  {manifest.archive}\n{sha256(content)}  {MANIFEST}\n"
        durable.write_file(staged / SUMS, sums.encode())
        signed = self.evidence.statement(manifest.set, manifest.id, content, manifest.finished) if self.evidence else None
        if signed is not None:
            durable.write_file(staged / STATEMENT, signed)
        durable.sync_folder(staged)
        self.content.publish(f"{STAGING}/{staged.name}", f"backups/{manifest.set}/{manifest.id}")
        if chain is not None and manifest.parent is None:
            self.sealing.settle_chain(manifest.set)
        why = self._record_done(manifest.set, Do.BACKUP, manifest.id, manifest.finished, content)
        if not why and self._kept(manifest.set) is None and self.content.status(journal_file(manifest.set)) is not None:
            why = "no key here continues it; on hosts that sign, the backup is damaged until `refbackup adopt` signs it there"
        return why

    def write_envelope(self, chain: ChainKey, content: bytes) -> None:
        """Replace the envelope of a chain, in one step. Raises ``OSError``."""
        self._backup(chain.set, chain.chain).write_file(ENVELOPE, content)

    def remove(self, set_name: str, backup_id: str, now: datetime) -> None:
        if self.evidence is not None:
            self.evidence.record(set_name, Do.REMOVE, backup_id, now)
        self.content.publish(f"backups/{set_name}/{backup_id}", f"trash/{stamp(now)}.{set_name}.{backup_id}")

    def in_trash(self, now: datetime, grace: timedelta) -> list[str]:
        return trash.names(self.content, now, grace)

    def empty_trash(self, now: datetime, grace: timedelta) -> list[str]:
        return trash.empty(self.content, now, grace)

    def discarded(self) -> set[tuple[str, str]]:
        return trash.deleted(self.content)

    def deleted(self, gone: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        said = trash.deleted(self.content)
        signed = {place: self.evidence.was_removed(*place) if self.evidence is not None else None for place in gone}
        return {place for place, removed in signed.items() if (place in said if removed is None else removed)}


def initialise(folder: Path, now: datetime, keys: Keys | None = None) -> Repository:
    """Make a repository in *folder*, which is new or empty, and sign what is done there if there are *keys*.

    A folder that holds no more than what an interrupted run of this made is taken as empty. Raises `UsageError`, `NoSpace`,
    `PermissionMissing`.
    """
    try:
        content = Enclosure(folder)
        if folder.exists() and content.status(ABOUT) is not None:
            raise UsageError(f"{folder} is already a repository.", hint="Nothing was changed.")
        if folder.exists() and not is_unused(content):
            raise UsageError(f"{folder} is not empty.", hint="Choose a new or empty folder. Nothing was changed.")
        durable.make_folder(folder)
        for name in ("backups", "trash"):  # deleting must not need space for a new folder
            content.make_folder(name)
        repository = Repository(folder, keys, write_about(content, now))
        if repository.evidence is not None and repository.evidence.keys.private is not None:
            repository.evidence.begin()
    except OSError as problem:
        raise from_os_error(problem, f"Making a repository in {folder}") from problem
    return repository


def open_repository(folder: Path, keys: Keys | None = None, keyring: Keyring | None = None) -> Repository:
    """The repository in *folder*; *keys* decide what counts there, *keyring* opens what is encrypted.

    Raises `RepositoryMissing` and `RepositoryTooNew`.
    """
    return Repository(folder, keys, read_about(folder), keyring)
