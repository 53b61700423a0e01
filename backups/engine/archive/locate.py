"""From a backup's id to its archive: where its table is, what it builds on, and with which key it is read."""

import contextlib
import json
import os
import struct
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from ..encryption.chain import ChainKey
from ..encryption.chains import OpenChains
from ..encryption.record import MANIFEST as MANIFEST_FORM
from ..encryption.record import chain_of, opened
from ..errors import DamageFound, EngineError, from_os_error
from ..names import BACKUP_ID, DATA, MANIFEST, SEALED_DATA
from ..runtime.enclosure import Enclosure, NotAllowed
from .blocks import digest
from .files import ArchiveFile, PlainFile
from .paths import check_path
from .sealed import NotAuthentic, SealedFile, read_salt
from .table import MAX_TABLE_BYTES, decompress_table, unpack
from .writer import SKIPPABLE_TABLE

_PIECE = 1 << 20
MAX_MANIFEST_BYTES = 1 << 24
"""A manifest that is larger is not read: it describes some 27,000 collections of Chroma."""

MAX_MANIFEST_COMMAS = 500_000
"""A value that takes two bytes in JSON takes up to two hundred in memory, so the number of values is bounded as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """The *folder* of a backup, the place of the table in its archive, and its parent, all from its manifest.

    ``chain`` is the key of an encrypted backup, whose id is then ``backup``.
    """

    folder: Enclosure
    backup: str
    parent: str | None
    table_offset: int
    table_bytes: int
    table_blake3: str
    chain: ChainKey | None = None

    def open(self) -> ArchiveFile:
        """The archive, to read from. Raises ``OSError`` and `DamageFound`."""
        return open_archive(self.folder, self.backup, self.chain)


Locate = Callable[[str], Stored]
"""From a backup's id to its archive. Raises `DamageFound`."""


def open_archive(folder: Enclosure, backup: str, chain: ChainKey | None) -> ArchiveFile:
    """The archive in the *folder* of a backup, encrypted if there is a *chain*. Raises ``OSError`` and `DamageFound`."""
    if chain is None:
        return PlainFile(folder.open_file(DATA))
    descriptor = folder.open_file(SEALED_DATA)
    try:
        return SealedFile(descriptor, chain.of_archive(backup, read_salt(descriptor)))
    except NotAuthentic as problem:
        os.close(descriptor)
        raise DamageFound(f"The archive of {backup} cannot be decrypted: {problem}.", id=backup) from None
    except BaseException:
        os.close(descriptor)
        raise


def locate_in(set_folder: Enclosure, chains: OpenChains, *, salvage: bool = False) -> Locate:
    """A `Locate` for the backups of one set that reads each manifest once, and of it only what it needs.

    With *salvage*, the archive itself says where its table is (`locate_table`) if the manifest cannot be read, is that of
    another backup, or names another place.
    """
    known: dict[str, Stored] = {}

    def locate(backup: str) -> Stored:
        if backup not in known:
            if not BACKUP_ID.fullmatch(backup):
                raise DamageFound(f"{backup!r} is not the id of a backup.")
            try:
                found = _located(set_folder.inside(backup), backup, chains)
                if salvage:
                    read_table(found, backup)
                known[backup] = found
            except DamageFound:
                if not salvage:
                    raise
                known[backup] = locate_table(set_folder.inside(backup), backup, chains)
        return known[backup]

    return locate


def _located(folder: Enclosure, backup: str, chains: OpenChains) -> Stored:
    try:
        manifest = json.loads(read_manifest(folder))
        encryption = chain_of(f"The manifest of {backup}", manifest)
        chain = chains.open(encryption) if encryption is not None else None
        if chain is not None:
            manifest = opened(MANIFEST_FORM, backup, manifest, chain)
        if manifest["id"] != backup:
            raise DamageFound(f"The manifest of {backup} is that of another backup.", hint=salvage_hint(backup), id=backup)
        data = manifest["data"]
        stored = Stored(
            folder=folder,
            backup=backup,
            parent=manifest["parent"],
            table_offset=int(data["table_offset"]),
            table_bytes=int(data["table_bytes"]),
            table_blake3=str(data["table_blake3"]),
            chain=chain,
        )
    except FileNotFoundError:
        if folder.is_folder():
            message = f"The backup {backup} has no manifest; its archive may be intact."
            raise DamageFound(message, hint=salvage_hint(backup), id=backup) from None
        raise DamageFound(f"The backup {backup}, which others need, is missing.", id=backup) from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as problem:
        raise DamageFound(
            f"The manifest of {backup} cannot be read: {problem}.", hint=salvage_hint(backup), id=backup
        ) from None
    in_bounds = 0 <= stored.table_offset <= 1 << 62 and 0 < stored.table_bytes <= MAX_TABLE_BYTES
    if not in_bounds or not isinstance(stored.parent, str | None):
        raise DamageFound(f"The manifest of {backup} names an impossible table or parent.", id=backup)
    return stored


