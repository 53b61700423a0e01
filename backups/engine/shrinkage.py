"""Notices stores that lost all or most of their content: a disk that is not mounted, an emptied table, truncated files.

A store that is not backed up any more is such a loss too: sources may be left out by mistake, or be meant to.

Such a backup is as sound as any other, so no verification finds it. What it was compared with is held until a person confirms.

Every backup is compared with the most that earlier ones hold, so that several small losses count as one large one. What a store
has less of, but has not lost, is its peak, which each manifest takes over from the one before::

    backup               first     second               third
    rows of a table      200       120                  80
    peak                           200 in the first
    reported                                            80 rows, 200 in the first

A reported loss replaces the peak: it is reported once, and the hold reminds of it until someone confirms it.
"""

import itertools
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase

from .capture.rows import REST
from .config import Allowance
from .errors import EngineError
from .repository.folder import Repository
from .types import MOST_PEAKS, STORES, Backup, Hold, Manifest, Peak, Shrunk, SourceKind, SourceRecord

_MOST_TOLD = 50
"""Sentences about lost content that a hold keeps."""

_LEAST_BYTES = 1 << 20
"""A folder of this size is compared by its bytes however few files it has."""

_Key = tuple[str, str]
"""Unit, and name of the table or collection."""

_FILES, _BYTES = ("files", ""), ("bytes", "")


def compare(
    before: Backup | None,
    now: tuple[SourceRecord, ...],
    allowance: Allowance,
    existing: Collection[str],
    earlier_backups: Iterable[Backup] = (),
    *,
    whole: bool = True,
) -> tuple[tuple[SourceRecord, ...], tuple[Shrunk, ...]]:
    """The sources *now* with their peaks, and what they lost since *before* and earlier backups.

    A source that lost everything is one entry, and so is one that *before* has and *now* has not, if that is to be *whole*. One
    that is back is compared with the last of *earlier_backups*, newest first, that has it. *existing* has the ids of the set's
    backups.
    """
    if before is None:
        return now, ()
    old = _last_of({record.prefix for record in now}, before, earlier_backups)
    sources: list[SourceRecord] = []
    lost: list[Shrunk] = []
    for record in now:
        peaks: Iterable[Peak] = ()
        if record.prefix in old:
            held_in, last = old[record.prefix]
            found, peaks = _of_source(_most(held_in, last), record, allowance)
            for peak, after in found or _of_broken(last, record, held_in, allowance):
                earlier = None if peak.backup == before.id else peak.backup if peak.backup in existing else ""
                told = {"unit": peak.unit, "name": peak.name, "before": peak.count, "after": after, "backup": earlier}
                lost.append(Shrunk.model_validate({"source": record.prefix, **told}))
        highest = sorted(peaks, key=lambda peak: -peak.count)[:MOST_PEAKS]
        sources.append(record.model_copy(update={"peaks": tuple(highest)}))
    present = {record.prefix for record in now}
    missing = [record.prefix for record in before.manifest.sources if record.prefix not in present] if whole else []
    gone = [Shrunk(source=prefix, unit=STORES, before=1, after=0) for prefix in missing]
    return tuple(sources), (*gone, *lost)


def _last_of(prefixes: set[str], before: Backup, earlier: Iterable[Backup]) -> Mapping[str, tuple[str, SourceRecord]]:
    """The id and the record of the last backup, from *before* on, that has each source."""
    old: dict[str, tuple[str, SourceRecord]] = {}
    for backup in itertools.chain([before], earlier):
        held = {record.prefix: (backup.id, record) for record in backup.manifest.sources if record.prefix in prefixes}
        old = held | old
        if old.keys() == prefixes:
            break
    return old


def _of_broken(old: SourceRecord, new: SourceRecord, before: str, allowance: Allowance) -> Iterable[tuple[Peak, int]]:
    """Of a store in which nothing can be counted, its files."""
    peak = Peak(unit="bytes", count=old.bytes, backup=before)
    if new.problems and _matters(peak, None, allowance) and _is_loss(peak, new.bytes, allowance):
        yield peak, new.bytes


def _most(backup_id: str, record: SourceRecord) -> dict[_Key, Peak]:
    """The most of everything that was counted, in this backup or an earlier one."""
    most = {
        (unit, name): Peak(unit=unit, name=name, count=count, backup=backup_id)
        for (unit, name), count in _counts(record).items()
    }
    for peak in record.peaks:
        key = peak.unit, peak.name
        if key not in most or most[key].count < peak.count:
            most[key] = peak
    return most


