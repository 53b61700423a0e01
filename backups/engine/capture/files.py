"""Walking a folder of files: what is in it, without following links and without what belongs to other sources."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..archive.paths import link_stays_inside
from ..archive.table import EntryType


@dataclass(frozen=True, slots=True)
class Found:
    """Something in a folder; *path* is relative to it, *target* that of a link."""

    path: str
    kind: EntryType
    status: os.stat_result
    target: str = ""


def walk(root: Path, exclude: list[Path], notes: list[str]) -> Iterator[Found]:
    """All folders, files and links under *root*, by name, each folder before what is in it.

    Left out, each with a line in *notes*: what lies under a path of *exclude* (the repository, other sources), links that lead
    out of *root*, sockets, pipes and devices. What vanishes while it is listed is passed over.
    """
    barred = {path.resolve() for path in exclude}
    yield from _walk(root.resolve(), "", barred, notes)


def _walk(folder: Path, prefix: str, barred: set[Path], notes: list[str]) -> Iterator[Found]:
    try:
        entries = sorted(os.scandir(folder), key=lambda item: item.name)
    except FileNotFoundError:
        return
    for entry in entries:
        path, place = prefix + entry.name, folder / entry.name
        if place in barred:
            notes.append(f"{path} is left out: it belongs to the repository or to another source")
            continue
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                target = place.readlink().as_posix()
                if link_stays_inside(f"files/any/{path}", target):
                    yield Found(path, EntryType.LINK, status, target)
                else:
                    notes.append(f"{path} is left out: it is a link that leads out of the folder")
                continue
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield Found(path, EntryType.FOLDER, status)
            yield from _walk(place, path + "/", barred, notes)
        elif stat.S_ISREG(status.st_mode):
            yield Found(path, EntryType.FILE, status)
        else:
            notes.append(f"{path} is left out: it is neither file, folder nor link")
