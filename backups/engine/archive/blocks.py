"""Blocks: the unit that is hashed, compressed, compared and shared.

A file is cut into blocks of `BLOCK` bytes, the last one shorter. A block is stored as one zstd frame
(https://www.rfc-editor.org/rfc/rfc8878): plain, or as a delta, which is a frame compressed with another block as a
raw-content dictionary, what ``zstd --patch-from`` makes. HNSW and SQLite files change a few bytes in many places; a delta
of such a block takes some hundred bytes where a plain frame takes half the block.
"""

import threading
from typing import Final

import zstandard
from blake3 import blake3

BLOCK: Final = 256 * 1024
"""Bytes in a block. Smaller ones recompress less around a change, larger ones need fewer records."""

HASH_BYTES: Final = 32
MAX_DEPTH: Final = 8
"""The most deltas in a chain: reading a block takes at most nine reads."""

_PLAIN = zstandard.ZstdCompressionParameters.from_level(
    1, source_size=BLOCK, hash_log=16, write_checksum=True, write_content_size=True
)
_DELTA = zstandard.ZstdCompressionParameters.from_level(
    1,
    source_size=BLOCK,
    dict_size=BLOCK,
    window_log=(2 * BLOCK - 1).bit_length(),
    hash_log=17,
    write_checksum=True,
    write_content_size=True,
)
_own = threading.local()


class BrokenFrame(Exception):
    """A stored frame does not decompress to the block that the table describes."""


def digest(content: bytes | memoryview) -> bytes:
    """The BLAKE3-256 of *content*, 32 bytes (https://github.com/BLAKE3-team/BLAKE3-specs)."""
    return blake3(content).digest()


def compress(content: bytes | memoryview) -> bytes:
    """*content* as one plain zstd frame with its size and checksum."""
    compressor = getattr(_own, "compressor", None)
    if compressor is None:
        compressor = _own.compressor = zstandard.ZstdCompressor(compression_params=_PLAIN)
    return compressor.compress(content)


def compress_delta(content: bytes | memoryview, base: bytes) -> bytes:
    """*content* as a zstd frame that only *base* can decompress."""
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=_DELTA).compress(content)


ZEROS: Final = bytes(BLOCK)
"""The block of a hole in a file."""

ZEROS_DIGEST: Final = digest(ZEROS)
ZEROS_FRAME: Final = compress(ZEROS)


def decompress(frame: bytes | memoryview, raw: int, base: bytes | None = None) -> bytes:
    """The block of *raw* bytes (at most `BLOCK`) in *frame*; *base* is the block that a delta builds on.

    The size in the frame's header is compared with *raw* before memory is allocated. The frame `ZEROS_FRAME` gives `ZEROS`
    itself. Raises `BrokenFrame`.
    """
    if frame == ZEROS_FRAME and raw == BLOCK and base is None:
        return ZEROS
    if not 0 < raw <= BLOCK:
        raise BrokenFrame(f"a block of {raw} bytes is out of bounds")
    try:
        if zstandard.frame_content_size(frame) != raw:
            raise BrokenFrame("the frame names another size than the table")
        if base is None:
            decompressor = getattr(_own, "decompressor", None)
            if decompressor is None:
                decompressor = _own.decompressor = zstandard.ZstdDecompressor()
        else:
            dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            decompressor = zstandard.ZstdDecompressor(dict_data=dictionary)
        content: bytes = decompressor.decompress(frame, max_output_size=raw, allow_extra_data=False)
    except zstandard.ZstdError as problem:
        raise BrokenFrame(str(problem)) from problem
    if len(content) != raw:
        raise BrokenFrame(f"the frame holds {len(content)} bytes instead of {raw}")
    return content
