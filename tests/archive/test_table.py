"""Tables: any tree comes back from a chain of them, and no bytes at all make one do harm."""

from __future__ import annotations

import struct
import time
import tracemalloc
from array import array
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backups.engine.archive import table as archive_table
from backups.engine.archive.blocks import BLOCK, MAX_DEPTH
from backups.engine.archive.locate import Stored
from backups.engine.archive.paths import check_path, link_stays_inside
from backups.engine.archive.reader import Archives, _check_links
from backups.engine.archive.table import (
    Entry,
    EntryType,
    Frame,
    FrameRef,
    Identity,
    Table,
    TableWriter,
    Tree,
    compress_table,
    decompress_table,
    unpack,
)
from backups.engine.errors import DamageFound, EngineError
from backups.engine.runtime.enclosure import Enclosure
from tests.restore.stores import History

FULL = "20260101T000000Z-full-000000"


def an_id(number: int) -> str:
    return f"20260101T00{number:04}Z-incremental-{number:06x}"


# Round trips


NAMES = st.sampled_from(["a", "b", "c d", "ü", "\udcff", "x" * 60])
ENTRIES = st.dictionaries(
    NAMES,
    st.tuples(
        st.sampled_from([EntryType.FILE, EntryType.FOLDER, EntryType.LINK]),
        st.integers(0, 0o7777),
        st.integers(-(1 << 62), 1 << 62),
        st.lists(st.integers(0, 3), max_size=9),  # for each block: keep it, or store it again
        st.integers(1, BLOCK),
        st.booleans(),
    ),
    max_size=5,
)


def build(parent: Tree | None, wanted: dict[str, Any], owner: str, *, whole: bool) -> tuple[Tree, bytes]:
    """The next tree as the packer makes it, and its packed table."""
    writer = TableWriter(owner)
    tree = Tree() if parent is None else parent.copy()
    tree.entries = {}
    tree.entries["files/any"] = Entry(path="files/any", kind=EntryType.FOLDER, mode=0o755, mtime_ns=1)
    own = tree.ordinal(owner)
    for name, (kind, mode, mtime, choices, last, trusted) in wanted.items():
        path = f"files/any/{name}"
        entry = Entry(path=path, kind=kind, mode=mode, mtime_ns=mtime, target="a/b" if kind is EntryType.LINK else "")
        if kind is EntryType.FILE:
            before = parent.entries.get(path) if parent is not None else None
            for place, choice in enumerate(choices):
                if choice and before is not None and place < len(before.blocks):
                    entry.blocks.append(before.blocks[place])
                else:
                    base = FrameRef(FULL, 7) if choice == 3 else None
                    frame = Frame(bytes([place]) * 32, 1000 * writer.count, 100, BLOCK, base, 1 if base else 0)
                    entry.blocks.append(own << 32 | writer.add_frame(frame))
            entry.size = max(0, (len(choices) - 1) * BLOCK + last) if choices else 0
            entry.identity = Identity(inode=mode, ctime_ns=mtime, trusted=trusted)
        tree.entries[path] = entry
    return tree, writer.pack(tree, None if whole else parent)


def meaning(tree: Tree) -> dict[str, Any]:
    """What a tree says, without the numbers that it gives to archives."""
    return {
        path: (e.kind, e.mode, e.mtime_ns, e.size, e.identity, e.target, list(tree.refs(e))) for path, e in tree.entries.items()
    }


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(ENTRIES, st.booleans()), min_size=1, max_size=5))
def test_any_chain_of_tables_round_trips(steps: list[tuple[dict[str, Any], bool]]) -> None:
    made: Tree | None = None
    tables: list[Table] = []
    for number, (wanted, whole) in enumerate(steps):
        made, packed = build(made, wanted, an_id(number), whole=whole or number == 0)
        stored = decompress_table("x", compress_table(packed))
        assert stored == packed
        tables.append(unpack(an_id(number), stored, check_path))
        read: Tree | None = None
        for table in tables:
            read = table.apply(read)
        assert read is not None
        assert meaning(read) == meaning(made)
        _check_links(read)
        # a reader begins at the newest whole table
        newest = max(place for place, table in enumerate(tables) if table.whole)
        again: Tree | None = None
        for table in tables[newest:]:
            again = table.apply(again)
        assert again is not None and meaning(again) == meaning(made)


