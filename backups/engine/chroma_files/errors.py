"""What is wrong with the files of a Chroma directory."""

from ..errors import SourceBroken


class NotChroma(SourceBroken):
    """``chroma.sqlite3`` is not a database, or has none of Chroma's tables."""


class BrokenIndex(Exception):
    """The files of a segment contradict each other: they are damaged, or being written.

    ``file`` is a name in the segment's folder, ``offset`` the byte at which the contradiction shows, None where there is none.
    """

    def __init__(self, message: str, file: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.file = file
        self.offset = offset


class UnsupportedIndex(BrokenIndex):
    """The index names a format version that this reader does not know. It may be whole."""
