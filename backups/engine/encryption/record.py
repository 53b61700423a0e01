"""Manifests, proofs and holds of encrypted backups: a few fields that stay visible, and the rest, which is a sealed record.

Visible is what retention, lists and the check of checksums need without a key: ids, times, kinds, results, and the size and
SHA-256 of the archive as it is stored.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from ..errors import DamageFound
from .chain import ChainKey, Header, parse_header

_SEALED, _ENCRYPTION = "sealed", "encryption"


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of record, and the fields that stay visible; ``data.bytes`` is a field of a field."""

    what: str
    visible: tuple[str, ...]

    def shown(self, whole: dict[str, Any]) -> dict[str, Any]:
        """The visible part of a record."""
        part: dict[str, Any] = {}
        for name in (*self.visible, _ENCRYPTION):
            outer, _, inner = name.partition(".")
            if outer not in whole:
                continue
            if inner:
                if isinstance(whole[outer], dict) and inner in whole[outer]:
                    part.setdefault(outer, {})[inner] = whole[outer][inner]
            else:
                part[outer] = whole[outer]
        return part


MANIFEST: Final = Form(
    "manifest", ("format", "id", "set", "kind", "parent", "time", "finished", "safety", "mixed", "data.bytes", "data.sha256")
)
PROOF: Final = Form("proof", ("id", "time", "ok", "depth", "scope", "drill"))
HOLD: Final = Form("hold", ("time", "automatic"))


def chain_of(what: str, stored: Any) -> Header | None:
    """The chain that a stored record names; None for one that is not encrypted. Raises `DamageFound`."""
    about = stored.get(_ENCRYPTION) if isinstance(stored, dict) else None
    if about is None:
        return None
    if (header := parse_header(about)) is None:
        raise DamageFound(f"{what} does not name its key.")
    return header


def sealed(form: Form, backup_id: str, whole: dict[str, Any], chain: ChainKey) -> bytes:
    """A record as it is stored. *whole* has all fields in JSON's types."""
    whole = {**whole, _ENCRYPTION: chain.header.as_json()}
    record = chain.seal(backup_id, form.what, json.dumps(whole).encode())
    return json.dumps({**form.shown(whole), _SEALED: record}, indent=1).encode() + b"\n"


def opened(form: Form, backup_id: str, stored: dict[str, Any], chain: ChainKey) -> dict[str, Any]:
    """All fields of a stored record. Raises `DamageFound`, also if a visible field was changed."""
    try:
        whole = json.loads(chain.open(backup_id, form.what, str(stored.get(_SEALED, ""))))
    except (ValueError, RecursionError):
        raise DamageFound(f"The {form.what} of {backup_id} holds something else.", id=backup_id) from None
    shown = {name: value for name, value in stored.items() if name != _SEALED}
    if not isinstance(whole, dict) or form.shown(whole) != shown:
        raise DamageFound(f"The {form.what} of {backup_id} was changed: it shows something else than it holds.", id=backup_id)
    return whole
