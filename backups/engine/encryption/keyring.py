"""What this host has to open and make encrypted backups in one repository, kept beside its key.

============================== ===================================================================================
``KEY``                        the host's private key, or a recovery kit
``KEY.next``                   the key that takes its place, while it is rotated
``KEY.retired/*``              keys that had its place before: they open old chains and copies
``KEY.recipients/*.json``      for whom this host encrypts there (`Policy`), by repository
``KEY.chains/*.json``          the chains that this host began and continues; their keys, where it is not a recipient
``KEY.scratch/``               restores that are not kept, and copies that are being captured: never in the repository
============================== ===================================================================================
"""

import base64
import json
import os
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ..errors import EngineError, from_os_error
from ..runtime import durable
from ..runtime.secret_file import memory_file, memory_folder, read_secret, refuse_inside
from .chain import ChainKey, Header, Recipient, parse_public
from .identity import SETTING, public_of, read_identity

_RECIPIENTS, _CHAINS, _SCRATCH, _RETIRED = "recipients", "chains", "scratch", "retired"
MEMORY: Final = (_RECIPIENTS, _CHAINS, _SCRATCH, _RETIRED)
"""What is kept beside the key."""

RECOVERY: Final = "recovery"
"""The name of the recipient with the recovery kit."""


class _Named(BaseModel):
    name: str
    public: str


class _Stored(BaseModel):
    model_config = ConfigDict(extra="ignore")

    repository: str
    recipients: list[_Named]
    checked: AwareDatetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """For whom backups are encrypted. It applies once the recovery kit was ``checked``: read back."""

    recipients: tuple[Recipient, ...]
    checked: datetime | None = None

    def named(self, name: str) -> Recipient | None:
        """The recipient of that name."""
        return next((one for one in self.recipients if one.name == name), None)


@dataclass(frozen=True, slots=True)
class BegunChain:
    """A chain that this host began; ``key`` is its key in base64 where the host is not a recipient, else empty."""

    set: str
    chain: str
    commitment: str
    key: str = field(default="", repr=False)
    ended: bool = False

    @property
    def opened(self) -> ChainKey | None:
        """Its key, where that is remembered."""
        return ChainKey(self.set, self.chain, base64.b64decode(self.key)) if self.key else None


