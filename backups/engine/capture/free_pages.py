"""Blanks the free pages of a copied SQLite database.

Chroma purges its log whenever it writes the index, and leaves a thousand vectors at a time in free pages of
``chroma.sqlite3``: dead bytes that would be compressed, stored and compared. SQLite never reads the leaf pages of its free list
(https://www.sqlite.org/fileformat2.html, section 1.5), so a copy may hold zeros there. They cost nothing, and deleted data is
not kept in backups.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

_MAGIC = b"SQLite format 3\0"
_U32 = struct.Struct(">I")


def blank_free_pages(path: Path) -> int:
    """Overwrite the leaves of the free list of the database *path* with zeros; return the number of pages blanked.

    No process may have the file open for writing. The walk ends where the free list violates the format: all pages blanked
    before were listed as free, and `integrity_check` reports the damage.
    """
    blanked = 0
    with path.open("r+b", buffering=0) as file:
        header = file.read(100)
        if len(header) < 100 or not header.startswith(_MAGIC):
            return 0
        size = int.from_bytes(header[16:18], "big")
        page_size = 65536 if size == 1 else size
        pages = os.fstat(file.fileno()).st_size // page_size if page_size >= 512 else 0
        zeros = bytes(page_size)
        for page in _free_leaves(file.fileno(), header, page_size, pages):
            offset = (page - 1) * page_size
            if os.pread(file.fileno(), page_size, offset) != zeros:
                os.pwrite(file.fileno(), zeros, offset)
                blanked += 1
    return blanked


def _free_leaves(descriptor: int, header: bytes, page_size: int, pages: int) -> Iterator[int]:
    """The numbers of the leaf pages of the free list: each trunk page lists some and names the next trunk."""
    (trunk,), (left,) = _U32.unpack_from(header, 32), _U32.unpack_from(header, 36)
    seen: set[int] = set()
    while 1 < trunk <= pages and trunk not in seen and left > 0:
        seen.add(trunk)
        content = os.pread(descriptor, page_size, (trunk - 1) * page_size)
        following, count = _U32.unpack_from(content, 0)[0], _U32.unpack_from(content, 4)[0]
        leaves = [_U32.unpack_from(content, 8 + 4 * index)[0] for index in range(min(count, page_size // 4 - 2))]
        if count > page_size // 4 - 2 or count + 1 > left or any(not 1 < leaf <= pages for leaf in leaves):
            return
        yield from leaves
        left -= count + 1
        trunk = following
