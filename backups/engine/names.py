"""The forms of names and ids. Child processes import this without `types`, for a quick start."""

import re
from typing import Final

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A name of a set or source, which becomes a folder name."""

BACKUP_ID: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)-(full|incremental|snapshot)-([0-9a-f]{6})")
"""An id, such as ``20261121T030000Z-full-3f9c2a``: ids sort by time."""

MANIFEST: Final = "manifest.json"
DATA: Final = "data.tar.zst"
SUMS: Final = "SHA256SUMS"


def printable(text: str) -> str:
    """*text* with bytes that are not UTF-8, as file names may contain, replaced by ``\\xff`` and the like."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