def test_frames_round_trip() -> None:
    writer = TableWriter(an_id(1))
    frames = [Frame(bytes([n]) * 32, n * 10, 5, 7, FrameRef(FULL, n) if n % 2 else None, n % 2) for n in range(20)]
    for frame in frames:
        writer.add_frame(frame)
    writer.truncate(10)
    table = unpack(an_id(1), writer.pack(Tree(), None), check_path)
    assert [table.frames[n] for n in range(10)] == frames[:10]
    for outside in (10, -1, 1 << 32):
        with pytest.raises(DamageFound):
            table.frames[outside]


# Hostile tables: a table is what `raw` packs, with one thing wrong


def raw(
    *,
    magic: bytes = archive_table.MAGIC,
    flags: int = 1,
    block: int = BLOCK,
    backups: list[str] | None = None,
    frames: list[tuple[Any, ...]] | None = None,
    entries: list[dict[str, Any]] | None = None,
    counts: tuple[int, int, int] | None = None,
    tail: bytes = b"",
) -> bytes:
    backups = backups if backups is not None else []
    frames = frames if frames is not None else [(bytes(32), 0, 10, 10, archive_table.NO_BASE, 0, 0)]
    entries = entries if entries is not None else [{}]
    numbers = counts or (len(backups), len(frames), len(entries))
    content = struct.pack("<8s6I", magic, flags, block, *numbers, 0)
    for name in backups:
        content += text(name)
    for frame in frames:
        content += struct.pack("<32sQIIIIB7x", *frame)
    for entry in entries:
        values = {"path": "sqlite/x.sqlite3", "kind": 0, "size": 10, "target": "", "runs": [(0, 1, 0, 0)]} | entry
        content += text(values["path"])
        content += struct.pack("<BIqQQqB", values["kind"], 0o644, 0, values["size"], 1, 0, 1)
        content += text(values["target"])
        content += struct.pack("<I", values.get("count", len(values["runs"])))
        content += b"".join(struct.pack("<4I", *run) for run in values["runs"])
    return content + tail


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogateescape")
    return struct.pack("<H", len(encoded)) + encoded


class Lone(Archives):
    """Archives of tables that are at hand; their data file is empty."""

    def __init__(self, path: Any, tables: dict[str, bytes], parents: dict[str, str | None]) -> None:
        self._contents = {name: compress_table(content) for name, content in tables.items()}

        def locate(backup: str) -> Stored:
            if backup not in parents:
                raise DamageFound(f"no {backup}")
            return Stored(
                folder=Enclosure(path), backup=backup, parent=parents[backup], table_offset=0, table_bytes=1, table_blake3=""
            )

        super().__init__(locate)

    def _read_table(self, backup: str) -> Table:
        self._locate(backup)
        return unpack(backup, decompress_table(backup, self._contents[backup]), check_path)


def read_all(path: Any, content: bytes) -> None:
    """Do with a table all that is done with one: list, then read every block."""
    with Lone(path, {FULL: content}, {FULL: None}) as archives:
        tree = archives.tree(FULL)
        for entry in tree.entries.values():
            for ref in tree.refs(entry):
                archives.read(ref)


def with_frame(**wrong: int) -> bytes:
    good = {"offset": 0, "stored": 10, "raw": 10, "base": archive_table.NO_BASE, "base_frame": 0, "depth": 0}
    return raw(frames=[(bytes(32), *(good | wrong).values())])


