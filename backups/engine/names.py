"""What names look like; kept apart from `types`, which child processes do without for a quick start."""

from __future__ import annotations

import re
from typing import Final

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of sets and sources: they become folder names."""

BACKUP_ID: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)-(full|incremental|snapshot)-([0-9a-f]{6})")
"""Ids sort by time and name their kind: ``20261121T030000Z-full-3f9c2a``."""


def printable(text: str) -> str:
    """*text* as JSON and a terminal can hold it: bytes that are no UTF-8, which a file's name may contain, as ``\\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
