"""Signatures of webhooks by the Standard Webhooks specification (standardwebhooks.com), version 1.

HMAC-SHA256 over ``ID.TIMESTAMP.BODY``. The id is the same at each attempt of one message, so that a receiver can drop
duplicates; the timestamp is that of the attempt, so that a replayed request can be refused by its age.
"""

import base64
import binascii
import hashlib
import hmac
import secrets

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64
"""Bytes of a key."""


def new_key() -> str:
    """A random key, as receivers' libraries expect it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def key_bytes(key: str) -> bytes:
    """The bytes of a key. Raises `ValueError` if it is not base64 or has the wrong length."""
    try:
        decoded = base64.b64decode(key.removeprefix(PREFIX), validate=True)
    except binascii.Error as problem:
        raise ValueError("it is not base64") from problem
    if not SHORTEST <= len(decoded) <= LONGEST:
        raise ValueError(f"it has {len(decoded)} bytes; {SHORTEST} to {LONGEST} are needed")
    return decoded


def headers(key: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that sign *body*."""
    signed = b".".join((message_id.encode("ascii"), str(timestamp).encode("ascii"), body))
    digest = hmac.new(key_bytes(key), signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode('ascii')}",
    }
