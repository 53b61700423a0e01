#!/usr/bin/env python3
"""Turn a backup made by refbackup into a plain tar, without refbackup.

    python3 open_backup.py --key KIT REPOSITORY/backups/SET/ID > backup.tar

KIT is a file with the recovery key (RBKEY-...) or a host's private key in PEM. It needs Python 3.11, and the packages
cryptography (50 or later) and zstandard. An incremental backup needs the folders of its parents beside it. Everything that is
read is checked; a changed, exchanged or missing part ends the script with a message, and the tar is then incomplete.
"""

import argparse
import base64
import hashlib
import io
import json
import re
import struct
import sys
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LABEL = b"refserver-backups/1"
SEGMENT, TAG, GENERATION, HEADER = 65536, 16, 4, 40
BLOCK = 262144
FILE, FOLDER, LINK, REMOVED = 0, 1, 2, 255


def private_key(text: str) -> X25519PrivateKey:
    """The key in a recovery kit or a PEM file."""
    if text.lstrip().startswith("-----BEGIN"):
        key = load_pem_private_key(text.encode(), None)
        if not isinstance(key, X25519PrivateKey):
            sys.exit("this is not an X25519 private key")
        return key
    found = re.search(r"RBKEY[-\s](?:[A-Za-z0-9]{1,4}[-\s]*)+", text, re.IGNORECASE)
    if not found:
        sys.exit("there is no recovery key (RBKEY-...) in the file")
    letters = re.sub(r"[-\s]", "", found[0].upper())[5:63].translate(str.maketrans("018", "OIB"))
    raw = base64.b32decode(letters + "=" * (-len(letters) % 8))
    if hashlib.sha256(raw[:32]).digest()[:4] != raw[32:]:
        sys.exit("the recovery key has a wrong or missing letter")
    return X25519PrivateKey.from_private_bytes(raw[:32])


def derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF with SHA-256 (RFC 5869)."""
    derived: bytes = HKDF(SHA256(), 32, salt or None, info).derive(key)
    return derived


class Backup:
    """One backup of a set: its manifest, and its archive as plain bytes."""

    def __init__(self, folder: Path, private: X25519PrivateKey) -> None:
        shown = json.loads((folder / "manifest.json").read_bytes())
        self.id, self.set = shown["id"], shown["set"]
        if self.id != folder.name:
            sys.exit(f"{folder} holds the backup {self.id}")
        self.manifest = shown
        self.chain = b""
        if shown.get("encryption"):
            self.chain = self.open_chain(folder.parent, shown["encryption"], private)
            record = base64.b64decode(shown["sealed"])
            info = b"\0".join((LABEL, self.set.encode(), self.id.encode(), b"manifest"))
            text = AESGCM(derive(self.chain, record[:32], info)).decrypt(bytes(12), record[32:], None)
            self.manifest = json.loads(text[8 : 8 + int.from_bytes(text[:8], "little")])
        for name in ("id", "set", "kind", "parent", "time", "encryption"):
            if self.manifest[name] != shown[name]:
                sys.exit(f"{name} in the manifest of {self.id} was changed")
        name = "data.tar.zst.enc" if self.chain else "data.tar.zst"
        self.file: BinaryIO = (folder / name).open("rb")
        if self.chain:
            self.begin_segments()

    def open_chain(self, folder: Path, about: dict[str, str], private: X25519PrivateKey) -> bytes:
        """The chain key, from the envelope beside the full backup."""
        envelope = json.loads((folder / about["chain"] / "chain.json").read_bytes())
        public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
        suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
        info = b"\0".join((LABEL + b"/chain", self.set.encode(), about["chain"].encode()))
        for one in envelope["recipients"]:
            if one["public"] == public:
                key: bytes = suite.decrypt(base64.b64decode(one["sealed"]), private, info)
                if derive(key, b"", LABEL + b"/commitment").hex() == about["commitment"]:
                    return key
        sys.exit(f"this key does not open {self.id}; recipients: {', '.join(one['name'] for one in envelope['recipients'])}")

    def begin_segments(self) -> None:
        """Read the header of the archive, and its length at the end of the last segment."""
        header = self.file.read(HEADER)
        if header[:8] != b"RBSEAL1\n":
            sys.exit(f"the archive of {self.id} does not begin as an encrypted one")
        info = b"\0".join((LABEL, self.set.encode(), self.id.encode(), b"archive"))
        self.cipher = AESGCM(derive(self.chain, header[8:], info))
        stored = self.file.seek(0, io.SEEK_END) - HEADER
        self.segments = -(-stored // (GENERATION + SEGMENT + TAG))
        self.text = stored - self.segments * (GENERATION + TAG)
        self.length = int.from_bytes(self.plain(self.text - 8, 8), "little")

    def plain(self, offset: int, length: int) -> bytes:
        """A range of what is sealed."""
        first, last = offset // SEGMENT, (offset + length - 1) // SEGMENT
        pieces = []
        for number in range(first, last + 1):
            self.file.seek(HEADER + number * (GENERATION + SEGMENT + TAG))
            stored = self.file.read(GENERATION + SEGMENT + TAG)
            (generation,) = struct.unpack_from("<I", stored)
            nonce = struct.pack(">IQ", generation, number)
            associated = b"last" if number == self.segments - 1 else None
            try:
                pieces.append(self.cipher.decrypt(nonce, stored[GENERATION:], associated))
            except InvalidTag:
                sys.exit(f"the archive of {self.id} was changed in segment {number}")
        return b"".join(pieces)[offset - first * SEGMENT :][:length]

    def read(self, offset: int, length: int) -> bytes:
        """A range of the archive."""
        if self.chain:
            return self.plain(offset, length)
        self.file.seek(offset)
        return self.file.read(length)


class Reader:
    """Takes the fields of a table from left to right."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, layout: str) -> Any:
        """The next fields of a struct layout; one field is returned as it is."""
        found = struct.unpack_from("<" + layout, self.content, self.at)
        self.at += struct.calcsize("<" + layout)
        return found if len(found) > 1 else found[0]

    def text(self) -> str:
        """A text with its length in front."""
        length = self.take("H")
        self.at += length
        return self.content[self.at - length : self.at].decode("utf-8", "surrogateescape")


