"""Backups whose manifest is lost: what can be said of them from the archive, so that ``--salvage`` can restore it."""

from datetime import UTC, datetime
from pathlib import Path

from ..archive.reader import Archives
from ..archive.table import EntryType, Tree
from ..errors import DamageFound
from ..repository.base import STAMP
from ..repository.folder import Repository
from ..types import Backup, BackupKind, DataFile, Manifest, Source, SourceKind, SourceRecord


def find_for_salvage(repository: Repository, wanted: str, set_name: str | None) -> tuple[Backup, str]:
    """The backup that *wanted* names, and "", or what is wrong with its manifest, if the backup is described by its archive.

    Raises what `Repository.find` raises, and `DamageFound` if the archive cannot be described either.
    """
    try:
        return repository.find(wanted, set_name), ""
    except DamageFound as damage:
        for name in [set_name] if set_name else repository.sets():
            for backup_id in repository.ids(name):
                if backup_id.startswith(wanted):
                    return _described(repository, name, backup_id), damage.message
        raise


def _described(repository: Repository, set_name: str, backup_id: str) -> Backup:
    locate = repository.locate(set_name, salvage=True)
    with Archives(locate) as archives:
        tree = archives.tree(backup_id)
    stored = locate(backup_id)
    moment = datetime.strptime(backup_id[:16], STAMP).replace(tzinfo=UTC)
    records = _records(tree)
    size = repository.archive_bytes(set_name, backup_id) or 0
    manifest = Manifest(
        id=backup_id,
        set=set_name,
        kind=BackupKind(backup_id.split("-")[1]),
        parent=stored.parent,
        time=moment,
        finished=moment,
        sources=records,
        bytes_source=sum(record.bytes for record in records),
        bytes_stored=size,
        data=DataFile(
            bytes=size,
            sha256="0" * 64,  # unknown
            table_offset=stored.table_offset,
            table_bytes=stored.table_bytes,
            table_blake3=stored.table_blake3,
            table_whole=stored.parent is None,
        ),
    )
    return Backup(manifest=manifest)


def _records(tree: Tree) -> tuple[SourceRecord, ...]:
    """A record of each source whose entries *tree* has. Where it was is unknown."""
    found: dict[tuple[SourceKind, str], list[int]] = {}
    for path, entry in tree.entries.items():
        kind, name = path.split("/")[:2]
        if kind == SourceKind.SQLITE:
            if not name.endswith(".sqlite3"):
                continue  # a log beside it
            name = name.removesuffix(".sqlite3")
        sizes = found.setdefault((SourceKind(kind), name), [])
        if entry.kind is EntryType.FILE:
            sizes.append(entry.size)
    return tuple(
        SourceRecord(
            kind=kind,
            name=name,
            path=str(Path(Source(kind=kind, name=name, path=Path()).prefix)),
            method="walked",
            bytes=sum(sizes),
            files=len(sizes),
        )
        for (kind, name), sizes in found.items()
    )