HOSTILE: dict[str, bytes] = {
    "another magic": raw(magic=b"RBTABLE2"),
    "another block size": raw(block=BLOCK * 2),
    "more backups than there are": raw(counts=(4_000_000_000, 1, 1)),
    "more frames than there are": raw(counts=(0, 4_000_000_000, 1)),
    "more entries than there are": raw(counts=(0, 1, 4_000_000_000)),
    "fewer frames than there are": raw(counts=(0, 0, 1)),
    "something after the end": raw(tail=b"x"),
    "more runs than there are": raw(entries=[{"count": 4_000_000_000}]),
    "an unknown kind": raw(entries=[{"kind": 7}]),
    "a partial table without a parent": raw(flags=0),
    "a size beyond all blocks": raw(entries=[{"size": (1 << 64) - 1}]),
    "sixteen tebibytes and a run to match": raw(entries=[{"size": 1 << 44, "runs": [(0, 1 << 26, 0, 0)]}]),
    "a size without blocks": raw(entries=[{"runs": []}]),
    "a run beyond the file": raw(entries=[{"runs": [(0, 2, 0, 0)]}]),
    "a run that begins beyond the file": raw(entries=[{"runs": [(1, 1, 0, 0)]}]),
    "a run that overflows": raw(entries=[{"runs": [(0, 0xFFFFFFFF, 0, 0xFFFFFFFF)]}]),
    "a run beyond the frames": raw(entries=[{"runs": [(0, 1, 0, 1)]}]),
    "a run into an archive that is not listed": raw(entries=[{"runs": [(0, 1, 1, 0)]}]),
    "a run into an archive without an id": raw(backups=["../../etc"], entries=[{"runs": [(0, 1, 1, 0)]}]),
    "a run into an archive that is missing": raw(backups=[an_id(3)], entries=[{"runs": [(0, 1, 1, 0)]}]),
    "overlapping runs": raw(entries=[{"size": BLOCK * 2, "runs": [(0, 1, 0, 0), (0, 1, 0, 0)]}]),
    "runs with a gap": raw(entries=[{"size": BLOCK * 3, "runs": [(0, 1, 0, 0), (2, 1, 0, 0)]}]),
    "a folder with blocks": raw(entries=[{"path": "files/x", "kind": 1}]),
    "a link with blocks": raw(entries=[{"kind": 2, "target": "y"}]),
    "the same path twice": raw(entries=[{}, {}]),
    "a frame of no bytes": with_frame(raw=0),
    "a frame larger than a block": with_frame(raw=BLOCK + 1),
    "a stored size of 4 GiB": with_frame(stored=0xFFFFFFFF),
    "a stored size of nothing": with_frame(stored=0),
    "an offset beyond any file": with_frame(offset=(1 << 64) - 1),
    "an offset beyond this file": with_frame(offset=1 << 40),
    "a plain frame with a depth": with_frame(depth=1),
    "a delta without a depth": with_frame(base=0),
    "a depth beyond the bound": with_frame(base=0, depth=MAX_DEPTH + 1),
    "a base in an archive that is not listed": with_frame(base=9, depth=1),
    "a base that is not there": with_frame(base=0, base_frame=5, depth=1),
    "a delta on itself": with_frame(base=0, base_frame=0, depth=1),
    "deltas in a circle": raw(
        frames=[(bytes(32), 0, 10, 10, 0, 1, 1), (bytes(32), 0, 10, 10, 0, 0, 1)],
    ),
    "a link where a database is": raw(entries=[{"kind": 2, "target": "y", "size": 0, "runs": []}]),
    "a folder where a database is": raw(entries=[{"kind": 1, "size": 0, "runs": []}]),
    "a file where a folder is": raw(entries=[{"path": "files/x"}]),
    "a link where a folder is": raw(entries=[{"path": "files/x", "kind": 2, "target": "y", "size": 0, "runs": []}]),
    "a file under a file": raw(entries=[{}, {"path": "sqlite/x.sqlite3/y"}]),
    "a file under nothing": raw(entries=[{"path": "files/x/y"}]),
    "a file under a link": raw(
        entries=[
            {"path": "files/x", "kind": 1, "size": 0, "runs": []},
            {"path": "files/x/y", "kind": 2, "target": "z", "size": 0, "runs": []},
            {"path": "files/x/y/z"},
        ]
    ),
    "a link out": raw(
        entries=[
            {"path": "files/x", "kind": 1, "size": 0, "runs": []},
            {"path": "files/x/y", "kind": 2, "target": "../../../etc", "size": 0, "runs": []},
        ]
    ),
    "an absolute link": raw(
        entries=[
            {"path": "files/x", "kind": 1, "size": 0, "runs": []},
            {"path": "files/x/y", "kind": 2, "target": "/etc", "size": 0, "runs": []},
        ]
    ),
}
PATHS = [
    "",
    "/",
    "/etc/passwd",
    "sqlite",
    "sqlite/",
    "sqlite//x",
    "etc/passwd",
    "../sqlite/x.sqlite3",
    "sqlite/../x.sqlite3",
    "sqlite/..",
    "sqlite/.",
    "files/../../x",
    "files/x/../y",
    "files/x/./y",
    "files/x/",
    "files/x/y\0z",
    "files/\0",
    "files/.hidden",
    "files/-x/../y",
    "files/" + "x" * 65,
    "files/x/" + "y" * 4096,
    "chroma/x\ny",
    "files/ü",
    "sqlite/x\0.sqlite3",
    "sqlite/-.sqlite3",
]


