"""Keeps what a live folder contains and no backup holds: it is carried over into the folder's replacement.

These are links that point out of the folder, pipes, sockets and devices, what matches an exclude pattern, and what could not be
read (`left_out`). Except for folders, the same inode gets a second name, so that nothing is read or copied.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime
from pathlib import Path

from ..errors import RestoreRefused
from ..left_out import Outside
from ..names import printable
from ..runtime import folders
from ..runtime.context import Context
from ..types import SourceKind, SourceRecord
from .targets import Target

_MOST_NAMED = 20


def keep_outside(target: Target, saved: SourceRecord | None, moment: datetime, ctx: Context) -> None:
    """Carry over into the replacement of a folder what neither it nor the safety backup holds.

    *saved* is the record of the live folder in the safety backup, None if it did not exist. Where the replacement has something
    of the same name, the live one is kept as ``NAME.before-MOMENT``. Raises `RestoreRefused` for what cannot be kept.
    """
    if saved is None:
        return
    records = (target.record, saved)
    outside = Outside(
        [item for record in records for item in record.left_out], [p for record in records for p in record.exclude]
    )
    unsaved = {item.name for item in saved.left_out if not item.count}
    crowded = next((item for item in saved.left_out if item.count and item.reason.is_loss), None)
    if crowded is not None or "" in unsaved:
        place = target.path / (crowded.name if crowded is not None else "")
        raise _refused(place, "too much of it cannot be read to be kept" if crowded is not None else "it cannot be read")
    kept = []
    above = None
    for path, status in folders.below(target.path):
        if above is not None and path.startswith(above):
            continue
        is_folder = stat.S_ISDIR(status.st_mode)
        place = target.staged / path
        if os.path.lexists(place):
            if path not in unsaved:
                continue
            place = place.with_name(f"{place.name}.before-{moment:%Y%m%dT%H%M%SZ}")
        elif not outside(path, is_folder=is_folder) and not _is_unknown_to_chroma(target, status):
            continue
        try:
            _carry(target.path / path, place, target)
        except OSError as problem:
            raise _refused(target.path / path, f"it cannot be kept: {problem.strerror}") from problem
        above = f"{path}/" if is_folder else None
        kept.append(str(place.relative_to(target.staged)))
    for path in kept[:_MOST_NAMED]:
        ctx.log(f"{target.record.prefix}: kept {printable(path)}, which no backup holds")
    if len(kept) > _MOST_NAMED:
        ctx.log(f"{target.record.prefix}: kept {len(kept) - _MOST_NAMED} more, which no backup holds")


def _is_unknown_to_chroma(target: Target, status: os.stat_result) -> bool:
    """Whether Chroma's directory contains what a backup of it does not: anything but files and folders."""
    regular = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return target.record.kind is SourceKind.CHROMA and not regular


def _refused(place: Path, why: str) -> RestoreRefused:
    return RestoreRefused(
        f"{printable(str(place))} is in no backup, and {why}. Nothing was changed.",
        hint="Make it readable or move it away, or restore into a folder.",
    )


def _carry(live: Path, place: Path, target: Target) -> None:
    """Give *live*, with everything below it, the second name *place*, with the folders above as in the live store."""
    new_folders = []
    for above in reversed(place.relative_to(target.staged).parents):
        folder = target.staged / above
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
            new_folders.append((target.path / above, folder))
    around = place.parent.stat()
    pending = [(live, place)]
    while pending:
        source, copy = pending.pop()
        if stat.S_ISDIR(source.lstat().st_mode):
            copy.mkdir(mode=0o700)
            new_folders.append((source, copy))
            pending += [(Path(entry.path), copy / entry.name) for entry in os.scandir(source)]
        else:
            _link(source, copy)
    if not new_folders or new_folders[0][1] == place:
        os.utime(place.parent, ns=(around.st_atime_ns, around.st_mtime_ns))
    for source, copy in reversed(new_folders):
        _copy_status(source, copy)


def _link(live: Path, copy: Path) -> None:
    status = live.lstat()
    try:
        os.link(live, copy, follow_symlinks=False)
    except OSError:  # the kernel lets users link only what they own (proc(5), protected_hardlinks)
        if stat.S_ISLNK(status.st_mode):
            copy.symlink_to(live.readlink())
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(copy, 0o600)
            _copy_status(live, copy)
        else:
            raise


def _copy_status(live: Path, copy: Path) -> None:
    status = live.stat()
    if os.geteuid() == 0:
        os.chown(copy, status.st_uid, status.st_gid)
    copy.chmod(stat.S_IMODE(status.st_mode))
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
