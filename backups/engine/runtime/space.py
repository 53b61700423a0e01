"""Free space, checked before anything large is written."""

import shutil
from pathlib import Path

from ..errors import NoSpace

LEAST_SPACE = 64 << 10
"""With fewer bytes free, a disk counts as full: SQLite cannot even make the index of a log there."""

_RESERVE = 16 << 20


def is_full(folder: Path) -> bool:
    """Whether the file system of an existing *folder* is full. Raises ``OSError``."""
    return shutil.disk_usage(folder).free < LEAST_SPACE


def need_space(folder: Path, size: int, purpose: str) -> None:
    """Raise `NoSpace` unless the file system of *folder*, or of its nearest existing parent, has *size* bytes free."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < size + _RESERVE:
        raise NoSpace(
            f"{place} has {free >> 20} MiB free; {(size + _RESERVE) >> 20} MiB are needed to {purpose}.",
            hint="Free space or choose another place. Nothing was written.",
        )
