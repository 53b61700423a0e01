"""What this host has to open and make encrypted backups in one repository, kept beside its key.

============================== ===================================================================================
``KEY``                        the host's private key, or a recovery kit
``KEY.next``                   the key that takes its place, while it is rotated
``KEY.recipients/*.json``      for whom this host encrypts there (`Policy`), by repository
``KEY.chains/*.json``          the keys of the chains that it continues, where it is not a recipient itself
``KEY.scratch/``               restores that are not kept, and copies that are being captured: never in the repository
============================== ===================================================================================
"""

import base64
import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from ..errors import EngineError, from_os_error
from ..runtime import durable
from ..runtime.secret_file import memory_file, memory_folder, read_secret, refuse_inside
from .chain import KEY_BYTES, ChainKey, Recipient, parse_public
from .identity import SETTING, public_of, read_identity

_RECIPIENTS, _CHAINS, _SCRATCH = "recipients", "chains", "scratch"
MEMORY: Final = (_RECIPIENTS, _CHAINS, _SCRATCH)
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
    new_chains_after: AwareDatetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """For whom backups are encrypted. It applies once the recovery kit was ``checked``: read back.

    A chain that began at ``new_chains_after`` or before is not continued.
    """

    recipients: tuple[Recipient, ...]
    checked: datetime | None = None
    new_chains_after: datetime | None = None

    def named(self, name: str) -> Recipient | None:
        """The recipient of that name."""
        return next((one for one in self.recipients if one.name == name), None)


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
            new_chains_after=policy.new_chains_after,
        )
        place = memory_file(self.file, _RECIPIENTS, self.repository)
        durable.make_folder(place.parent)
        durable.write_file(place, stored.model_dump_json(indent=1).encode() + b"\n")

    def current_chains(self) -> tuple[ChainKey, ...]:
        """The keys of the chains that this host continues without being a recipient. Raises `EngineError`."""
        place = memory_file(self.file, _CHAINS, self.repository)
        content = read_secret(place, SETTING, "to work without it")
        if content is None:
            return ()
        try:
            found = [
                ChainKey(str(name), str(one["chain"]), base64.b64decode(one["key"], validate=True))
                for name, one in json.loads(content).items()
            ]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            found = []
        return tuple(one for one in found if len(one.key) == KEY_BYTES)

    def keep_chain(self, chain: ChainKey) -> None:
        """Remember the key of the chain that a set continues, and forget the one before. Raises ``OSError``."""
        kept = {one.set: one for one in self.current_chains() if one.set != chain.set}
        if not self.owners:
            kept[chain.set] = chain
        stored = {name: {"chain": one.chain, "key": base64.b64encode(one.key).decode()} for name, one in kept.items()}
        place = memory_file(self.file, _CHAINS, self.repository)
        if stored or place.exists():
            durable.make_folder(place.parent)
            durable.write_file(place, json.dumps(stored).encode() + b"\n")


def read_keyring(file: Path, repository: Path) -> Keyring:
    """The key in *file*, which may be missing, and what is remembered beside it for a repository. Raises `EngineError`."""
    if file.exists():
        refuse_inside(file, repository, MEMORY, SETTING)
    found = (read_identity(file), read_identity(next_key(file)))
    return Keyring(file, repository, tuple(one for one in found if one is not None), _read_policy(file, repository))


def next_key(file: Path) -> Path:
    """Where the key lies that will take the place of the one in *file*, as soon as chains are sealed to it."""
    return file.with_name(f"{file.name}.next")


def promote_next_key(file: Path, policy: Policy) -> None:
    """Put the next key in its place, if it is a recipient's. Raises ``OSError``."""
    identity = read_identity(next_key(file))
    if identity is not None and public_of(identity, "").public in {one.public for one in policy.recipients}:
        durable.replace_file(next_key(file), file)


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
    return Policy(recipients=known, checked=stored.checked, new_chains_after=stored.new_chains_after)