@pytest.fixture
def empty(tmp_path) -> Any:
    (tmp_path / "data.tar.zst").write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize("wrong", [*HOSTILE])
def test_a_table_with_one_thing_wrong_is_damage(empty: Any, wrong: str) -> None:
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(DamageFound):
            read_all(empty, HOSTILE[wrong])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("path", PATHS)
def test_a_path_outside_the_backup_is_damage(empty: Any, path: str) -> None:
    with pytest.raises(DamageFound):
        check_path(path)
    with pytest.raises(DamageFound):
        read_all(empty, raw(entries=[{"path": path, "kind": 1, "size": 0, "runs": []}]))


@pytest.mark.parametrize(
    "path",
    [
        "sqlite/app.sqlite3",
        "sqlite/app.sqlite3-wal",
        "sqlite/" + "x" * 64 + ".sqlite3-journal",
        "chroma/v/1-2/data_level0.bin",
        "files/papers/.hidden/…/a b\n",
    ],
)
def test_valid_paths_are_accepted(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    ("path", "target", "inside"),
    [
        ("files/x/l", "y", True),
        ("files/x/l", "y/z", True),
        ("files/x/a/l", "../y", True),
        ("files/x/a/b/l", "../../y", True),
        ("files/x/a/l", "./../y/.", True),
        ("files/x/l", ".", True),
        ("files/x/l", "../y", False),
        ("files/x/a/l", "../../y", False),
        ("files/x/l", "/y", False),
        ("files/x/l", "", False),
        ("files/x/l", "y\0", False),
        ("files/x", "y", False),
        ("sqlite/x.sqlite3", "y.sqlite3", False),
        # `up` may be a link to `..`: after a name, `..` leads nobody knows where
        ("files/x/l", "a/up/a/up/../../..", False),
        ("files/x/l", "a/../y", False),
    ],
)
def test_links_stay_inside_their_source(path: str, target: str, inside: bool) -> None:
    assert link_stays_inside(path, target) is inside


def test_a_chain_of_links_cannot_point_outside(tmp_path) -> None:
    """What the file system makes of links that pass the check one by one stays inside."""
    root = tmp_path / "files" / "x"
    (root / "a").mkdir(parents=True)
    links = {"a/up": "..", "l1": "a/up/a/up", "l2": "l1/a/up", "l3": "a/up/../..", "l4": "l1/../..", "l5": "l2/l1/../../.."}
    for path, target in links.items():
        if link_stays_inside(f"files/x/{path}", target):
            (root / path).symlink_to(target)
            assert (root / path).resolve().is_relative_to(root), path


def test_parents_in_a_circle_are_damage(empty: Any) -> None:
    tables = {an_id(n): raw(flags=0, frames=[], entries=[]) for n in range(3)}
    parents: dict[str, str | None] = {an_id(n): an_id((n + 1) % 3) for n in range(3)}
    with Lone(empty, tables, parents) as archives, pytest.raises(DamageFound, match="circle"):
        archives.tree(an_id(0))


