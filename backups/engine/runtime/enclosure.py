"""A folder that others may write to, such as a repository: no name in it leads anywhere else, and no file is too large.

Others can put a link, a FIFO, a device or a sparse file of a terabyte under any name. So every path is opened from a descriptor
of the folder, and no link is followed on the way (`folders.open_folder`) or at its end (``O_NOFOLLOW``); files are opened
without waiting (``O_NONBLOCK``) and must be regular; and a size is compared with its bound before memory is used. The path of
the folder is trusted: it comes from the settings and may contain links.
"""

import contextlib
import errno
import itertools
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import durable, folders

MOST_NAMES: Final = 1_000_000
"""Entries that one folder may hold."""

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LOCK: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAllowed(OSError):
    """What has the name does not belong in such a folder: a link, a special file, or more than may be read."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(errno.EINVAL, f"{path} {what}")

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, slots=True)
class Enclosure:
    """What is in the folder *root*, or in the folder *within* it. All paths are relative to that, with ``/``.

    All methods raise ``OSError``, and `NotAllowed` for what is in the way.
    """

    root: Path
    within: str = ""

    def inside(self, path: str) -> "Enclosure":
        """What is in a folder in this one, which may be missing."""
        return Enclosure(self.root, "/".join((*_components(self.within), *_components(path))))

    def path(self, path: str = "") -> Path:
        """Where something is. For messages, and for what this process has just made with a random name."""
        return self.root / self.within / path

    @contextmanager
    def opened(self, path: str = "") -> Iterator[int]:
        """A descriptor of a folder."""
        names = (*_components(self.within), *_components(path))
        root = folders.open_folder(self.root)
        try:
            descriptor = folders.open_folder("/".join(names), root)
        except NotADirectoryError as problem:
            raise self._not_allowed(root, names) from problem
        finally:
            os.close(root)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _not_allowed(self, root: int, names: Sequence[str]) -> NotAllowed:
        """What is in the way: the first of *names*, each in the folder before it, that is not a folder."""
        for depth, name in enumerate(names, 1):
            with folders.opened("/".join(names[: depth - 1]), root) as above:
                kind = stat.S_IFMT(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
            if kind != stat.S_IFDIR:
                break
        return NotAllowed(self.root.joinpath(*names[:depth]), f"is {_KINDS.get(kind, 'a file')}")

    def open_file(self, path: str) -> int:
        """A descriptor to read a regular file."""
        return self._open(path, _READ)

    def open_lock(self, path: str) -> int:
        """A descriptor to lock a regular file, which is made if it is missing, and to write to it."""
        descriptor = self._open(path, _LOCK)
        if os.fstat(descriptor).st_nlink != 1:
            os.close(descriptor)
            raise NotAllowed(self.path(path), "has other names")  # they may be in other folders
        return descriptor

    def _open(self, path: str, flags: int) -> int:
        above, name = _split(path)
        with self.opened(above) as folder:
            try:
                descriptor = os.open(name, flags, 0o600, dir_fd=folder)
            except OSError as problem:
                if problem.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                    raise
                kind = stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
            else:
                kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
                if kind == stat.S_IFREG:
                    return descriptor
                os.close(descriptor)
        raise NotAllowed(self.path(path), f"is {_KINDS.get(kind, 'a special file')}")

    def read(self, path: str, most: int, commas: int | None = None) -> bytes:
        """The content of a file of up to *most* bytes, and with up to so many *commas*, which bounds the values of JSON."""
        with os.fdopen(self.open_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(most + 1) if size <= most else b""
        if size > most or len(content) > most:
            raise NotAllowed(self.path(path), f"has {max(size, len(content)):,} bytes; at most {most:,} are read")
        if commas is not None and content.count(b",") > commas:
            raise NotAllowed(self.path(path), f"has more than {commas:,} values")
        return content

    def status(self, path: str) -> os.stat_result | None:
        """The status of an entry, or of the folder; of a link itself, not of what it names. None if there is none."""
        above, name = _split(path) if path else ("", "")
        try:
            with self.opened(above) as folder:
                return os.stat(name, dir_fd=folder, follow_symlinks=False) if name else os.fstat(folder)
        except FileNotFoundError:
            return None

    def changed(self, path: str) -> int:
        """When an entry, or the folder, was changed last, in nanoseconds; 0 if there is none, or it cannot be looked at."""
        try:
            found = self.status(path)
        except OSError:
            return 0
        return found.st_mtime_ns if found is not None else 0

    def is_folder(self, path: str = "") -> bool:
        """Whether there is a folder, and not a link to one."""
        try:
            with self.opened(path):
                return True
        except (FileNotFoundError, NotAllowed):
            return False

    def names(self, path: str = "", most: int = MOST_NAMES) -> list[str]:
        """The names in a folder, in order; none if it is missing."""
        try:
            with self.opened(path) as folder, os.scandir(folder) as entries:
                found = sorted(entry.name for entry in itertools.islice(entries, most + 1))
        except FileNotFoundError:
            return []
        if len(found) > most:
            raise NotAllowed(self.path(path), f"has more than {most:,} entries")
        return found

    def make_folder(self, path: str = "", mode: int = 0o700) -> None:
        """Create a folder, and those above it, durably. Links are not taken for folders."""
        names = (*_components(self.within), *_components(path))
        for depth, name in enumerate(names):
            with Enclosure(self.root).opened("/".join(names[:depth])) as above:
                try:
                    os.mkdir(name, mode, dir_fd=above)
                except FileExistsError:
                    continue
                os.fsync(above)
        with self.opened(path):
            pass

    def write_file(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """Write a file in one step, as `durable.write_file` does. Whatever has the name is replaced, never written to."""
        above, name = _split(path)
        staged = f".{name}.{secrets.token_hex(8)}.tmp"
        with self.opened(above) as folder:
            try:
                descriptor = os.open(staged, _CREATE, mode, dir_fd=folder)
                try:
                    durable.write_and_sync(descriptor, content)
                finally:
                    os.close(descriptor)
                os.rename(staged, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(staged, dir_fd=folder)
                raise
            os.fsync(folder)

    def rename(self, path: str, name: str) -> None:
        """Give a file another *name* in its folder, durably. What has that name is replaced."""
        above, old = _split(path)
        with self.opened(above) as folder:
            os.rename(old, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)

    def unlink(self, path: str) -> None:
        """Remove a file or link durably. It may be missing."""
        above, name = _split(path)
        with contextlib.suppress(FileNotFoundError), self.opened(above) as folder:
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def publish(self, path: str, target: str) -> None:
        """Rename a synced folder to *target* durably, as `durable.publish` does."""
        (old_above, old), (new_above, new) = _split(path), _split(target)
        self.make_folder(new_above)
        with self.opened(old_above) as source, self.opened(new_above) as destination:
            durable.reach("publish")
            os.rename(old, new, src_dir_fd=source, dst_dir_fd=destination)
            durable.reach("published")
            os.fsync(destination)
            os.fsync(source)

    def remove_tree(self, path: str) -> None:
        """Remove an entry: a folder with its content, a link without what it names. It may be missing."""
        above, name = _split(path)
        with contextlib.suppress(FileNotFoundError), self.opened(above) as folder:
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                folders.remove(name, folder)
            else:
                os.unlink(name, dir_fd=folder)


def _components(path: str) -> list[str]:
    names = path.split("/") if path else []
    if any(name in ("", ".", "..") for name in names):
        raise ValueError(f"{path!r} is not a path within a folder")
    return names


def _split(path: str) -> tuple[str, str]:
    above, _, name = path.rpartition("/")
    if not name:
        raise ValueError(f"{path!r} is not a path within a folder")
    return above, name