class Chain:
    """A backup with its parents: their tables, and the blocks of files."""

    def __init__(self, folder: Path, private: X25519PrivateKey) -> None:
        self.backups: dict[str, Backup] = {}
        self.frames: dict[str, list[tuple[int, int, int, str | None, int]]] = {}
        self.folder, self.private = folder.parent, private
        self.files = self.tree(folder.name)

    def backup(self, name: str) -> Backup:
        """A backup of the set."""
        if name not in self.backups:
            self.backups[name] = Backup(self.folder / name, self.private)
        return self.backups[name]

    def table(self, name: str) -> tuple[bool, list[tuple[Any, ...]]]:
        """Whether a backup's table is whole, and its entries: path, kind, mode, mtime, size, target, runs."""
        data = self.backup(name).manifest["data"]
        stored = self.backup(name).read(data["table_offset"], data["table_bytes"])
        table = Reader(zstandard.ZstdDecompressor().decompress(stored, allow_extra_data=False))
        magic, flags, _, backups, frames, entries, _ = table.take("8s6I")
        if magic != b"RBTABLE1":
            sys.exit(f"the table of {name} cannot be read")
        names = [name, *(table.text() for _ in range(backups))]
        self.frames[name] = []
        for _ in range(frames):
            _, offset, size, raw, base, number, _ = table.take("32sQIIIIB7x")
            self.frames[name].append((offset, size, raw, None if base == 0xFFFFFFFF else names[base], number))
        found = []
        for _ in range(entries):
            path = table.text()
            kind, mode, mtime, size, _, _, _ = table.take("BIqQQqB")
            target = table.text()
            runs = [table.take("4I") for _ in range(table.take("I"))]
            found.append((path, kind, mode, mtime, size, target, [(a, n, names[b], f) for a, n, b, f in runs]))
        return bool(flags & 1), found

    def tree(self, name: str) -> dict[str, tuple[Any, ...]]:
        """All entries of a backup by path, each with the list of its blocks: archive and frame."""
        whole, entries = self.table(name)
        parent = self.backup(name).manifest["parent"]
        files = {} if whole else self.tree(parent)
        if whole and parent:  # blocks may still lie in the archives of ancestors
            self.tree_frames(parent)
        for path, kind, mode, mtime, size, target, runs in entries:
            if kind == REMOVED:
                files.pop(path, None)
                continue
            count = -(-size // BLOCK) if kind == FILE else 0
            before = files[path][5] if path in files and not whole else []
            blocks = [*before[:count], *[None] * (count - len(before))]
            for first, number, archive, frame in runs:
                blocks[first : first + number] = [(archive, frame + step) for step in range(number)]
            files[path] = (kind, mode, mtime, size, target, blocks)
        return files

    def tree_frames(self, name: str) -> None:
        """Read the tables of ancestors, for their frames."""
        while name:
            if name not in self.frames:
                self.table(name)
            name = self.backup(name).manifest["parent"]

    def block(self, archive: str, number: int) -> bytes:
        """A block, decompressed; zstd's checksum is compared."""
        offset, stored, raw, base, base_number = self.frames[archive][number]
        frame = self.backup(archive).read(offset, stored)
        if base is None:
            return zstandard.ZstdDecompressor().decompress(frame, max_output_size=raw, allow_extra_data=False)
        below = zstandard.ZstdCompressionDict(self.block(base, base_number), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return zstandard.ZstdDecompressor(dict_data=below).decompress(frame, max_output_size=raw, allow_extra_data=False)

    def write_tar(self, target: BinaryIO) -> None:
        """Write every file, folder and link as a tar."""
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path, (kind, mode, mtime, size, link, blocks) in sorted(self.files.items()):
                info = tarfile.TarInfo(path)
                info.mode, info.mtime = mode, mtime // 1_000_000_000
                if kind == FOLDER:
                    info.type = tarfile.DIRTYPE
                elif kind == LINK:
                    info.type, info.linkname = tarfile.SYMTYPE, link
                if kind != FILE:
                    tar.addfile(info)
                    continue
                info.size = size
                tar.addfile(info, Content(self, blocks))


class Content(io.RawIOBase):
    """The content of a file, block by block."""

    def __init__(self, chain: Chain, blocks: list[tuple[str, int]]) -> None:
        self.chain, self.blocks, self.left = chain, iter(blocks), b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        while len(self.left) < size:
            following = next(self.blocks, None)
            if following is None:
                break
            self.left += self.chain.block(*following)
        taken, self.left = self.left[:size], self.left[size:]
        return taken


def main() -> None:
    """Write the tar of one backup to standard output."""
    parser = argparse.ArgumentParser(description="Turn an encrypted backup into a tar, on standard output.")
    parser.add_argument("--key", required=True, metavar="KIT", help="file with the recovery key or a private key")
    parser.add_argument("folder", help="the backup's folder: REPOSITORY/backups/SET/ID")
    given = parser.parse_args()
    if sys.stdout.isatty():
        sys.exit("redirect the output to a file: > backup.tar")
    key = private_key(Path(given.key).read_text("utf-8", "replace"))
    Chain(Path(given.folder).resolve(), key).write_tar(sys.stdout.buffer)


if __name__ == "__main__":
    main()
