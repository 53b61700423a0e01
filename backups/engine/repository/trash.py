"""What was deleted: kept for a grace period, and remembered for longer."""

from datetime import datetime, timedelta

from ..errors import NO_SPACE
from ..runtime.enclosure import Enclosure, NotAllowed
from .base import stamp

EMPTIED = ".emptied"
"""File in the trash with the names of what left it, the newest last."""

_MOST_EMPTIED = 10_000


def names(content: Enclosure, now: datetime, grace: timedelta) -> list[str]:
    """The names of what was removed at least *grace* ago; everything in the trash for none."""
    oldest = stamp(now - grace)
    found = [name for name in content.names("trash") if not name.startswith(".")]
    return [name for name in found if not grace or name.split(".", 1)[0] <= oldest]


def empty(content: Enclosure, now: datetime, grace: timedelta) -> list[str]:
    """Free what `names` names, and return its names."""
    emptied = names(content, now, grace)
    for name in emptied:
        content.remove_tree(f"trash/{name}")
    if emptied:
        _note_emptied(content, emptied)
    return emptied


def _note_emptied(content: Enclosure, emptied: list[str]) -> None:
    """Remember what left the trash, so that it is not taken for lost. Without space for that, it is."""
    try:
        kept = [*_emptied(content), *emptied][-_MOST_EMPTIED:]
        content.write_file(f"trash/{EMPTIED}", "".join(f"{name}\n" for name in kept).encode())
    except OSError as problem:
        if problem.errno not in NO_SPACE:
            raise


def _emptied(content: Enclosure) -> list[str]:
    try:
        return content.read(f"trash/{EMPTIED}", _MOST_EMPTIED * 256).decode(errors="replace").splitlines()
    except (FileNotFoundError, NotAllowed):
        return []


def deleted(content: Enclosure) -> set[tuple[str, str]]:
    """Set and id of what the trash says was deleted: all in it, and the last that left it."""
    found = [*content.names("trash"), *_emptied(content)]
    parts = (name.partition(".")[2].rpartition(".") for name in found)
    return {(set_name, backup_id) for set_name, _, backup_id in parts}
