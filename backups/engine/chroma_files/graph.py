"""The graph of an HNSW index: the links between its elements.

A search survives most damage to it and only finds less, so no other check shows it. What is checked is what hnswlib always
observes when it writes (``hnswalg.h``: ``addPoint``, ``mutuallyConnectNewElement``, ``updatePoint``, ``checkIntegrity``), and
what was seen in indexes of chromadb 0.5 to 1.5:

- in ``header.bin``, offsets and sizes that follow from the number of links and the dimension, an entry point that exists;
- in ``data_level0.bin``, at most ``max_m0`` links of an element, each to another element that exists; no label twice;
- in ``link_lists.bin``, for each element the length in bytes of its links above level 0 (u32), then for each of its levels at
  most ``max_m`` links to other elements that reach this level. The entry point is on the highest level. Nothing follows;
- links are made in both directions, so an element without links is one that none leads to. A new element gets none when a
  search for its neighbours meets only deleted ones: not as the second of its level, and not where nothing is deleted.

Sound indexes have elements that no link leads to, since an element that has too many links drops some, and now and then the
same link twice: threads that update and add do not wait for each other. A link that was changed into another valid one cannot
be told from a right one.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import BrokenIndex
from .hnsw import Header, check_structure, read_header
from .index import Index, highest_label

_HEADER, _DATA, _LINKS = "header.bin", "data_level0.bin", "link_lists.bin"
_BLOCKS = 1 << 16
_NONE = np.uint32(0xFFFFFFFF)
_HIGHEST_LEVEL = 64
"""hnswlib draws levels from the logarithm of a random double, which is far less."""

Words = npt.NDArray[np.uint32]
Mask = npt.NDArray[np.bool_]
ABSENT, LIVE, DELETED = range(3)
"""The states of a label: no element has it, one that has it, or one that is marked as deleted."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A sound graph: its number of elements, the state of each label, and to how many that are not deleted no link leads."""

    count: int = 0
    labels: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    unreached: int = 0


def check_graph(folder: Path, check: Callable[[], None] = lambda: None, *, cosine: bool = False) -> Graph:
    """Check the index in *folder*, which is empty before its first sync.

    *cosine*: also that its vectors have the length 1. Reads ``data_level0.bin`` in pieces and ``link_lists.bin`` whole: some
    thirty bytes of memory an element. *check* is called between pieces, and may raise. Raises `BrokenIndex`, also for files
    that are being written.
    """
    count = check_structure(folder)
    header = read_header(folder)
    if not count or header is None:
        return Graph()
    _check_header(header)
    links = _Links(header)
    with closing(Index(folder, cosine=cosine)) as index:
        labels = _check_level_0(index, header, links, check)
    check()
    _check_levels_above(folder, header, links)
    return Graph(count, labels, int((links.live & ~links.reached).sum()))


class _Links:
    """What the links of all elements come to: which elements are deleted, and to which a link leads, on any level."""

    def __init__(self, header: Header) -> None:
        self._count = header.count
        self.live = np.ones(header.count, np.bool_)
        self.reached = np.zeros(header.count, np.bool_)
        self.reached[header.enter_point] = True

    def check_empty(self, empty: npt.NDArray[np.int64], reached: Mask, on_level: int, file: str) -> None:
        """Check the *empty* elements of a level, which have no links there, of *on_level*; links there lead to *reached*."""
        self.reached |= reached
        if on_level < 2 or not len(empty):
            return
        linked = empty[reached[empty]]
        wrong = (
            "no element has links"
            if len(empty) == on_level
            else f"element {linked[0]} has no links, although others are linked with it"
            if len(linked)
            else f"element {empty[0]} has no links, although no element is deleted"
            if self.live.all()
            else ""
        )
        if wrong:
            raise BrokenIndex(wrong, file)


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


