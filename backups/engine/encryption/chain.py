"""Chain keys: made, sealed to recipients, opened again; and what is derived from one.

HPKE (RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM), HKDF (RFC 5869) with SHA-256. ``chain.json``
beside a full backup is its *envelope*: the chain key, sealed to each recipient. Adding or removing a recipient rewrites it.
"""

import base64
import hmac
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import DamageFound, KeyMissing
from ..names import BACKUP_ID, in_one_line

ENVELOPE: Final = "chain.json"
MOST_ENVELOPE_BYTES: Final = 1 << 18
MOST_RECIPIENTS: Final = 100
KEY_BYTES: Final = 32
_SALT_BYTES: Final = 32
_NONCE: Final = bytes(12)
_LABEL: Final = b"refserver-backups/1"
_RECORD_PIECE: Final = 1 << 10
_HEX: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Recipient:
    """One who can open backups: a name, and an X25519 public key of 32 bytes."""

    name: str
    public: bytes

    @property
    def text(self) -> str:
        """The public key in base64."""
        return base64.b64encode(self.public).decode()


@dataclass(frozen=True, slots=True)
class Header:
    """What an encrypted record shows of its chain: the id of the full backup, and the `commitment` to the chain key."""

    chain: str
    commitment: str

    def as_json(self) -> dict[str, str]:
        """As records hold it (`parse_header`)."""
        return {"chain": self.chain, "commitment": self.commitment}


@dataclass(frozen=True, slots=True)
class ChainKey:
    """The key of the chain that the full backup *chain* of a set begins."""

    set: str
    chain: str
    key: bytes = field(repr=False)

    @property
    def header(self) -> Header:
        """For records."""
        return Header(chain=self.chain, commitment=commitment(self.key))

    def of_archive(self, backup_id: str, salt: bytes) -> bytes:
        """The key of a backup's archive with this *salt*, 32 bytes."""
        return _derive(self.key, salt, self.set, backup_id, "archive")

    def seal(self, backup_id: str, what: str, content: bytes) -> str:
        """A record of a backup, encrypted, in base64; *what* it is must be named to open it. Its length is hidden to 1 KiB."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt = os.urandom(_SALT_BYTES)
        text = len(content).to_bytes(8, "little") + content
        text += bytes(-len(text) % _RECORD_PIECE)
        sealed = AESGCM(_derive(self.key, salt, self.set, backup_id, what)).encrypt(_NONCE, text, None)
        return base64.b64encode(salt + sealed).decode()

    def open(self, backup_id: str, what: str, sealed: str) -> bytes:
        """The content of a sealed record. Raises `DamageFound`."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            stored = base64.b64decode(sealed, validate=True)
            key = _derive(self.key, stored[:_SALT_BYTES], self.set, backup_id, what)
            text: bytes = AESGCM(key).decrypt(_NONCE, stored[_SALT_BYTES:], None)
        except (ValueError, InvalidTag):
            raise DamageFound(
                f"The encrypted {what} of {backup_id} was changed after it was written, or is that of another backup.",
                id=backup_id,
            ) from None
        return text[8 : 8 + int.from_bytes(text[:8], "little")]


def commitment(key: bytes) -> str:
    """What shows that a key is the one meant, without showing the key: 64 hexadecimal digits."""
    return _hkdf(key, b"", _LABEL + b"/commitment").hex()


def new_chain(set_name: str, full_id: str) -> ChainKey:
    """A random key for the chain that a full backup begins."""
    return ChainKey(set_name, full_id, os.urandom(KEY_BYTES))


