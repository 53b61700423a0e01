"""What is encrypted in a repository: opened with the keys at hand, or shown as far as it is visible."""

import contextlib
import json
from pathlib import Path
from typing import Any

from ..encryption.chain import ENVELOPE, ChainKey, Header, envelope
from ..encryption.chains import Chains
from ..encryption.keyring import Keyring, read_keyring
from ..encryption.record import HOLD, MANIFEST, PROOF, Form, chain_of, opened, sealed
from ..errors import EngineError, KeyMissing
from ..runtime import durable
from ..runtime.enclosure import Enclosure
from ..types import Backup, Hold, Manifest, Problem, Proof

LOCKED = "locked"
"""Code of the problem that it is encrypted what is wrong."""


def bare(proof: Proof) -> Proof:
    """What of a proof may be stored without encryption."""
    problem = Problem(code=LOCKED, message="What is wrong was not stored, because it could not be encrypted.")
    return proof.model_copy(update={"problems": () if proof.ok else (problem,), "checks": {}})


class Sealing:
    """Opens and seals the manifests, proofs and holds of one repository. Without a *keyring*, it opens nothing."""

    def __init__(self, content: Enclosure, keyring: Keyring | None) -> None:
        self.keyring = keyring
        self._content = content
        self._sets: dict[str, Chains] = {}

    @property
    def is_active(self) -> bool:
        """Whether new backups are encrypted."""
        return self.keyring is not None and self.keyring.is_active

    def chains(self, set_name: str) -> Chains:
        """The chains of a set; each is opened once."""
        if set_name not in self._sets:
            folder = self._content.inside(f"backups/{set_name}")
            keyring = self.keyring
            if keyring is None:
                self._sets[set_name] = Chains(folder, set_name)
            else:
                begun = [one.opened for one in keyring.chains().get(set_name, ())]
                current = [one for one in begun if one is not None]
                self._sets[set_name] = Chains(folder, set_name, keyring.identities, current)
        return self._sets[set_name]

    # Reading. All raise `DamageFound`, and ``ValueError`` for what is not JSON

    def manifest(self, set_name: str, backup_id: str, content: bytes) -> Manifest:
        """A manifest; a locked one if it is encrypted and no key at hand opens it."""
        values, locked = self._whole(MANIFEST, set_name, backup_id, content)
        if locked:
            data = {
                **(values["data"] if isinstance(values.get("data"), dict) else {}),
                "table_offset": 0,
                "table_bytes": 0,
                "table_blake3": "0" * 64,
                "table_whole": False,
            }
            values |= {"sources": [], "bytes_source": 0, "bytes_stored": data.get("bytes"), "data": data, "locked": True}
        return Manifest.model_validate_json(json.dumps(values))

    def proof(self, set_name: str, backup_id: str, content: bytes) -> Proof:
        """A proof; of one that is locked, only what is visible."""
        values, locked = self._whole(PROOF, set_name, backup_id, content)
        if locked:
            values |= {"seconds": 0.0, "bytes": 0}
            if not values.get("ok"):
                message = "The proof says what is wrong, and no key here opens it."
                values["problems"] = [Problem(code=LOCKED, message=message).model_dump()]
        return Proof.model_validate_json(json.dumps(values))

    def hold(self, set_name: str, backup_id: str, content: bytes) -> Hold:
        """A hold; of one that is locked, only what is visible."""
        values, _ = self._whole(HOLD, set_name, backup_id, content)
        return Hold.model_validate_json(json.dumps(values))

    def _whole(self, form: Form, set_name: str, backup_id: str, content: bytes) -> tuple[dict[str, Any], bool]:
        """A record's fields, and whether they are only the visible ones."""
        try:
            stored = json.loads(content)
        except RecursionError:
            raise ValueError("it is nested too deep") from None
        if not isinstance(stored, dict):
            raise ValueError("it is not a JSON object")
        chain = chain_of(f"The {form.what} of {backup_id}", stored)
        if chain is None:
            return stored, False
        try:
            return opened(form, backup_id, stored, self.chains(set_name).open(chain)), False
        except KeyMissing:
            return form.shown(stored), True
        except (KeyError, TypeError, AttributeError):
            raise ValueError("a visible field has another form") from None

    # Writing

    def stored_manifest(self, manifest: Manifest, chain: ChainKey | None) -> bytes:
        """The content of ``manifest.json``."""
        if chain is None:
            return manifest.model_dump_json(indent=1).encode() + b"\n"
        return sealed(MANIFEST, manifest.id, manifest.model_dump(mode="json"), chain)

    def stored_proof(self, proof: Proof, chain: ChainKey | None) -> bytes:
        """The content of a proof's file."""
        if chain is None:
            return proof.model_dump_json(exclude_defaults=True).encode()
        return sealed(PROOF, proof.id, proof.model_dump(mode="json"), chain)

    def stored_hold(self, backup: Backup, hold: Hold) -> bytes:
        """The content of ``hold.json``. Raises `KeyMissing` for a note that cannot be encrypted."""
        try:
            chain = self.chain_of(backup.manifest)
        except KeyMissing as problem:
            if hold.note or hold.shrunk:
                raise KeyMissing(f"{problem.message} Its note cannot be encrypted.", hint="Hold it without a note.") from None
            chain = None
        if chain is None:
            return hold.model_dump_json().encode()
        return sealed(HOLD, backup.id, hold.model_dump(mode="json"), chain)

    def chain_of(self, manifest: Manifest) -> ChainKey | None:
        """The key of a backup; None for one that is not encrypted. Raises `KeyMissing` and `DamageFound`."""
        if (encryption := manifest.encryption) is None:
            return None
        try:
            return self.chains(manifest.set).open(Header(encryption.chain, encryption.commitment))
        except KeyMissing as problem:
            if self.keyring is None or self.keyring.identities:
                raise
            raise KeyMissing(f"{problem.message} {self.keyring.file} does not exist.", **problem.details) from None

    def stage_chain(self, staged: Path, chain: ChainKey) -> None:
        """Write the envelope of a new chain into the staged full backup, and remember its key where this host needs it."""
        assert self.keyring is not None and self.keyring.policy is not None
        durable.write_file(staged / ENVELOPE, envelope(chain, self.keyring.policy.recipients))
        self.keyring.begin_chain(chain)
        self.chains(chain.set).know(chain)

    def settle_chain(self, set_name: str) -> None:
        """Forget the chain before, whose successor is published. If that fails, the next full backup does it."""
        assert self.keyring is not None
        with contextlib.suppress(EngineError, OSError):
            self.keyring.settle_chain(set_name)

    def read_again(self) -> None:
        """Read what this host remembers again: others may have changed it while this process waited. Raises `EngineError`."""
        if self.keyring is not None:
            self.keyring = read_keyring(self.keyring.file, self.keyring.repository)
            self._sets.clear()

    def altered_envelope(self, manifest: Manifest) -> str:
        """What is wrong with the envelope in a full backup that can be opened; "" if nothing is."""
        if manifest.encryption is None or manifest.encryption.chain != manifest.id or manifest.locked:
            return ""
        chain = self.chain_of(manifest)
        assert chain is not None
        try:
            if self.chains(manifest.set).envelope(manifest.id).is_intact(chain):
                return ""
        except EngineError as problem:
            return problem.message
        return f"{ENVELOPE} was changed: it names recipients that nobody with the key wrote."
