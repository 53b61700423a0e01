"""Whether a file is still the one that was seen before: it may be replaced while a backup runs."""

from pathlib import Path

from ..errors import SourceBusy

Version = tuple[int, int, int, int]
"""Device, inode, size and mtime of a file."""


def version_of(path: Path) -> Version | None:
    """What identifies a file, and its content as long as nobody writes to it; None if it is missing.

    Opens nothing: closing a descriptor would drop this process's locks.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def is_same_file(one: Version | None, other: Version | None) -> bool:
    """Whether two versions are of one file. An inode is not used again while a connection has it open."""
    return one is not None and other is not None and one[:2] == other[:2]


def replaced(path: Path) -> SourceBusy:
    """The error for a file that was replaced while it was captured: the copy could be neither its old state nor the new one."""
    return SourceBusy(
        f"{path} was replaced or overwritten while it was captured.",
        hint="Make the backup again. No backup was made; earlier ones are untouched.",
    )
