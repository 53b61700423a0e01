"""The id table of an HNSW index, ``index_metadata.pickle``: which id has which label. Nothing in it is ever executed.

The file is a pickled dictionary; two of its members, ``id_to_label`` and ``label_to_id``, are dictionaries too. Before 1.0
Chroma pickled an object of the class `_CLASS` with these attributes, and such a table stays until its index is next written.
The scanner knows the opcodes for dict, str, int, float, bool, None and that one class
(https://docs.python.org/3/library/pickletools.html) and refuses every other, so that an object that would run code when it is
loaded is only looked at.
"""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import BrokenIndex

PICKLE = "index_metadata.pickle"
Scalar = str | int | float | None
Item = tuple[str, Scalar, Scalar]
"""Member ("" for the root's own scalars), key, value."""

_PIECE = 1 << 20
_HEAD = 1 << 16
_MARGIN = 512
"""More bytes than any token takes but a text."""

_U32 = struct.Struct("<I")
_I32 = struct.Struct("<i")
_SKIPPED = {0x94: 0, 0x71: 1, 0x72: 4, 0x80: 1, 0x95: 8}
"""MEMOIZE, BINPUT, LONG_BINPUT, PROTO and FRAME, each with the length of its argument."""

_OF_OBJECT = (0x93, 0x29, 0x81, 0x62)
"""STACK_GLOBAL, EMPTY_TUPLE, NEWOBJ and BUILD: around the dictionary of an object's attributes."""

_CLASS = ["chromadb.segment.impl.vector.local_persistent_hnsw", "PersistentData"]


def labels(folder: Path, count: int | None = None) -> Iterator[tuple[str, int]]:
    """Each (id, label) of the index in *folder*, in the order of its table; memory does not grow with the table.

    Reads to the end, where the same pairs follow the other way round, for half a table is one being written. With *count*, the
    number of elements in the header, the table must count as many. Raises `BrokenIndex`.
    """
    added: Scalar = None
    for member, key, value in scan(folder / PICKLE):
        if member == "id_to_label":
            if not isinstance(key, str) or not isinstance(value, int):
                raise BrokenIndex("an id has a label that is not a number", PICKLE)
            yield key, value
        elif key == "total_elements_added" and not member:
            added = value
    if count is not None and added != count:
        raise BrokenIndex(f"the id table counts {added} elements and header.bin {count}", PICKLE)


def total_added(folder: Path) -> int:
    """``total_elements_added`` of the index in *folder*: near the head of its table. Raises `BrokenIndex`."""
    for member, key, value in scan(folder / PICKLE, _HEAD):
        if key == "total_elements_added" and not member:
            if not isinstance(value, int):
                break
            return value
    raise BrokenIndex("the id table does not say how many elements were added", PICKLE)


def scan(pickle: Path, piece: int = _PIECE) -> Iterator[Item]:
    """Every scalar of a pickled dictionary of scalars and of dictionaries of scalars, in the file's order.

    A text that the file refers back to is None, unless it is the name of a member: memory does not grow with the table.
    The file is read, *piece* bytes at a time, and not mapped: Chroma truncates it before it rewrites it, and a mapping would
    then end the process with SIGBUS. Raises `BrokenIndex`.
    """
    try:
        with pickle.open("rb") as file:
            yield from _scan(lambda more: file.read(max(piece, more)))
    except FileNotFoundError:
        raise BrokenIndex("there is no id table", PICKLE) from None
    except (IndexError, struct.error):
        raise BrokenIndex("the id table ends too early", PICKLE) from None
    except UnicodeDecodeError:
        raise BrokenIndex("the id table holds an id that is not UTF-8", PICKLE) from None