@dataclass(frozen=True, slots=True)
class Keyring:
    """The private keys at hand and the policy for one repository. Each operation reads it again."""

    file: Path
    repository: Path
    identities: tuple[Any, ...] = field(repr=False)
    policy: Policy | None = None

    @property
    def is_active(self) -> bool:
        """Whether backups are encrypted."""
        return self.policy is not None and self.policy.checked is not None

    @property
    def scratch(self) -> Path:
        """Where plain data may be written while a backup is made or tested."""
        return memory_folder(self.file, _SCRATCH)

    @property
    def owners(self) -> tuple[Recipient, ...]:
        """The recipients of the policy whose private keys are at hand."""
        public = {one.public_key().public_bytes_raw() for one in self.identities}
        return tuple(one for one in self.policy.recipients if one.public in public) if self.policy is not None else ()

    def keep(self, policy: Policy) -> None:
        """Remember the policy. Raises ``OSError``."""
        stored = _Stored(
            repository=os.path.realpath(self.repository),
            recipients=[_Named(name=one.name, public=one.text) for one in policy.recipients],
            checked=policy.checked,
        )
        place = memory_file(self.file, _RECIPIENTS, self.repository)
        durable.make_folder(place.parent)
        durable.write_file(place, stored.model_dump_json(indent=1).encode() + b"\n")

    def chains(self) -> dict[str, list[BegunChain]]:
        """The chains that this host began, by set: the one that it continues, and the one before while that is replaced.

        Raises `EngineError`, also if what is remembered cannot be read: keys may be in it.
        """
        place = memory_file(self.file, _CHAINS, self.repository)
        content = read_secret(place, SETTING, "to work without it")
        if content is None:
            return {}
        try:
            return {name: [BegunChain(name, **one) for one in listed] for name, listed in json.loads(content).items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise EngineError(
                f"{place} cannot be read, and with it which chains this host continues.",
                hint="Move that file away: the next backup of each set is full then. No backup was made.",
            ) from None

    def begin_chain(self, chain: ChainKey) -> None:
        """Remember a chain before its full backup is published, beside the one before. Raises ``OSError``."""
        chains = self.chains()
        key = "" if self.owners else base64.b64encode(chain.key).decode()
        begun = BegunChain(chain.set, chain.chain, chain.header.commitment, key)
        self._keep_chains({**chains, chain.set: [begun, *chains.get(chain.set, [])[:1]]})

    def settle_chain(self, set_name: str) -> None:
        """Forget the chain before, when the full backup of the next one is published. Raises ``OSError``."""
        chains = self.chains()
        if len(chains.get(set_name, [])) > 1:
            self._keep_chains({**chains, set_name: chains[set_name][:1]})

    def end_chains(self) -> None:
        """Continue none of the chains, but keep their keys until the next ones begin. Raises ``OSError``."""
        chains = self.chains()
        if chains:
            self._keep_chains({name: [replace(one, ended=True) for one in listed] for name, listed in chains.items()})

    def continues(self, set_name: str, header: Header) -> bool:
        """Whether this host began the chain, and continues it: others may have sealed a chain to its public key."""
        begun = self.chains().get(set_name, [])
        return any((one.chain, one.commitment) == (header.chain, header.commitment) and not one.ended for one in begun)

    def _keep_chains(self, chains: dict[str, list[BegunChain]]) -> None:
        stored = {
            name: [{"chain": one.chain, "commitment": one.commitment, "key": one.key, "ended": one.ended} for one in listed]
            for name, listed in chains.items()
        }
        place = memory_file(self.file, _CHAINS, self.repository)
        durable.make_folder(place.parent)
        durable.write_file(place, json.dumps(stored).encode() + b"\n")


def read_keyring(file: Path, repository: Path) -> Keyring:
    """The key in *file*, which may be missing, and what is remembered beside it for a repository. Raises `EngineError`."""
    if any(place.exists() for place in (file, *(memory_folder(file, kind) for kind in MEMORY))):
        refuse_inside(file, repository, MEMORY, SETTING)
    found = (read_identity(place) for place in (file, next_key(file), *retired_keys(file)))
    return Keyring(file, repository, tuple(one for one in found if one is not None), _read_policy(file, repository))


def next_key(file: Path) -> Path:
    """Where the key lies that will take the place of the one in *file*."""
    return file.with_name(f"{file.name}.next")


def retired_keys(file: Path) -> list[Path]:
    """The files of the keys that were in the place of the one in *file*, the oldest first."""
    folder = memory_folder(file, _RETIRED)
    return sorted(folder.iterdir()) if folder.is_dir() else []


def promote_next_key(file: Path, policy: Policy) -> None:
    """Put the next key in its place, if it is a recipient's, and keep the one before. Can be repeated. Raises ``OSError``."""
    identity = read_identity(next_key(file))
    if identity is None or public_of(identity, "").public not in {one.public for one in policy.recipients}:
        return
    if file.exists():
        folder = memory_folder(file, _RETIRED)
        durable.make_folder(folder)
        durable.move_file(file, folder / f"{len(retired_keys(file)):04}")
    durable.move_file(next_key(file), file)


def keyring_for(repository: Path, file: Path | None) -> Keyring | None:
    """As `read_keyring`; None without a *file*."""
    return read_keyring(file, repository) if file is not None else None


def _read_policy(file: Path, repository: Path) -> Policy | None:
    place = memory_file(file, _RECIPIENTS, repository)
    try:
        content = place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise from_os_error(problem, f"Reading {place}") from problem
    try:
        stored = _Stored.model_validate_json(content)
        recipients = [(one.name, parse_public(one.public)) for one in stored.recipients]
    except ValidationError:
        recipients = [("", None)]
    known = tuple(Recipient(name, public) for name, public in recipients if public is not None)
    if len(known) != len(recipients) or not known:
        raise EngineError(
            f"{place} cannot be read, and with it for whom backups are encrypted.",
            hint="Restore that file, or remove it and run `refbackup key init`. No backup was made.",
        )
    return Policy(recipients=known, checked=stored.checked)
