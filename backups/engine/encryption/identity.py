"""Private keys: that of a host, in a file of mode 0600, and the recovery key, as text that people can print and type.

A host's key is an X25519 private key (RFC 7748) in PEM. A recovery key is one too, as 58 characters of base32 (RFC 4648) in
groups, with four bytes of its SHA-256 at the end: ``RBKEY-XXXX-XXXX-...``. No message, argument or JSON contains either.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import Any, Final

from ..errors import UsageError, from_os_error
from ..runtime import durable
from ..runtime.secret_file import read_secret
from .chain import KEY_BYTES, Recipient

SETTING: Final = "BACKUP_ENCRYPTION_KEY"
_PREFIX: Final = "RBKEY"
_CHECK_BYTES: Final = 4
_GROUP: Final = 4
_WRITTEN: Final = re.compile(rf"{_PREFIX}[-\s](?:[A-Za-z0-9]{{1,{_GROUP}}}[-\s]*)+", re.IGNORECASE)


def make_identity(file: Path) -> bool:
    """Create a host's key with mode 0600 in *file*, unless it exists. Returns whether it was created. Raises `EngineError`."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    content = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        durable.make_folder(file.parent)
        return durable.create_file(file, content)
    except OSError as problem:
        raise from_os_error(problem, f"Making the encryption key {file}") from problem


def read_identity(file: Path) -> Any | None:
    """The private key in *file*: a host's in PEM, or the recovery key in a recovery kit. None if the file is missing.

    Raises `UsageError` and `PermissionMissing` as `read_secret`, and `UsageError` for a file without a key.
    """
    content = read_secret(file, SETTING, "to work without it")
    if content is None:
        return None
    if not content.lstrip().startswith(b"-----BEGIN"):
        found = recovery_key_in(content.decode("utf-8", "replace"))
        if found is not None:
            return found
        raise UsageError(f"{file} holds no encryption key.", hint=f"Correct {SETTING}. Nothing was changed.")
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        private = None
    if not isinstance(private, X25519PrivateKey):
        raise UsageError(f"{file} is not an X25519 private key.", hint=f"Correct {SETTING}. Nothing was changed.")
    return private


def public_of(identity: Any, name: str) -> Recipient:
    """The owner of a private key as a recipient."""
    return Recipient(name, identity.public_key().public_bytes_raw())


def new_recovery_key() -> str:
    """A random recovery key as text."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return written(X25519PrivateKey.generate().private_bytes_raw())


def written(key: bytes) -> str:
    """A recovery key as people write it."""
    checked = key + hashlib.sha256(key).digest()[:_CHECK_BYTES]
    letters = base64.b32encode(checked).decode().rstrip("=")
    return "-".join([_PREFIX, *(letters[start : start + _GROUP] for start in range(0, len(letters), _GROUP))])


def recovery_key_in(text: str) -> Any | None:
    """The recovery key in a recovery kit, or as it was typed: case, spaces and breaks do not matter. None without one.

    Raises `UsageError` for one with a wrong letter.
    """
    found = _WRITTEN.search(text)
    if found is None:
        return None
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    letters = re.sub(r"[-\s]", "", found[0].upper())[len(_PREFIX) :].translate(str.maketrans("018", "OIB"))
    length = -(-(KEY_BYTES + _CHECK_BYTES) * 8 // 5)
    letters = letters[:length]
    try:
        checked = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except ValueError:
        checked = b""
    key, check = checked[:KEY_BYTES], checked[KEY_BYTES:]
    if len(key) != KEY_BYTES or hashlib.sha256(key).digest()[:_CHECK_BYTES] != check:
        raise UsageError(
            f"The recovery key {_PREFIX}-... has a wrong or missing letter.",
            hint="Compare it with the paper, group by group. It has no 0, 1, 8 or 9. Nothing was changed.",
        )
    return X25519PrivateKey.from_private_bytes(key)
