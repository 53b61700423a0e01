"""Stored frames: what is not exactly the promised block is refused before memory is taken."""

from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from backups.engine.archive.blocks import BLOCK, BrokenFrame, compress, compress_delta, decompress
from tests.restore.stores import ROOT

CONTENT = os.urandom(1000) + bytes(3000)


@given(st.binary(min_size=1, max_size=3000), st.binary(min_size=1, max_size=3000))
def test_frames_round_trip(content: bytes, base: bytes) -> None:
    assert decompress(compress(content), len(content)) == content
    assert decompress(compress_delta(content, base), len(content), base) == content


@pytest.mark.parametrize("raw", [0, -1, 1, len(CONTENT) - 1, len(CONTENT) + 1, BLOCK, BLOCK + 1, 1 << 40])
def test_a_frame_of_another_size_than_in_the_table_is_refused(raw: int) -> None:
    with pytest.raises(BrokenFrame):
        decompress(compress(CONTENT), raw)


def test_a_frame_truncated_at_any_byte_is_refused() -> None:
    frame = compress(CONTENT)
    for length in range(len(frame)):
        with pytest.raises(BrokenFrame):
            decompress(frame[:length], len(CONTENT))
    with pytest.raises(BrokenFrame):
        decompress(frame + b"x", len(CONTENT))
    with pytest.raises(BrokenFrame):
        decompress(frame + frame, len(CONTENT))


def test_a_flipped_bit_is_seen_by_the_frame_or_by_the_hash_of_the_block() -> None:
    frame = compress(CONTENT)
    unseen = 0
    for bit in range(len(frame) * 8):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            unseen += decompress(bytes(flipped), len(CONTENT)) != CONTENT
        except BrokenFrame:
            continue
    assert unseen == 0  # what still decompresses is the same content: the block's hash would tell anything else


def test_a_delta_with_another_base_is_refused() -> None:
    base = os.urandom(4000)
    delta = compress_delta(base[:2000] + b"!" + base[2001:], base)
    with pytest.raises(BrokenFrame):
        decompress(delta, 4000, bytes(4000))
    with pytest.raises(BrokenFrame):
        decompress(delta, 4000)


DEFUSE = """
import base64, resource, sys
from backups.engine.archive.blocks import BLOCK, BrokenFrame, decompress

frames = [base64.b64decode(line) for line in sys.stdin]
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (32 << 20),) * 2)
for frame in frames:
    for base in (None, b"dictionary" * 100):
        try:
            decompress(frame, BLOCK, base)
        except BrokenFrame:
            print("refused")
"""


def test_decompression_bombs_are_refused_without_taking_memory() -> None:
    """In a process that may take 32 MB more than it has."""
    honest = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    magic, body = honest[:4], honest[9:]
    bombs = [
        honest,
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 28)),
        magic + bytes([0b11100000]) + struct.pack("<Q", 10 << 30) + body,
        magic + bytes([0b10100000]) + struct.pack("<I", BLOCK) + body,
        b"",
        b"x",
        magic,
    ]
    done = subprocess.run(
        [sys.executable, "-c", DEFUSE],
        cwd=ROOT,
        input="\n".join(base64.b64encode(bomb).decode() for bomb in bombs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("refused") == 2 * len(bombs)


def test_a_block_of_the_largest_size_round_trips() -> None:
    content = os.urandom(BLOCK)
    assert decompress(compress(content), BLOCK) == content
    assert zstandard.frame_content_size(compress(content)) == BLOCK