def envelope(chain: ChainKey, recipients: Sequence[Recipient]) -> bytes:
    """The content of ``chain.json``: the key, sealed to each of *recipients*."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    suite, info = _suite(), _info(chain.set, chain.chain)
    sealed = [
        {
            "name": one.name,
            "public": one.text,
            "sealed": base64.b64encode(suite.encrypt(chain.key, X25519PublicKey.from_public_bytes(one.public), info)).decode(),
        }
        for one in recipients
    ]
    content = {"format": 1, "chain": chain.chain, "recipients": sealed, "mac": _mac(chain, sealed)}
    return json.dumps(content, indent=1).encode() + b"\n"


def _mac(chain: ChainKey, sealed: object) -> str:
    """The HMAC with SHA-256 (RFC 2104) of an envelope's recipients, under a key that only they and its writer have."""
    content = json.dumps(sealed, sort_keys=True, separators=(",", ":")).encode()
    return hmac.digest(_hkdf(chain.key, b"", _LABEL + b"/envelope"), content, "sha256").hex()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed ``chain.json``, which anyone may have written: the `Header` tells whether its key is right, `is_intact` whether
    its recipients are."""

    set: str
    chain: str
    sealed: tuple[tuple[Recipient, bytes], ...]
    listed: tuple[dict[str, str], ...]
    mac: str

    def is_intact(self, chain: ChainKey) -> bool:
        """Whether the writer of the recipients had the chain's key."""
        return hmac.compare_digest(_mac(chain, list(self.listed)), self.mac)

    @property
    def names(self) -> list[str]:
        """The names of the recipients."""
        return [recipient.name for recipient, _ in self.sealed]

    def open(self, identities: Iterable[Any], header: Header | None = None) -> ChainKey:
        """The chain key, with the first private key of *identities* that fits. Raises `KeyMissing`, `DamageFound`.

        Without a *header*, which tells whether the key is the right one, the writer of the envelope may have chosen it.
        """
        from cryptography.exceptions import InvalidTag

        suite, info = _suite(), _info(self.set, self.chain)
        public = {identity.public_key().public_bytes_raw(): identity for identity in identities}
        fits = False
        for recipient, sealed in self.sealed:
            if recipient.public in public:
                fits = True
                try:
                    key = suite.decrypt(sealed, public[recipient.public], info)
                except (InvalidTag, ValueError):
                    continue
                if header is None or hmac.compare_digest(commitment(key), header.commitment):
                    return ChainKey(self.set, self.chain, key)
        if fits:
            raise DamageFound(
                f"{ENVELOPE} of {self.chain} was changed: the key in it is not that of its backups.", id=self.chain
            )
        raise key_missing(self.chain, self.names)


def key_missing(chain: str, names: Sequence[str]) -> KeyMissing:
    """The error for backups of a chain that none of the keys at hand opens; *names* are those of the recipients."""
    who = ", ".join(names) or "nobody who is known"
    return KeyMissing(
        f"The backups of the chain {chain} are encrypted, and no key here opens them. Recipients: {who}.",
        recipients=list(names),
    )


def parse_header(values: object) -> Header | None:
    """What a record shows of its chain; None for anything else."""
    chain, known = (values.get("chain"), values.get("commitment")) if isinstance(values, dict) else (None, None)
    if not (isinstance(chain, str) and BACKUP_ID.fullmatch(chain) and isinstance(known, str) and _HEX.fullmatch(known)):
        return None
    return Header(chain, known)


def parse_envelope(set_name: str, chain: str, content: bytes) -> Envelope:
    """Raises `DamageFound` for anything but an envelope."""
    try:
        found = json.loads(content)
        listed = found["recipients"]
        sealed = tuple(
            (
                Recipient(in_one_line(str(one["name"])), base64.b64decode(one["public"], validate=True)),
                base64.b64decode(one["sealed"], validate=True),
            )
            for one in listed
        )
        if len(listed) > MOST_RECIPIENTS or any(len(one.public) != KEY_BYTES for one, _ in sealed):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamageFound(f"{ENVELOPE} of {chain} cannot be read.", id=chain) from None
    if found.get("format") != 1 or found.get("chain") != chain:
        raise DamageFound(f"{ENVELOPE} of {chain} is that of another chain, or of a later format.", id=chain)
    listed_as = tuple({name: str(one[name]) for name in ("name", "public", "sealed")} for one in listed)
    return Envelope(set_name, chain, sealed, listed_as, str(found.get("mac", "")))


def parse_public(text: str) -> bytes | None:
    """The 32 bytes of a public key in base64; None for anything else."""
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    if len(content) != KEY_BYTES:
        return None
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:  # some points give no secret
        _suite().encrypt(b"", X25519PublicKey.from_public_bytes(content))
    except ValueError:
        return None
    return content


def _suite() -> Any:
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _info(set_name: str, chain: str) -> bytes:
    return b"\0".join((_LABEL + b"/chain", set_name.encode(), chain.encode()))


def _derive(key: bytes, salt: bytes, set_name: str, backup_id: str, what: str) -> bytes:
    return _hkdf(key, salt, b"\0".join((_LABEL, set_name.encode(), backup_id.encode(), what.encode())))


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    derived: bytes = HKDF(SHA256(), KEY_BYTES, salt or None, info).derive(key)
    return derived
