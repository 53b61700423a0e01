"""Lists a folder of files, without following links and without what belongs to other sources."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..archive.paths import link_stays_inside
from ..archive.table import EntryType


@dataclass(frozen=True, slots=True)
class Listed:
    """A file, folder or link; *path* is relative to the listed folder, *target* is that of a link."""

    path: str
    kind: EntryType
    status: os.stat_result
    target: str = ""


def walk(root: Path, exclude: list[Path], notes: list[str]) -> Iterator[Listed]:
    """All folders, files and links under *root*, by name, each folder before its content.

    Skipped with a line in *notes*: everything under a path of *exclude* (the repository, other sources), links that point out
    of *root*, sockets, pipes and devices. Skipped without: files that disappear meanwhile.
    """
    excluded = {path.resolve() for path in exclude}
    yield from _walk(root.resolve(), "", excluded, notes)


def _walk(folder: Path, prefix: str, excluded: set[Path], notes: list[str]) -> Iterator[Listed]:
    try:
        entries = sorted(os.scandir(folder), key=lambda item: item.name)
    except FileNotFoundError:
        return
    for entry in entries:
        path, place = prefix + entry.name, folder / entry.name
        if place in excluded:
            notes.append(f"{path} is left out: it belongs to the repository or to another source")
            continue
        try:
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                target = place.readlink().as_posix()
                if link_stays_inside(f"files/any/{path}", target):
                    yield Listed(path, EntryType.LINK, status, target)
                else:
                    notes.append(f"{path} is left out: it is a link that points out of the folder")
                continue
        except FileNotFoundError:
            continue
        if stat.S_ISDIR(status.st_mode):
            yield Listed(path, EntryType.FOLDER, status)
            yield from _walk(place, path + "/", excluded, notes)
        elif stat.S_ISREG(status.st_mode):
            yield Listed(path, EntryType.FILE, status)
        else:
            notes.append(f"{path} is left out: it is not a file, folder or link")
