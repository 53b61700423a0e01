"""Lists a folder of files, without following links and without what belongs to other sources, and opens its files."""

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..archive.paths import LONGEST_PATH, link_stays_inside
from ..archive.table import EntryType
from ..left_out import Absence, Patterns
from ..runtime import folders
from .block_store import ReadFailed

_BECAME_ANOTHER: Final = (errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.EISDIR)
ATTRIBUTES: Final = ("user.", "system.posix_acl_")
"""How the names of extended attributes begin that users set: their own, and access control lists (xattr(7), acl(5))."""

_WITHOUT_TIMES: Final = ("tmpfs", "ramfs")
"""File systems that do not change a file's times when it is written to through a mapping."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file, folder or link; *path* is relative to the listed folder, *target* is that of a link."""

    path: str
    kind: EntryType
    mode: int
    mtime_ns: int
    target: str = ""


LeaveOut = Callable[[str, Absence, str], None]
"""Called with a path, the reason, and the message of the operating system."""


def walk(root: int, prefix: str, elsewhere: Collection[str], excluded: Patterns, leave_out: LeaveOut) -> Iterator[Listed]:
    """All folders, files and links below the descriptor *root*, by name, each folder before its content.

    *leave_out* is called for everything that is not yielded: the paths *elsewhere* (the repository, other sources), links that
    point out of *root*, sockets, pipes and devices, paths that are too long below *prefix*, and what cannot be read. It is not
    called for what matches *excluded*, nor for what disappears meanwhile. Raises `ReadFailed` if *root* itself cannot be read.
    """
    pending = _content(root, "", leave_out)
    while pending:
        item = pending.pop()
        path = item.path
        if path in elsewhere:
            leave_out(path, Absence.OTHER_SOURCE, "")
        elif excluded(path, is_folder=item.kind is EntryType.FOLDER):
            continue
        elif len(os.fsencode(f"{prefix}/{path}")) > LONGEST_PATH:
            leave_out(path, Absence.TOO_LONG, "")
        elif item.kind is EntryType.FOLDER:
            try:
                inside = _content(root, path, leave_out)
            except FileNotFoundError:
                continue
            except ReadFailed as problem:
                leave_out(path, reason_of(problem), problem.strerror or "")
                continue
            yield item
            pending.extend(inside)
        elif item.kind is EntryType.LINK and not link_stays_inside(f"{prefix}/{path}", item.target):
            leave_out(path, Absence.OUTWARD_LINK, "")
        elif item.kind is EntryType.FILE and not stat.S_ISREG(item.mode):
            leave_out(path, Absence.SPECIAL, "")
        else:
            yield item


def _content(root: int, path: str, leave_out: LeaveOut) -> list[Listed]:
    """What is in a folder, the last name first; what is neither file, folder nor link is listed as a file, with its mode."""
    found = []
    try:
        with folders.opened(path, root) as descriptor:
            for entry in sorted(os.scandir(descriptor), key=lambda entry: entry.name, reverse=True):
                inside = f"{path}/{entry.name}" if path else entry.name
                try:
                    status = entry.stat(follow_symlinks=False)
                    target = os.readlink(entry.name, dir_fd=descriptor) if stat.S_ISLNK(status.st_mode) else ""
                except FileNotFoundError:
                    continue
                except OSError as problem:
                    leave_out(inside, reason_of(problem), problem.strerror or "")
                    continue
                kind = EntryType.FOLDER if stat.S_ISDIR(status.st_mode) else EntryType.LINK if target else EntryType.FILE
                found.append(Listed(inside, kind, status.st_mode, status.st_mtime_ns, target))
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise ReadFailed(problem.errno, problem.strerror, path) from problem
    return found


def has_attributes(path: str, root: int) -> bool:
    """Whether a file or folder has any of the `ATTRIBUTES`."""
    try:
        names = os.listxattr(f"/proc/self/fd/{root}/{path}", follow_symlinks=False)
    except OSError:
        return False
    return any(name.startswith(ATTRIBUTES) for name in names)


def status_of(path: str, root: int) -> os.stat_result:
    """The status of what is at *path*. Raises ``FileNotFoundError``, and `ReadFailed` for anything else."""
    try:
        return os.stat(path, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise ReadFailed(problem.errno, problem.strerror, path) from problem


def open_regular(path: str, root: int) -> int:
    """Open a file of a folder that may change. Raises ``FileNotFoundError``, and `ReadFailed` for anything else.

    Pages that were changed through a mapping are written to disk: the next change is one that the file's times show.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=root)
    except FileNotFoundError:
        raise
    except OSError as problem:
        raise ReadFailed(problem.errno, problem.strerror, path) from problem
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ReadFailed(errno.ENXIO, "it is no longer a file", path)
    folders.write_mapped_pages(descriptor)
    return descriptor


def reason_of(problem: OSError) -> Absence:
    """Why something is left out that could not be read."""
    if problem.errno in _BECAME_ANOTHER:
        return Absence.CHANGED
    return Absence.TOO_LONG if problem.errno == errno.ENAMETOOLONG else Absence.UNREADABLE


def devices_without_times() -> frozenset[int]:
    """The devices (``st_dev``) whose files may change without a trace in their times (proc(5), ``mountinfo``)."""
    found = set()
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
        place, _, kind = line.partition(" - ")
        if kind.split(" ", 1)[0] in _WITHOUT_TIMES:
            major, _, minor = place.split(" ", 3)[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)
