"""The key that signs, the public keys that are trusted, and what is remembered beside the key.

Ed25519 (RFC 8032) through the package ``cryptography``, which is imported when there is a key: commands without one start
faster. The key never leaves its file: no message, argument or JSON contains it.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import EngineError, UsageError, from_os_error
from ..runtime import durable, secret_file
from ..runtime.secret_file import read_secret, refuse_inside

_MOST_HEADS_BYTES = 1 << 24
_PUBLIC_BYTES = 32


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a journal: the number of its last line and that line's SHA-256."""

    n: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Keys:
    """A signing key (None on a host that only checks) and the trusted public keys by their id, its own included.

    ``file`` is the key's file; the ends of journals are remembered beside it.
    """

    file: Path
    private: Any | None = field(repr=False)
    public: Mapping[str, Any] = field(repr=False)
    own: str = ""

    def sign(self, content: bytes) -> str:
        """The signature of *content* in base64."""
        assert self.private is not None
        return base64.b64encode(self.private.sign(content)).decode()

    def is_signed(self, key: str, content: bytes, signature: str) -> bool:
        """Whether the trusted key with the id *key* made the *signature* of *content*."""
        if key not in self.public:
            return False
        from cryptography.exceptions import InvalidSignature

        try:
            self.public[key].verify(base64.b64decode(signature, validate=True), content)
        except (InvalidSignature, ValueError):
            return False
        return True

    # Memory

    def remembered(self, repository: Path) -> dict[str, Head] | None:
        """The ends of the journals of a repository by set, as this host last saw them; None if it never signed there.

        Raises `EngineError` for a memory that cannot be read: nothing may pass for sound because it is lost.
        """
        place = self._memory(repository)
        try:
            with place.open("rb") as file:
                sets = json.loads(file.read(_MOST_HEADS_BYTES))["sets"]
            return {str(name): Head(int(head["n"]), str(head["sha256"])) for name, head in sets.items()}
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise from_os_error(problem, f"Reading {place}") from problem
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
            raise EngineError(
                f"{place} cannot be read, and with it how the journals of {repository} ended.",
                hint="Remove that file, and compare `refbackup list` with the backups that you expect. Nothing was changed.",
            ) from None

    def remembered_id(self, repository: Path) -> str:
        """The id of the repository when this host last signed there; "" if that is not known. Raises as `remembered`."""
        if self.remembered(repository) is None:
            return ""
        try:
            return str(json.loads(self._memory(repository).read_bytes()).get("id", ""))
        except OSError as problem:
            raise from_os_error(problem, f"Reading {self._memory(repository)}") from problem

    def remember(self, repository: Path, heads: Mapping[str, Head], repository_id: str = "") -> None:
        """Remember where the journals of a repository end, and its id. Raises ``OSError``."""
        place = self._memory(repository)
        durable.make_folder(place.parent)
        sets = {name: {"n": head.n, "sha256": head.sha256} for name, head in heads.items()}
        about = {"repository": os.path.realpath(repository), "id": repository_id, "sets": sets}
        durable.write_file(place, json.dumps(about).encode() + b"\n")

    def _memory(self, repository: Path) -> Path:
        return _memory_file(self.file, repository)

    @property
    def words(self) -> str:
        """Who signs, with the public key in base64, as another host's BACKUP_TRUSTED_KEYS takes it."""
        if not self.own:
            return "signed by other hosts; this one has no key"
        public = base64.b64encode(self.public[self.own].public_bytes_raw()).decode()
        return f"signed with {self.file}, public key {public}"


def memory_folder(file: Path) -> Path:
    """Where the ends of journals are remembered for the key in *file*."""
    return secret_file.memory_folder(file, "heads")


def _memory_file(file: Path, repository: Path) -> Path:
    return secret_file.memory_file(file, "heads", repository)


def lost_key(repository: Path, file: Path | None) -> str:
    """What is wrong when the key in *file* is gone, with which this host signed in the repository; "" if it is not."""
    if file is None:
        return ""
    try:
        signed_here = not file.exists() and _memory_file(file, repository).exists()
    except OSError:  # another user's: `read_keys` says so
        return ""
    if not signed_here:
        return ""
    return (
        f"the signing key {file} is missing, and this host signed with it here: nothing is signed, and what it signed is not "
        "checked"
    )


def read_keys(file: Path, trusted: Sequence[str] = ()) -> Keys | None:
    """The key in *file*, which may be missing, with *trusted* public keys in base64. None if there is neither.

    Raises `UsageError` for something that is not a key, for anything but a regular file, and for a file that others may read,
    `PermissionMissing` for one that this user may not.
    """
    content = read_secret(file, "BACKUP_SIGNING_KEY", "to restore without it")
    if content is None and not trusted:
        return None
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = None
    if content is not None:
        try:
            private = load_pem_private_key(content, password=None)
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise UsageError(f"{file} is not an Ed25519 private key.", hint="Correct BACKUP_SIGNING_KEY. Nothing was changed.")
    public = {}
    for text in trusted:
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
        except ValueError:
            raise UsageError(
                "BACKUP_TRUSTED_KEYS has an entry that is not a public key.",
                hint=f"Give {_PUBLIC_BYTES} bytes in base64, as `refbackup doctor` prints them, separated by colons.",
            ) from None
        public[_id(key)] = key
    own = ""
    if private is not None:
        own = _id(private.public_key())
        public[own] = private.public_key()
    return Keys(file, private, public, own)


def make_key(file: Path) -> bool:
    """Create a signing key with mode 0600 in *file*, unless it exists. Returns whether it was created. Raises `EngineError`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    content = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        durable.make_folder(file.parent)
        return durable.create_file(file, content)
    except OSError as problem:
        raise from_os_error(problem, f"Making the signing key {file}") from problem


def keys_for(repository: Path, file: Path | None, trusted: Sequence[str] = (), *, make: bool = False) -> Keys | None:
    """The keys for a repository (`read_keys`); None without a *file*. With *make*, a missing file is made.

    Raises `UsageError` for a file in the repository.
    """
    if file is None:
        return None
    if make or trusted or file.exists():
        refuse_inside(file, repository, ["heads"], "BACKUP_SIGNING_KEY")
    if make:
        make_key(file)
    return read_keys(file, trusted)


def _id(public: Any) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]
