"""The graph of an HNSW index: the links between its elements.

A search survives most damage to it and only finds less, so no other check shows it. What is checked is what hnswlib always
observes when it writes (``hnswalg.h``: ``addPoint``, ``mutuallyConnectNewElement``, ``checkIntegrity``):

- in ``header.bin``, offsets and sizes that follow from the number of links and the dimension, an entry point that exists;
- in ``data_level0.bin``, at most ``max_m0`` links of an element, each to another element that exists; no label twice;
- in ``link_lists.bin``, for each element the length in bytes of its links above level 0 (u32), then for each of its levels at
  most ``max_m`` links to other elements that reach this level. The entry point is on the highest level.

A link that was changed into another valid one cannot be told from a right one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import BrokenIndex
from .hnsw import Header, check_structure, read_header
from .id_table import PICKLE
from .index import Index, highest_label

_HEADER, _DATA, _LINKS = "header.bin", "data_level0.bin", "link_lists.bin"
_BLOCKS = 1 << 16
_HIGHEST_LEVEL = 64
"""hnswlib draws levels from the logarithm of a random double, which is far less."""

Words = npt.NDArray[np.uint32]


def check_graph(folder: Path, check: Callable[[], None] = lambda: None, *, ids: bool = False) -> int:
    """Check the index in *folder* and return the number of its elements; 0 before its first sync.

    With *ids*, also that each id of its table has an element of its own, which `Index.stream` checks as well. Reads
    ``data_level0.bin`` in pieces and ``link_lists.bin`` whole: some twenty bytes of memory an element. *check* is called
    between pieces, and may raise. Raises `BrokenIndex`, also for files that are being written.
    """
    count = check_structure(folder)
    header = read_header(folder)
    if not count or header is None:
        return 0
    _check_header(header)
    with closing(Index(folder, cosine=False)) as index:
        unnamed = _check_level_0(index, header, check)
        for identifier, label in index.labels() if ids else ():
            if not 0 <= label < len(unnamed) or not unnamed[label]:
                raise BrokenIndex(f"the label of {identifier!r} names no element, or one of another id", PICKLE)
            unnamed[label] = False
    check()
    _check_levels_above(folder, header)
    return count


def _check_header(header: Header) -> None:
    links = 4 * header.max_m0 + 4
    wrong = (
        "more elements than it has room for"
        if header.count > header.max_elements
        else "an entry point that does not exist"
        if header.enter_point >= header.count
        else "offsets that contradict its number of links"
        if (header.offset_level0, header.vector_offset, header.max_m0) != (0, links, 2 * header.max_m)
        else "a highest level that cannot be"
        if not 0 <= header.max_level <= _HIGHEST_LEVEL
        else ""
    )
    if wrong:
        raise BrokenIndex(f"the header has {wrong}", _HEADER)


def _check_level_0(index: Index, header: Header, check: Callable[[], None]) -> npt.NDArray[np.bool_]:
    """Which labels there are."""
    seen = np.zeros(highest_label(header.count) + 1, np.bool_)
    for first, elements in index.chunks():
        check()
        words = np.ascontiguousarray(elements[:, : header.vector_offset]).view("<u4")
        numbers = np.arange(first, first + len(elements), dtype=np.uint32)
        row = _wrong_row(words, numbers, header.max_m0, header.count)
        if row is not None:
            offset = (first + row) * header.size_per_element
            raise BrokenIndex(f"element {first + row} has links that cannot be", _DATA, offset)
        labels = index.labels_in(elements)
        if len(labels) and int(labels.max()) >= len(seen):
            raise BrokenIndex(f"the label {int(labels.max())} is out of bounds", _DATA)
        places = labels.astype(np.int64)
        if seen[places].any() or len(np.unique(places)) != len(places):
            raise BrokenIndex("two elements have the same label", _DATA)
        seen[places] = True
    return seen


def _wrong_row(words: Words, owners: Words, most: int, count: int) -> int | None:
    """The first row that cannot be a list of links: their number (u16), a mark of deletion (u8), then the elements.

    *owners* are the elements that the rows belong to.
    """
    number, mark = words[:, 0] & 0xFFFF, words[:, 0] >> 16
    links = words[:, 1:]
    used = np.arange(links.shape[1]) < number[:, None]
    wrong = (number > most) | (mark > 1) | (((links >= count) | (links == owners[:, None])) & used).any(axis=1)
    rows = np.flatnonzero(wrong)
    return int(rows[0]) if len(rows) else None


def _check_levels_above(folder: Path, header: Header) -> None:
    words = _read_words(folder / _LINKS)
    width = header.max_m + 1  # words of a level: the number of links, and room for them
    levels = np.zeros(header.count, np.uint8)
    owners, starts, heights = [], [], []
    filled = np.flatnonzero(words)  # most elements are on level 0 alone, and their length is 0
    at = element = following = 0
    while True:
        following = int(np.searchsorted(filled[following:], at)) + following
        place = int(filled[following]) if following < len(filled) else len(words)
        element += place - at
        if element >= header.count:
            break
        if place >= len(words):
            raise BrokenIndex(f"it ends after {element} of {header.count} elements", _LINKS, 4 * len(words))
        height, rest = divmod(int(words[place]), 4 * width)
        if rest or height > header.max_level:
            raise BrokenIndex(f"element {element} has {words[place]} bytes of links", _LINKS, 4 * place)
        if place + 1 + height * width > len(words):
            raise BrokenIndex(f"it ends within the links of element {element}", _LINKS, 4 * len(words))
        levels[element] = height
        for level in range(1, height + 1):
            owners.append(element)
            heights.append(level)
            starts.append(place + 1 + (level - 1) * width)
        at, element = place + 1 + height * width, element + 1
    if levels[header.enter_point] != header.max_level:
        raise BrokenIndex("the entry point is not on the highest level", _HEADER)
    for first in range(0, len(starts), _BLOCKS):
        part = slice(first, first + _BLOCKS)
        _check_blocks(words, header, levels, np.array(owners[part]), np.array(starts[part]), np.array(heights[part]))


def _check_blocks(
    words: Words,
    header: Header,
    levels: npt.NDArray[np.uint8],
    owners: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    heights: npt.NDArray[np.int64],
) -> None:
    rows = words[starts[:, None] + np.arange(header.max_m + 1)]
    row = _wrong_row(rows, owners.astype(np.uint32), header.max_m, header.count)
    if row is None:
        used = np.arange(header.max_m) < (rows[:, 0] & 0xFFFF)[:, None]
        reached = levels[np.where(used, rows[:, 1:], 0)]
        low = np.flatnonzero(((reached < heights[:, None]) & used).any(axis=1))
        row = int(low[0]) if len(low) else None
    if row is not None:
        raise BrokenIndex(f"element {owners[row]} has links that cannot be", _LINKS, 4 * int(starts[row]))


def _read_words(path: Path) -> Words:
    try:
        size = path.stat().st_size
        return np.fromfile(path, "<u4", count=size // 4)
    except FileNotFoundError:
        raise BrokenIndex(f"{path.name} is missing", path.name) from None
