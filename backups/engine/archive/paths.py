"""Checks the names inside an archive, which may come from a hostile repository, before anything is written to them."""

import re
from typing import Final

from ..errors import DamageFound
from ..names import NAME

LONGEST_PATH: Final = 4095
"""The most bytes of a path that a backup can hold: a restore gives it to system calls (path_resolution(7))."""

_KINDS = ("sqlite", "chroma", "files")
_DATABASE = re.compile(r"(.+)\.sqlite3(-wal|-journal)?")
"""A database, or one of the logs that belong to the raw bytes of a broken one."""


def check_path(path: str) -> None:
    """Raise `DamageFound` unless *path* stays inside the folder that it is restored into.

    Allowed: ``KIND/NAME[/...]`` with forward slashes, no empty, ``.`` or ``..`` part, no NUL, at most `LONGEST_PATH` bytes.
    """
    parts = path.split("/")
    database = _DATABASE.fullmatch(parts[-1]) if parts[0] == "sqlite" else None
    if (
        len(path.encode("utf-8", "surrogateescape")) > LONGEST_PATH
        or "\0" in path
        or len(parts) < 2
        or parts[0] not in _KINDS
        or not NAME.fullmatch(database[1] if database else parts[1])
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise DamageFound(f"The archive names {path!r}, which is not a place inside a backup. Nothing was written there.")


def link_stays_inside(path: str, target: str) -> bool:
    """Whether the symbolic link *path* with *target* points to a place inside its own source (``KIND/NAME``).

    ``..`` is allowed at the beginning only: after a name, which may be that of another link, it could point anywhere.
    """
    depth = len(path.split("/")) - 3
    if depth < 0 or not target or target.startswith("/") or "\0" in target:
        return False
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return up <= depth and ".." not in parts[up:]
