"""What a backup of a folder does not hold, and why: ``left_out`` and ``exclude`` of a source in the manifest.

Child processes import this without `types`, for a quick start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from enum import StrEnum
from fnmatch import translate
from typing import Any, Final, Protocol

from .names import printable

MOST_LEFT_OUT: Final = 1000
"""The most entries of ``left_out`` of a source; more are counted by folder."""

MOST_PATTERNS: Final = 100
LONGEST_PATTERN: Final = 1024


class Absence(StrEnum):
    """Why a backup does not hold something. A reason that this version does not know counts as ``unreadable``."""

    UNREADABLE = "unreadable"
    CHANGED = "changed"
    TOO_LONG = "too_long"
    OUTWARD_LINK = "outward_link"
    SPECIAL = "special"
    OTHER_SOURCE = "other_source"

    @classmethod
    def _missing_(cls, value: object) -> Absence:
        return cls.UNREADABLE

    @property
    def is_loss(self) -> bool:
        """Whether the backup is incomplete: this belongs into it."""
        return self in (Absence.UNREADABLE, Absence.CHANGED, Absence.TOO_LONG)

    @property
    def words(self) -> str:
        return _WORDS[self]


_WORDS = {
    Absence.UNREADABLE: "it cannot be read",
    Absence.CHANGED: "it became something else while the backup ran",
    Absence.TOO_LONG: "its path is too long to be restored",
    Absence.OUTWARD_LINK: "it is a link that points out of the folder",
    Absence.SPECIAL: "it is not a file, folder or link",
    Absence.OTHER_SOURCE: "it belongs to the repository or to another source",
}


def bounded(found: Iterable[tuple[str, Absence, str]], most: int = MOST_LEFT_OUT) -> list[dict[str, Any]]:
    """At most *most* entries, as the fields of `types.LeftOut`, for what was *found*.

    That is the path as the operating system gives it, the reason, and the operating system's message.

    If there are more, the deepest are counted by the folders that they are in; such an entry has the reason of its first loss,
    or else its first reason.
    """
    counted = {path: (reason, detail, 0) for path, reason, detail in found}
    while len(counted) > most and (deepest := max(map(_depth, counted))):
        above: dict[str, tuple[Absence, str, int]] = {}
        for path, (reason, detail, count) in counted.items():
            place = path.rpartition("/")[0] if _depth(path) == deepest else path
            before = above.get(place)
            if place != path or before is not None:
                count = max(count, 1) + (max(before[2], 1) if before is not None else 0)
            if before is not None and (before[0].is_loss or not reason.is_loss):
                reason, detail = before[:2]
            above[place] = (reason, detail, count)
        counted = above
    return [_entry(path, *rest) for path, rest in counted.items()]


def _depth(path: str) -> int:
    return path.count("/") + 1 if path else 0


def _entry(path: str, reason: Absence, detail: str, count: int) -> dict[str, Any]:
    shown = printable(path)
    raw = "" if shown == path else os.fsencode(path).hex()
    return {"path": shown, "raw": raw, "reason": reason.value, "detail": printable(detail), "count": count}


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> Absence: ...
    @property
    def count(self) -> int: ...


class Outside:
    """Tells what a restore in place does not take for new since the backup, although the backup does not hold it.

    That is what matches a pattern of *exclude*, and what *left_out* names as lost or as part of another source. Entries that
    are only counted name nothing, and instead of a link or a pipe of that time there may be anything now.
    """

    def __init__(self, left_out: Iterable[_Named], exclude: Iterable[str]) -> None:
        self._names = frozenset(
            item.name for item in left_out if not item.count and (item.reason.is_loss or item.reason is Absence.OTHER_SOURCE)
        )
        self._excluded = Patterns(exclude)

    def __call__(self, path: str, *, is_folder: bool) -> bool:
        """Whether *path*, relative to the folder, or a folder above it, is outside. What the backup holds is never outside: ask
        only about the rest."""
        parts = path.split("/")
        for length in range(1, len(parts) + 1):
            above = "/".join(parts[:length])
            if above in self._names or self._excluded(above, is_folder=is_folder or length < len(parts)):
                return True
        return False


class Patterns:
    """Patterns of paths to leave out, like those of ``.gitignore`` without negation.

    ``*``, ``?`` and ``[...]`` match within a name; ``**`` matches any number of folders. A pattern with a slash before its end
    starts at the folder; another one matches at any depth. With a slash at its end it matches folders only.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_parse(pattern) for pattern in patterns]

    def __call__(self, path: str, *, is_folder: bool) -> bool:
        """Whether a pattern matches *path* itself; the caller leaves out the content of a folder that matches."""
        if not self._patterns:
            return False
        parts = path.split("/")
        return any(_matches(parts, steps) for steps, only_folders in self._patterns if is_folder or not only_folders)


_Steps = list[re.Pattern[str] | None]
"""What the names of a path match, one after the other; None is any number of them."""


def _parse(pattern: str) -> tuple[_Steps, bool]:
    body = pattern.strip("/")
    names = body.split("/")
    if "/" not in pattern.rstrip("/"):
        names.insert(0, "**")
    if names[-1] == "**":
        names.insert(-1, "*")  # what is in the folder, not the folder itself
    return [None if name == "**" else re.compile(translate(name)) for name in names], pattern.endswith("/")


def _matches(parts: list[str], steps: _Steps) -> bool:
    """Whether *parts* match *steps*, in time proportional to the product of their numbers."""
    at = _with_skipped({0}, steps)
    for part in parts:
        following = set()
        for step in at - {len(steps)}:
            wanted = steps[step]
            if wanted is None:
                following.add(step)
            elif wanted.match(part):
                following.add(step + 1)
        at = _with_skipped(following, steps)
    return len(steps) in at


def _with_skipped(at: set[int], steps: _Steps) -> set[int]:
    """The positions *at*, and those after steps that may match nothing."""
    for step in sorted(at):
        while step < len(steps) and steps[step] is None:
            step += 1
            at.add(step)
    return at


def wrong_pattern(pattern: str) -> str | None:
    """What is wrong with a pattern for `Patterns`, or None."""
    if len(pattern) > LONGEST_PATTERN or printable(pattern) != pattern or "\0" in pattern:
        return f"a pattern is text of at most {LONGEST_PATTERN} characters"
    if pattern.startswith("!"):
        return "patterns cannot be negated"
    if not pattern.strip("/") or any(part in ("", ".", "..") for part in pattern.strip("/").split("/")):
        return "a pattern names a path inside the folder"
    return None