def _of_source(
    most: dict[_Key, Peak], new: SourceRecord, allowance: Allowance
) -> tuple[list[tuple[Peak, int]], Iterable[Peak]]:
    """What a source lost, each with what is left, and its peaks."""
    has, unknown = _counts(new), {key for key in most if not _is_counted(key, new)}
    for unit in dict.fromkeys(unit for unit, _ in most):
        peaks = [peak for key, peak in most.items() if key[0] == unit and peak.count]
        if peaks and not unknown and not any(count for (of, _), count in has.items() if of == unit):
            total = sum(peak.count for peak in peaks)
            return [(max(peaks, key=lambda peak: peak.count).model_copy(update={"name": "", "count": total}), 0)], []
    lost: dict[_Key, tuple[Peak, int]] = {}
    kept: list[Peak] = []
    for key, peak in most.items():
        after = has.get(key, 0)
        if after >= peak.count or any(fnmatchcase(f"{new.name}.{peak.name}", pattern) for pattern in allowance.names):
            continue
        if not _matters(peak, most.get(_FILES), allowance):
            continue
        if key not in unknown and _is_loss(peak, after, allowance):
            lost[key] = peak, after
        else:
            kept.append(peak)
    if _FILES in lost and _BYTES in lost:
        del lost[_BYTES]  # the files that are gone tell it
    return list(lost.values()), kept


def _matters(peak: Peak, files: Peak | None, allowance: Allowance) -> bool:
    least = _LEAST_BYTES if peak.unit == "bytes" else allowance.least
    return peak.count >= least or (files is not None and files.count >= allowance.least)


def _is_loss(peak: Peak, after: int, allowance: Allowance) -> bool:
    return after < peak.count * (1 - allowance.percent / 100)


def _is_counted(key: _Key, record: SourceRecord) -> bool:
    """Whether it is known how much of it there is, be it nothing. Of a store that is broken it is not."""
    if record.kind is SourceKind.SQLITE:
        return key[1] in record.rows or not {key[1], REST} & set(record.uncounted)
    return not record.problems


def _counts(record: SourceRecord) -> dict[_Key, int]:
    if record.kind is SourceKind.SQLITE:
        return {("rows", name): count for name, count in record.rows.items()}
    if record.kind is SourceKind.CHROMA:
        return {("records", item.name): item.digest.count for item in record.collections}
    return {_FILES: record.files, _BYTES: record.bytes}


def hold_until_confirmed(repository: Repository, before: Backup, manifest: Manifest) -> None:
    """Hold the backups that hold what *manifest* no longer has, until a person releases them.

    *manifest* names them; where it does not, it is *before*.
    """
    told: dict[str, list[str]] = {}
    for item in manifest.shrunk:
        told.setdefault(item.backup or before.id, []).append(f"{item.message} ({manifest.id})")
    for backup_id, lines in told.items():
        backup = before
        if backup_id != before.id:
            with suppress(EngineError):  # damaged since: the best that is left is held
                backup = repository.read(manifest.set, backup_id)
        hold = backup.hold or Hold(time=manifest.time, note=f"{manifest.id} holds much less", automatic=True)
        repository.set_hold(backup, hold.model_copy(update={"shrunk": (*hold.shrunk, *lines)[:_MOST_TOLD]}))


def end_returned(repository: Repository, manifest: Manifest) -> None:
    """Take from the holds of a set what they say about stores that are in its new backup again.

    What such a store has lost meanwhile is in holds of its own (`compare`).
    """
    present = {record.prefix for record in manifest.sources}
    for backup_id, hold in repository.holds(manifest.set):
        if hold is None or not hold.signed or not hold.shrunk:
            continue
        lines = tuple(line for line in hold.shrunk if not _is_back(repository, manifest.set, line, present))
        if lines != hold.shrunk:
            with suppress(EngineError):
                remains = hold.model_copy(update={"shrunk": lines}) if lines or not hold.automatic else None
                repository.set_hold(repository.read(manifest.set, backup_id), remains)


def _is_back(repository: Repository, set_name: str, line: str, present: set[str]) -> bool:
    """Whether a line of a hold is about a store that is *present*."""
    [(text, since)] = told_in([line])
    try:
        told = repository.read(set_name, since).manifest.shrunk if since else ()
    except EngineError:
        return False
    return any(item.unit == STORES and item.message == text and item.source in present for item in told)


def told_in(lines: Iterable[str]) -> list[tuple[str, str]]:
    """The sentences of `Hold.shrunk`, each with the id of the backup that has less; empty in older holds."""
    told = [line.rpartition(" (") for line in lines]
    return [(text, since.removesuffix(")")) if text else (since, "") for text, _, since in told]


def unconfirmed_loss(holds: Iterable[tuple[str, Hold | None]], backup_id: str) -> str:
    """A sentence on what a backup lacks for which an earlier one is held, without its full stop; "" if nothing.

    *holds* are the ids of the backups of its set, in any order, each with its hold.
    """
    for held, hold in holds:
        if hold is None or held >= backup_id:
            continue
        lost = [text for text, since in told_in(hold.shrunk) if since <= backup_id]
        if lost:
            return f"{backup_id} holds far less than {held}, which is held until someone releases it: {'; '.join(lost[:3])}"
    return ""
