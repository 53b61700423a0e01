"""An encrypted archive: the bytes of a plain one, padded and cut into segments, each sealed with AES-256-GCM.

::

    header    "RBSEAL1\\n"  salt (32 bytes)
    segment   generation (4 bytes)  ciphertext (65,536 bytes, the last 1 to 65,536)  tag (16 bytes)

The key belongs to this archive alone (`encryption.chain.ChainKey.of_archive`: set, id and salt). The nonce of a segment is its
generation and number, 4 and 8 bytes, so segments cannot be swapped or repeated. Only the last has ``last`` as associated data,
so none can be cut off. When a writer goes back because a file changed while it was read, it writes on in the next generation:
no nonce is used for two texts. What is sealed ends with zeros (`padded`) and the archive's length, 8 bytes. Numbers in nonces
are big-endian, others little-endian.
"""

import os
import struct
from dataclasses import dataclass
from typing import Final

from .files import Mark, Output

MAGIC: Final = b"RBSEAL1\n"
SALT_BYTES: Final = 32
HEADER_BYTES: Final = len(MAGIC) + SALT_BYTES
SEGMENT: Final = 1 << 16
"""Bytes of plain text in a segment."""

_GENERATION: Final = struct.Struct("<I")
_NONCE: Final = struct.Struct(">IQ")
_LENGTH: Final = struct.Struct("<Q")
_TAG: Final = 16
_STORED: Final = _GENERATION.size + SEGMENT + _TAG
_LAST: Final = b"last"


class NotAuthentic(Exception):
    """A segment was changed, moved or cut off, or the key is that of another archive."""


def padded(length: int) -> int:
    """The size to which *length* bytes are padded: Padmé (https://lbarman.ch/blog/padme/). It adds at most 12 %."""
    if length < 2:
        return length
    exponent = length.bit_length() - 1
    mask = (1 << (exponent - exponent.bit_length())) - 1
    return (length + mask) & ~mask


@dataclass(frozen=True, slots=True)
class _Mark(Mark):
    below: Mark
    number: int
    pending: bytes


class SealedOutput:
    """Seals what is written, and writes it to *below*."""

    def __init__(self, below: Output, key: bytes, salt: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)
        self._below = below
        self._pending = bytearray()
        self._number = 0
        self._generation = 0
        self.offset = 0
        below.write(MAGIC + salt)

    def write(self, content: bytes) -> None:
        self._pending += content
        self.offset += len(content)
        if len(self._pending) > SEGMENT:  # the last segment, which is never empty, stays for `finish`
            self._write_segments()

    def mark(self) -> Mark:
        return _Mark(self.offset, self._below.mark(), self._number, bytes(self._pending))

    def rewind(self, mark: Mark) -> None:
        assert isinstance(mark, _Mark)
        self._below.rewind(mark.below)
        self.offset, self._number = mark.offset, mark.number
        self._pending[:] = mark.pending
        self._generation += 1

    def finish(self) -> tuple[int, str]:
        zeros = padded(self.offset + _LENGTH.size) - self.offset - _LENGTH.size
        length = self.offset
        for start in range(0, zeros, SEGMENT):
            self.write(bytes(min(SEGMENT, zeros - start)))
        self.write(_LENGTH.pack(length))
        self._seal(bytes(self._pending), _LAST)
        return self._below.finish()

    def _write_segments(self) -> None:
        whole = (len(self._pending) - 1) // SEGMENT * SEGMENT
        with memoryview(self._pending) as pending:
            for start in range(0, whole, SEGMENT):
                self._seal(pending[start : start + SEGMENT])
        del self._pending[:whole]

    def _seal(self, content: bytes | memoryview, associated: bytes | None = None) -> None:
        self._below.write(_GENERATION.pack(self._generation))
        self._below.write(self._cipher.encrypt(_NONCE.pack(self._generation, self._number), content, associated))
        self._number += 1


class SealedFile:
    """An encrypted archive to read from, by several threads. Its methods raise `NotAuthentic` and ``OSError``."""

    def __init__(self, descriptor: int, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._descriptor = descriptor
        self._cipher = AESGCM(key)
        self._recent: tuple[int, bytes] = (-1, b"")
        stored = os.fstat(descriptor).st_size - HEADER_BYTES
        self._segments = -(-stored // _STORED) if stored > 0 else 0
        self._text = stored - self._segments * (_STORED - SEGMENT)
        if self._text < _LENGTH.size or (stored - 1) % _STORED < _STORED - SEGMENT:
            raise NotAuthentic("it is cut off")
        (self.size,) = _LENGTH.unpack(self._read(self._text - _LENGTH.size, _LENGTH.size))
        if self.size > self._text - _LENGTH.size:
            raise NotAuthentic("it names an impossible length")

    def read(self, offset: int, length: int) -> bytes:
        return self._read(offset, max(0, min(length, self.size - offset)))

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        first, start = divmod(offset, SEGMENT)
        end = offset + length
        pieces = [memoryview(self._segment(number)) for number in range(first, -(-end // SEGMENT))]
        pieces[-1] = pieces[-1][: end - (first + len(pieces) - 1) * SEGMENT]
        pieces[0] = pieces[0][start:]
        return b"".join(pieces)

    def _segment(self, number: int) -> bytes:
        recent = self._recent  # small frames lie side by side in one segment
        if recent[0] == number:
            return recent[1]
        from cryptography.exceptions import InvalidTag

        stored = os.pread(self._descriptor, _STORED, HEADER_BYTES + number * _STORED)
        if len(stored) <= _GENERATION.size + _TAG:
            raise NotAuthentic("it is cut off")
        (generation,) = _GENERATION.unpack_from(stored)
        associated = _LAST if number == self._segments - 1 else None
        try:
            text: bytes = self._cipher.decrypt(
                _NONCE.pack(generation, number), memoryview(stored)[_GENERATION.size :], associated
            )
        except InvalidTag:
            raise NotAuthentic("a segment was changed after it was written, or is not where it was written") from None
        self._recent = (number, text)
        return text


def read_salt(descriptor: int) -> bytes:
    """The salt in an encrypted archive's header. Raises `NotAuthentic` and ``OSError``."""
    header = os.pread(descriptor, HEADER_BYTES, 0)
    if len(header) != HEADER_BYTES or not header.startswith(MAGIC):
        raise NotAuthentic("it does not begin as an encrypted archive")
    return header[len(MAGIC) :]
