"""The forms of names and ids. Child processes import this without `types`, for a quick start."""

import re
from typing import Final

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A name of a set or source, which becomes a folder name."""

BACKUP_ID: Final = re.compile(r"([0-9]{8}T[0-9]{6}Z)-(full|incremental|snapshot)-([0-9a-f]{6})")
"""An id, such as ``20261121T030000Z-full-3f9c2a``: ids sort by time."""

MANIFEST: Final = "manifest.json"
DATA: Final = "data.tar.zst"
SEALED_DATA: Final = "data.tar.zst.enc"
"""An archive that is encrypted."""
ARCHIVES: Final = (DATA, SEALED_DATA)
SUMS: Final = "SHA256SUMS"


_BREAKS: Final = re.compile(r"[\x01-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that start a new line, move a terminal's cursor, or change the direction of text."""


ONE_LINE: Final = r"^[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]*$"
"""What people write in one line, such as notes, as a pattern for Python, JSON Schema and pydantic."""


def in_one_line(text: str) -> str:
    """*text* with control and bidirectional characters escaped, so that it forges no line of a list or a log."""
    return _BREAKS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def printable(text: str) -> str:
    """*text* with bytes that are not UTF-8, as file names may contain, replaced by ``\\xff`` and the like."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
