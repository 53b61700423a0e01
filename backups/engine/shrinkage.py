"""Notices stores that lost all or most of their content since the backup before: a disk that is not mounted, an emptied table.

Such a backup is as sound as any other, so no verification finds it. What it was compared with is held until a person confirms.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from .repository.folder import Repository
from .types import Allowance, Backup, Hold, Manifest, Shrunk, SourceKind, SourceRecord

_MOST_TOLD = 50
"""Sentences about lost content that a hold keeps."""


def shrunk(before: Manifest, now: Iterable[SourceRecord], allowance: Allowance) -> tuple[Shrunk, ...]:
    """What the sources lost since *before*, one entry for a source that lost everything."""
    old = {record.prefix: record for record in before.sources}
    found: list[Shrunk] = []
    for record in now:
        if record.prefix in old and not record.problems and not old[record.prefix].problems:
            found += _of_source(old[record.prefix], record, allowance)
    return tuple(found)


def _of_source(old: SourceRecord, new: SourceRecord, allowance: Allowance) -> Iterator[Shrunk]:
    unit = {SourceKind.SQLITE: "rows", SourceKind.CHROMA: "records", SourceKind.FILES: "files"}[new.kind]
    had, has = _counts(old), _counts(new)
    if sum(had.values()) and not sum(has.values()):
        yield Shrunk(source=new.prefix, unit=unit, before=sum(had.values()), after=0)
        return
    if new.kind is SourceKind.SQLITE and not new.rows:
        return  # not counted
    for name, before in had.items():
        after = has.get(name, 0)
        allowed = any(fnmatchcase(f"{new.name}.{name}", pattern) for pattern in allowance.names)
        if before >= allowance.least and after < before * (1 - allowance.percent / 100) and not allowed:
            yield Shrunk(source=new.prefix, name=name, unit=unit, before=before, after=after)


def _counts(record: SourceRecord) -> dict[str, int]:
    if record.kind is SourceKind.SQLITE:
        return record.rows
    if record.kind is SourceKind.CHROMA:
        return {item.name: item.digest.count for item in record.collections}
    return {"": record.files}


def hold_until_confirmed(repository: Repository, before: Backup, manifest: Manifest) -> None:
    """Hold *before*, the last backup with what *manifest* no longer has, until a person releases it."""
    hold = before.hold or Hold(time=manifest.time, note=f"{manifest.id} holds much less", automatic=True)
    told = tuple(f"{item.message} ({manifest.id})" for item in manifest.shrunk)
    repository.set_hold(before, hold.model_copy(update={"shrunk": (*hold.shrunk, *told)[:_MOST_TOLD]}))
