"""Names inside an archive, which may come from a hostile repository: checked before anything is written by them."""

from __future__ import annotations

from ..errors import DamageFound
from ..names import NAME

_KINDS = ("sqlite", "chroma", "files")


def check_path(path: str) -> None:
    """Raise `DamageFound` unless *path* stays inside the folder that it is restored into.

    Allowed: ``KIND/NAME[/...]`` with forward slashes, no empty, ``.`` or ``..`` part, no NUL, at most 4,096 bytes.
    """
    parts = path.split("/")
    if (
        len(path.encode("utf-8", "surrogateescape")) > 4096
        or "\0" in path
        or len(parts) < 2
        or parts[0] not in _KINDS
        or not NAME.fullmatch(parts[1].removesuffix(".sqlite3") if parts[0] == "sqlite" else parts[1])
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise DamageFound(f"The archive names {path!r}, which is no place inside a backup. Nothing was written there.")


def link_stays_inside(path: str, target: str) -> bool:
    """Whether the symbolic link *path* with *target* points to a place inside its own source (``KIND/NAME``)."""
    if target.startswith("/") or "\0" in target or not target:
        return False
    depth = len(path.split("/")) - 3
    for part in target.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0:
            return False
    return True