def _scan(read: Callable[[int], bytes]) -> Iterator[Item]:
    content = read(0)
    at = base = 0  # the place in *content*, and that of *content* in the file
    ended = False
    member = ""
    key: Scalar = None
    have_key = False
    depth = 0
    between = False  # after EMPTY_DICT or SETITEMS: a MARK says that more items of the same dictionary follow
    alone = ""  # the dictionary that seemed to have ended there, until a pair without a MARK shows whose it is
    held: tuple[Scalar, Scalar] | None = None  # that pair
    names: list[str] = []  # the texts before the root, which name the class of an object
    memo: dict[int, str] = {}
    memoized = 0
    last = ""
    while True:
        if len(content) - at < _MARGIN and not ended:
            piece = read(0)
            ended = not piece
            base += at
            content, at = content[at:] + piece, 0
        start, op = at, content[at]
        if depth == 2 and not have_key and not between:  # nearly all that a table holds: pairs of a text and a BININT
            if op == 0x58:
                end = at + 5 + _U32.unpack_from(content, at + 1)[0]
                if end + 5 <= len(content) and content[end] == 0x4A:
                    yield member, content[at + 5 : end].decode(), _I32.unpack_from(content, end + 1)[0]
                    at = end + 5
                    continue
            elif op == 0x4A and content[at + 5] == 0x58:
                end = at + 10 + _U32.unpack_from(content, at + 6)[0]
                if end <= len(content):
                    yield member, _I32.unpack_from(content, at + 1)[0], content[at + 10 : end].decode()
                    at = end
                    continue
        at += 1
        if held is not None and op not in _SKIPPED:
            pair, held = held, None
            if op == 0x73:  # SETITEM: it is the only pair of that dictionary, or the last
                member, depth, between, alone = alone, depth + 1, True, ""
                yield member, *pair
                continue
            alone = ""
            yield member, *pair
        if between and op not in _SKIPPED:
            between = False
            if op == 0x28:  # MARK
                continue
            alone, member, depth = member, "", depth - 1
        value: Scalar
        if op == 0x58:  # BINUNICODE
            length = _U32.unpack_from(content, at)[0]
            while len(content) - at < 4 + length:
                piece = read(length)
                if not piece:
                    raise BrokenIndex("the id table ends too early", PICKLE, base + start)
                content += piece
            value = content[at + 4 : at + 4 + length].decode()
            at += 4 + length
        elif op == 0x4A:  # BININT
            value = _I32.unpack_from(content, at)[0]
            at += 4
        elif op == 0x4B:  # BININT1
            value = content[at]
            at += 1
        elif op == 0x4D:  # BININT2
            value = content[at] | content[at + 1] << 8
            at += 2
        elif op == 0x8A:  # LONG1
            length = content[at]
            value = int.from_bytes(content[at + 1 : at + 1 + length], "little", signed=True)
            at += 1 + length
        elif op == 0x8C:  # SHORT_BINUNICODE
            length = content[at]
            value = content[at + 1 : at + 1 + length].decode()
            at += 1 + length
        elif op == 0x47:  # BINFLOAT
            value = struct.unpack_from(">d", content, at)[0]
            at += 8
        elif op == 0x4E:  # NONE
            value = None
        elif op in (0x88, 0x89):  # NEWTRUE, NEWFALSE
            value = op == 0x88
        elif op == 0x7D:  # EMPTY_DICT: the root, or the value of the key before it
            if depth == 2 or have_key != (depth == 1):
                raise BrokenIndex("the id table is nested too deep", PICKLE, base + start)
            member, have_key = str(key) if depth else "", False
            depth, between, alone = depth + 1, True, ""
            continue
        elif op == 0x75:  # SETITEMS ends some of a dictionary's items
            between, alone = True, ""
            continue
        elif op in _SKIPPED:
            if op == 0x94:
                if depth < 2 and last:
                    memo[memoized] = last
                memoized += 1
            at += _SKIPPED[op]
            continue
        elif op == 0x68:  # BINGET
            value = memo.get(content[at])
            at += 1
        elif op == 0x6A:  # LONG_BINGET
            value = memo.get(_U32.unpack_from(content, at)[0])
            at += 4
        elif op in _OF_OBJECT and not depth:
            if names != _CLASS:
                raise BrokenIndex(f"the id table is an object of {'.'.join(names) or 'no class'}", PICKLE, base + start)
            continue
        elif op == 0x2E:  # STOP
            if depth:
                raise BrokenIndex("the id table ends too early", PICKLE, base + start)
            if at < len(content) or read(0):
                raise BrokenIndex("the id table goes on after its end", PICKLE, base + at)
            return
        else:
            raise BrokenIndex(f"the id table holds the opcode {op:#04x}, which Chroma does not write", PICKLE, base + start)
        last = value if isinstance(value, str) else ""
        if not depth:
            if not isinstance(value, str) or len(names) == len(_CLASS):
                raise BrokenIndex("the id table is not a dictionary", PICKLE, base + start)
            names.append(value)
            continue
        if have_key:
            have_key = False
            if alone:
                held = key, value
            else:
                yield member, key, value
        else:
            key, have_key = value, True
