"""Encrypted archives: whatever is changed, moved or cut off in one is noticed, and nothing tells more than it must."""

import hashlib
import os

import pytest

from backups.engine.archive.files import PlainOutput
from backups.engine.archive.sealed import HEADER_BYTES, SEGMENT, NotAuthentic, SealedFile, SealedOutput, padded, read_salt
from backups.engine.encryption.chain import new_chain

FULL, OTHER = "20260101T000000Z-full-000001", "20260101T000000Z-full-000002"
STORED = SEGMENT + 20


@pytest.fixture
def chain():
    return new_chain("default", FULL)


def write(path, chain, content, backup=FULL, salt=None):
    salt = salt or os.urandom(32)
    output = SealedOutput(PlainOutput(path), chain.of_archive(backup, salt), salt)
    for start in range(0, len(content), 10_007):
        output.write(content[start : start + 10_007])
    return output.finish()


def read(path, chain, backup=FULL):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        archive = SealedFile(descriptor, chain.of_archive(backup, read_salt(descriptor)))
        return archive.read(0, archive.size)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 9, SEGMENT - 8, SEGMENT - 7, SEGMENT, 3 * SEGMENT, 1_000_003])
def test_what_is_written_is_read(tmp_path, chain, size):
    content = os.urandom(size)
    stored, sha256 = write(tmp_path / "a", chain, content)
    file = (tmp_path / "a").read_bytes()
    assert (stored, sha256) == (len(file), hashlib.sha256(file).hexdigest())
    assert read(tmp_path / "a", chain) == content
    assert size < 100 or content[:50] not in file


def test_ranges_are_read_across_segments(tmp_path, chain):
    content = os.urandom(4 * SEGMENT + 5)
    write(tmp_path / "a", chain, content)
    descriptor = os.open(tmp_path / "a", os.O_RDONLY)
    archive = SealedFile(descriptor, chain.of_archive(FULL, read_salt(descriptor)))
    for offset in (0, 1, SEGMENT - 1, SEGMENT, 2 * SEGMENT - 7, 4 * SEGMENT, len(content) - 1, len(content), len(content) + 9):
        for length in (0, 1, 8, SEGMENT, 2 * SEGMENT + 3):
            assert archive.read(offset, length) == content[offset : offset + length]
    archive.close()


def test_sizes_are_hidden_up_to_padding(tmp_path, chain):
    assert padded(1_000_000) == 1_015_808 and padded(1 << 30) == 1 << 30
    assert all(length <= padded(length) <= length * 1.12 + 8 for length in range(1, 20_000))
    sizes = {write(tmp_path / f"{size}", chain, bytes(size))[0] for size in range(1_000_000, 1_000_400)}
    assert len(sizes) == 1


def damaged(path, change):
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)


def swap(content):
    first, second = slice(HEADER_BYTES, HEADER_BYTES + STORED), slice(HEADER_BYTES + STORED, HEADER_BYTES + 2 * STORED)
    content[first], content[second] = content[second], content[first]


def repeat(content):
    content[HEADER_BYTES + STORED : HEADER_BYTES + 2 * STORED] = content[HEADER_BYTES : HEADER_BYTES + STORED]


def flip(where):
    def change(content):
        content[where] ^= 1

    return change


def cut(start, end=None):
    def change(content):
        del content[start:end]

    return change


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(swap, id="two segments exchanged"),
        pytest.param(repeat, id="a segment repeated"),
        pytest.param(flip(HEADER_BYTES + 100), id="a bit of the text"),
        pytest.param(flip(HEADER_BYTES), id="a bit of the generation"),
        pytest.param(flip(-1), id="a bit of the last tag"),
        pytest.param(flip(0), id="a bit of the magic"),
        pytest.param(flip(9), id="a bit of the salt"),
        pytest.param(cut(-1), id="the last byte cut off"),
        pytest.param(cut(HEADER_BYTES + 2 * STORED), id="cut off after a whole segment"),
        pytest.param(cut(HEADER_BYTES, HEADER_BYTES + STORED), id="the first segment removed"),
        pytest.param(cut(HEADER_BYTES), id="only the header left"),
        pytest.param(cut(5), id="less than the header left"),
        pytest.param(lambda content: content.extend(bytes(STORED)), id="a segment appended"),
        pytest.param(lambda content: content.extend(content[HEADER_BYTES:]), id="everything appended again"),
    ],
)
def test_every_change_is_noticed(tmp_path, chain, change):
    write(tmp_path / "a", chain, os.urandom(4 * SEGMENT))
    damaged(tmp_path / "a", change)
    with pytest.raises(NotAuthentic):
        read(tmp_path / "a", chain)


def test_an_archive_of_another_backup_or_chain(tmp_path, chain):
    content = os.urandom(2 * SEGMENT)
    write(tmp_path / "a", chain, content, OTHER)
    with pytest.raises(NotAuthentic):
        read(tmp_path / "a", chain)  # the same chain, in the place of another backup
    with pytest.raises(NotAuthentic):
        read(tmp_path / "a", new_chain("default", FULL), OTHER)
    assert read(tmp_path / "a", chain, OTHER) == content


def test_segments_of_two_archives_of_one_backup_do_not_mix(tmp_path, chain):
    content = os.urandom(2 * SEGMENT)
    write(tmp_path / "a", chain, content)
    write(tmp_path / "b", chain, content)
    a, b = (tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()
    assert a[HEADER_BYTES : HEADER_BYTES + STORED] != b[HEADER_BYTES : HEADER_BYTES + STORED]
    (tmp_path / "a").write_bytes(b[: HEADER_BYTES + STORED] + a[HEADER_BYTES + STORED :])
    with pytest.raises(NotAuthentic):
        read(tmp_path / "a", chain)


@pytest.mark.parametrize("kept", [0, 10, SEGMENT, SEGMENT + 10, 2 * SEGMENT + 1])
def test_going_back_uses_no_nonce_twice(tmp_path, chain, kept):
    """Two texts under one nonce would show their difference."""
    salt = os.urandom(32)
    output = SealedOutput(PlainOutput(tmp_path / "a"), chain.of_archive(FULL, salt), salt)
    used = []
    encrypt = output._cipher.encrypt

    class Watched:
        def encrypt(self, nonce, content, associated):
            used.append(nonce)
            return encrypt(nonce, content, associated)

    output._cipher = Watched()
    before, after = os.urandom(kept), os.urandom(3 * SEGMENT)
    output.write(before)
    mark = output.mark()
    for _ in range(3):
        output.write(os.urandom(2 * SEGMENT + 5))
        output.rewind(mark)
    output.write(after)
    output.finish()
    assert len(used) == len(set(used))
    assert read(tmp_path / "a", chain) == before + after