def _check_level_0(index: Index, header: Header, links: _Links, check: Callable[[], None]) -> npt.NDArray[np.uint8]:
    """The state of each label."""
    states = np.full(highest_label(header.count) + 1, ABSENT, np.uint8)
    reached = np.zeros(header.count, np.bool_)
    empty = []
    for first, elements in index.chunks():
        check()
        words = np.ascontiguousarray(elements[:, : header.vector_offset]).view("<u4")
        numbers = np.arange(first, first + len(elements), dtype=np.uint32)
        row = _wrong_row(words, numbers, header.max_m0, header.count)
        if row is not None:
            offset = (first + row) * header.size_per_element
            raise BrokenIndex(f"element {first + row} has links that cannot be", _DATA, offset)
        if len(rows := index.wrong_lengths(first, elements)):
            raise BrokenIndex(f"the vector of element {first + rows[0]} does not have the length 1, or its own is lost", _DATA)
        labels = index.labels_in(elements)
        if len(labels) and int(labels.max()) >= len(states):
            raise BrokenIndex(f"the label {int(labels.max())} is out of bounds", _DATA)
        places = labels.astype(np.int64)
        if states[places].any() or len(np.unique(places)) != len(places):
            raise BrokenIndex("two elements have the same label", _DATA)
        marked = (words[:, 0] >> 16).astype(np.bool_)
        states[places] = np.where(marked, DELETED, LIVE)
        links.live[first : first + len(elements)] = ~marked
        reached[words[:, 1:][_used(words)]] = True
        empty.append(first + np.flatnonzero((words[:, 0] & 0xFFFF) == 0))
    links.check_empty(np.concatenate(empty), reached, header.count, _DATA)
    return states


def _used(rows: Words) -> Mask:
    """Which of the words after the first of each of *rows* are links."""
    used: Mask = np.arange(rows.shape[1] - 1) < (rows[:, 0] & 0xFFFF)[:, None]
    return used


def _wrong_row(words: Words, owners: Words, most: int, count: int) -> int | None:
    """The first row that cannot be a list of links: their number (u16), a mark of deletion (u8), then the elements.

    *owners* are the elements that the rows belong to.
    """
    number, mark = words[:, 0] & 0xFFFF, words[:, 0] >> 16
    links, used = words[:, 1:], _used(words)
    wrong = (number > most) | (mark > 1) | (((links >= count) | (links == owners[:, None])) & used).any(axis=1)
    in_order = np.sort(np.where(used, links, _NONE), axis=1)
    wrong |= ((in_order[:, 2:] == in_order[:, :-2]) & (in_order[:, 2:] != _NONE)).any(axis=1)  # thrice the same
    rows = np.flatnonzero(wrong)
    return int(rows[0]) if len(rows) else None


def _check_levels_above(folder: Path, header: Header, links: _Links) -> None:
    words, size = _read_words(folder / _LINKS)
    width = header.max_m + 1  # words of a level: the number of links, and room for them
    levels = np.zeros(header.count, np.uint8)
    owners, starts, heights = [], [], []
    filled = np.flatnonzero(words)  # most elements are on level 0 alone, and their length is 0
    at = element = following = 0
    while True:
        following = int(np.searchsorted(filled[following:], at)) + following
        place = int(filled[following]) if following < len(filled) else len(words)
        if element + place - at >= header.count:
            at += header.count - element
            break
        element += place - at
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
    if size > 4 * at:
        raise BrokenIndex("it goes on after the links of its last element", _LINKS, 4 * at)
    if levels[header.enter_point] != header.max_level:
        raise BrokenIndex("the entry point is not on the highest level", _HEADER)
    of, begin, level_of = np.array(owners, np.int64), np.array(starts, np.int64), np.array(heights, np.uint8)
    for level in range(1, header.max_level + 1):
        rows = np.flatnonzero(level_of == level)
        _check_level(words, header, levels, level, of[rows], begin[rows], links)


def _check_level(
    words: Words,
    header: Header,
    levels: npt.NDArray[np.uint8],
    level: int,
    owners: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    links: _Links,
) -> None:
    """Check the lists of the elements of a level above 0, which begin at *starts*."""
    reached = np.zeros(header.count, np.bool_)
    empty = [np.zeros(0, np.int64)]
    for first in range(0, len(starts), _BLOCKS):
        part, at = owners[first : first + _BLOCKS], starts[first : first + _BLOCKS]
        rows = words[at[:, None] + np.arange(header.max_m + 1)]
        row = _wrong_row(rows, part.astype(np.uint32), header.max_m, header.count)
        used = _used(rows)
        if row is None:
            low = np.flatnonzero(((levels[np.where(used, rows[:, 1:], 0)] < level) & used).any(axis=1))
            row = int(low[0]) if len(low) else None
        if row is not None:
            raise BrokenIndex(f"element {part[row]} has links that cannot be", _LINKS, 4 * int(at[row]))
        reached[rows[:, 1:][used]] = True
        empty.append(part[(rows[:, 0] & 0xFFFF) == 0])
    links.check_empty(np.concatenate(empty), reached, len(owners), _LINKS)


def _read_words(path: Path) -> tuple[Words, int]:
    """The file as words, and its size in bytes."""
    try:
        size = path.stat().st_size
        return np.fromfile(path, "<u4", count=size // 4), size
    except FileNotFoundError:
        raise BrokenIndex(f"{path.name} is missing", path.name) from None