def test_a_partial_table_cannot_use_blocks_that_its_parent_lacks(empty: Any) -> None:
    parent = raw(entries=[{"size": BLOCK, "runs": [(0, 1, 0, 0)]}])
    for runs, size in [([], 2 * BLOCK), ([(2, 1, 0, 0)], 3 * BLOCK), ([], 1 << 50)]:
        child = raw(flags=0, entries=[{"size": size, "runs": runs}])
        with (
            Lone(empty, {FULL: parent, an_id(1): child}, {FULL: None, an_id(1): FULL}) as archives,
            pytest.raises(DamageFound),
        ):
            archives.tree(an_id(1))


@pytest.mark.slow
def test_one_long_run_is_read_fast_and_many_are_refused(empty: Any) -> None:
    """Runs are 16 bytes each, and could name any number of blocks each."""
    many = [{"path": f"files/x/{n}", "size": 1 << 43, "runs": [(0, 1 << 25, 1, 0)]} for n in range(50)]
    folder = {"path": "files/x", "kind": 1, "size": 0, "runs": []}
    began = time.monotonic()
    with pytest.raises(DamageFound, match="more blocks"):
        read_all(empty, raw(backups=[an_id(1)], entries=[folder, *many]))
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_a_table_truncated_anywhere_is_damage(history: History) -> None:
    content = table_bytes(history, 0)
    for length in [*range(400), *range(400, len(content), 97)]:
        with pytest.raises(DamageFound):
            unpack(FULL, content[:length], check_path)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.slow
def test_a_flipped_bit_in_a_table_is_damage_or_another_table(history: History, empty: Any, number: int) -> None:
    """Nothing but `DamageFound` comes out, whatever is read; the archive's own checksum sees every flip before this."""
    content = table_bytes(history, number)
    began = time.monotonic()
    step = max(1, len(content) * 8 // 4000) | 1
    for bit in range(0, len(content) * 8, step):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        tables = {FULL: bytes(flipped)}
        try:
            with Lone(empty, tables, {FULL: None}) as archives:
                tree = archives.tree(FULL)
                for entry in tree.entries.values():
                    for ref in list(tree.refs(entry))[:2]:
                        archives.read(ref)
        except DamageFound:
            continue
    assert time.monotonic() - began < 60


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_damage(content: bytes) -> None:
    for made in (content, raw()[:32] + content):
        for read in (lambda made=made: unpack(FULL, made, check_path), lambda made=made: decompress_table(FULL, made)):
            outcome_of(read)


def outcome_of(read: Callable[[], object]) -> None:
    try:
        read()
    except DamageFound:
        return


@pytest.mark.parametrize("claimed", [0, 1 << 31, 1 << 40, (1 << 64) - 3])
def test_a_compressed_table_is_refused_by_its_size_alone(claimed: int) -> None:
    honest = compress_table(raw())
    bomb = honest[:4] + bytes([0b11100100]) + struct.pack("<Q", claimed) + honest[6:]
    tracemalloc.start()
    try:
        with pytest.raises(DamageFound):
            decompress_table(FULL, bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_compressed_table_larger_than_tables_shrink_is_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(100 << 20))
    with pytest.raises(DamageFound, match="impossible size"):
        decompress_table(FULL, bomb)


def test_a_table_that_could_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_table, "MAX_TABLE_BYTES", 1000)
    assert decompress_table(FULL, compress_table(bytes(1000))) == bytes(1000)
    with pytest.raises(EngineError, match="more than one backup can hold"):
        compress_table(bytes(1001))
    monkeypatch.setattr(archive_table, "MAX_BLOCKS", 3)
    build(None, {"a": (EntryType.FILE, 0, 0, [1, 1, 1], 9, False)}, FULL, whole=True)
    with pytest.raises(EngineError, match="more than one backup can hold"):
        build(None, {"a": (EntryType.FILE, 0, 0, [1, 1, 1, 1], 9, False)}, FULL, whole=True)


def table_bytes(history: History, number: int) -> bytes:
    data = history.backup(number).manifest.data
    with (history.place(number) / "data.tar.zst").open("rb") as file:
        file.seek(data.table_offset)
        return decompress_table(FULL, file.read(data.table_bytes))


def test_a_block_reference_takes_eight_bytes() -> None:
    entry = Entry(path="files/x", kind=EntryType.FILE, mode=0, mtime_ns=0, blocks=array("Q", [1 << 40]))
    assert entry.blocks.itemsize == 8