def salvage_hint(backup: str) -> str:
    """What to do about a backup whose manifest is lost or wrong."""
    return (
        "Restore a sound backup: `refbackup verify --all` finds one. Without one, the archive may do without its manifest: "
        f"`refbackup restore {backup} --to DIR --salvage`, or --salvage with the id of a backup that builds on it."
    )


def locate_table(folder: Enclosure, backup: str, chains: OpenChains) -> Stored:
    """The archive of *backup* without its manifest: the table is the skippable frame that ends it. Raises `DamageFound`.

    The parent of an incremental is the newest backup that its table names; writers name it since version 0.3.
    """
    try:
        chain = _chain_of_archive(folder, backup, chains)
        with closing(open_archive(folder, backup, chain)) as archive:
            head, stored = _last_table(archive)
    except (OSError, NotAuthentic) as problem:
        raise DamageFound(f"The archive of {backup} cannot be read: {problem}.", id=backup) from None
    if not stored:
        raise DamageFound(f"The archive of {backup} does not end with its table.", id=backup)
    table = unpack(backup, decompress_table(backup, stored), check_path)
    named = [name for name in table.backups if name != backup]
    return Stored(
        folder=folder,
        backup=backup,
        parent=None if table.whole else max(named, default=None),
        table_offset=head + 8,
        table_bytes=len(stored),
        table_blake3=digest(stored).hex(),
        chain=chain,
    )


def _chain_of_archive(folder: Enclosure, backup: str, chains: OpenChains) -> ChainKey | None:
    """The key of an archive whose manifest is lost; None for a plain archive. Raises `DamageFound` and ``OSError``."""
    if folder.status(SEALED_DATA) is None:
        return None
    for chain in chains.before(backup):
        with contextlib.suppress(DamageFound), closing(open_archive(folder, backup, chain)):
            return chain
    raise DamageFound(f"The archive of {backup} is encrypted, and no key here opens it.", id=backup)


def _last_table(archive: ArchiveFile) -> tuple[int, bytes]:
    """The offset of the skippable frame that ends an archive, and its content, which is empty if there is none."""
    magic = struct.pack("<I", SKIPPABLE_TABLE)
    end = archive.size
    while end > 0:
        start = max(0, end - _PIECE)
        piece = archive.read(start, min(archive.size, end + 7) - start)  # a head may lie across two pieces
        at = len(piece)
        while (at := piece.rfind(magic, 0, at + 3)) >= 0:
            size = int.from_bytes(piece[at + 4 : at + 8], "little")
            if start + at + 8 + size == archive.size and size <= MAX_TABLE_BYTES:
                return start + at, archive.read(start + at + 8, size)
        end = start
    return -1, b""


def read_manifest(folder: Enclosure) -> bytes:
    """The bytes of a backup's manifest. Raises ``OSError``, also for a file that is too large, or has too many values."""
    return folder.read(MANIFEST, MAX_MANIFEST_BYTES, MAX_MANIFEST_COMMAS)


class BlockDamaged(DamageFound):
    """A stored frame was changed or lost; the message names its archive and offset."""

    def __init__(self, message: str, *, backup: str, offset: int) -> None:
        super().__init__(f"{message} (archive of {backup}, byte {offset})", id=backup, offset=offset)
        self.backup = backup
        self.offset = offset


def read_table(where: Stored, backup: str) -> bytes:
    """The compressed table at its place, compared with its hash. Raises `DamageFound`."""
    try:
        with closing(where.open()) as archive:
            stored = archive.read(where.table_offset, where.table_bytes)
    except NotAuthentic as problem:
        raise BlockDamaged(f"The table cannot be decrypted: {problem}", backup=backup, offset=where.table_offset) from None
    except OSError as problem:
        raise unreadable(backup, problem) from problem
    if len(stored) != where.table_bytes or digest(stored).hex() != where.table_blake3:
        raise BlockDamaged("The table was changed after it was written", backup=backup, offset=where.table_offset)
    return stored


def unreadable(backup: str, problem: OSError) -> EngineError:
    """The error for an archive that cannot be opened or read."""
    if isinstance(problem, FileNotFoundError):
        return DamageFound(f"The archive of {backup} is missing.", id=backup)
    if isinstance(problem, NotAllowed):
        return DamageFound(f"The archive of {backup} cannot be read: {problem}.", id=backup)
    return from_os_error(problem, f"Reading the archive of {backup}")
