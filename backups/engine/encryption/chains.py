"""From an encrypted backup to the key of its chain."""

from collections.abc import Sequence
from typing import Any, Protocol

from ..errors import DamageFound, EngineError, KeyMissing
from ..names import BACKUP_ID
from ..runtime.enclosure import Enclosure
from .chain import ENVELOPE, MOST_ENVELOPE_BYTES, ChainKey, Envelope, Header, key_missing, parse_envelope


class OpenChains(Protocol):
    """Opens the chains of one set."""

    def open(self, header: Header) -> ChainKey:
        """The key of a chain. Raises `KeyMissing` and `DamageFound`."""

    def before(self, backup_id: str) -> list[ChainKey]:
        """The keys that may be those of a backup whose manifest is lost, the newest chain first."""


class Chains:
    """Opens the chains of the set in a folder with private keys, each once; the keys of *current* chains are known."""

    def __init__(
        self, folder: Enclosure, set_name: str, identities: Sequence[Any] = (), current: Sequence[ChainKey] = ()
    ) -> None:
        self._folder = folder
        self._set = set_name
        self._identities = identities
        self._known = {one.header: one for one in current if one.set == set_name}

    def open(self, header: Header) -> ChainKey:
        if header not in self._known:
            self._known[header] = self.envelope(header.chain).open(self._identities, header)
        return self._known[header]

    def know(self, chain: ChainKey) -> None:
        """Take the key of a chain that was just begun."""
        self._known[chain.header] = chain

    def before(self, backup_id: str) -> list[ChainKey]:
        found = []
        for full in reversed(self._folder.names()):
            if BACKUP_ID.fullmatch(full) and full <= backup_id and self._folder.status(f"{full}/{ENVELOPE}") is not None:
                try:
                    found.append(self.envelope(full).open(self._identities))
                except (DamageFound, KeyMissing):
                    continue
        return found

    def envelope(self, chain: str) -> Envelope:
        """The envelope of a chain. Raises `DamageFound` and `EngineError`."""
        try:
            content = self._folder.inside(chain).read(ENVELOPE, MOST_ENVELOPE_BYTES)
        except FileNotFoundError:
            raise DamageFound(f"{ENVELOPE} of {chain} is missing, and with it the key of its backups.", id=chain) from None
        except OSError as problem:
            raise EngineError(f"{ENVELOPE} of {chain} cannot be read: {problem}.") from problem
        return parse_envelope(self._set, chain, content)


class OneChain:
    """Opens a single chain, whose key is given; none without."""

    def __init__(self, chain: ChainKey | None = None) -> None:
        self._chain = chain

    def open(self, header: Header) -> ChainKey:
        if self._chain is None or self._chain.header != header:
            raise key_missing(header.chain, [])
        return self._chain

    def before(self, backup_id: str) -> list[ChainKey]:
        return []
