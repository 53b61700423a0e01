"""Index files of a Chroma segment that were made to harm, or cut off: `BrokenIndex` and nothing else ever comes of them."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backups.engine.chroma_files import hnsw, id_table
from backups.engine.chroma_files.errors import BrokenIndex, UnsupportedIndex
from backups.engine.chroma_files.graph import check_graph
from backups.engine.chroma_files.index import Index
from tests.restore.stores import History


@pytest.fixture(scope="module")
def segment(history: History) -> Path:
    """A real index, not to be changed."""
    return next((history.expected(3) / "chroma/vectors").glob("*/index_metadata.pickle")).parent


@pytest.fixture
def copy(segment: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(segment, tmp_path / "segment"))


def read(folder: Path) -> list[tuple[str, bytes]]:
    """All that is read of a segment."""
    if not hnsw.check_structure(folder):
        return []
    with closing(Index(folder, cosine=False)) as index:
        return list(index.stream())


def survive(folder: Path) -> bool:
    """Whether a segment can be read; anything but a list and `BrokenIndex` fails the test."""
    try:
        read(folder)
    except (BrokenIndex, FileNotFoundError):
        return False
    return True


def scan(path: Path, content: bytes) -> list[Any]:
    path.write_bytes(content)
    return list(id_table.scan(path))


@pytest.mark.slow
def test_the_scanner_agrees_with_pickle(segment: Path) -> None:
    """The reference is Python's own, on a file that is known to be good."""
    content = (segment / "index_metadata.pickle").read_bytes()
    known = pickle.loads(content)  # noqa: S301
    known = known if isinstance(known, dict) else vars(known)
    assert dict(id_table.labels(segment)) == known["id_to_label"]
    assert id_table.total_added(segment) == known["total_elements_added"]
    assert len(read(segment)) == len(known["id_to_label"]) >= 400


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 1001])
@pytest.mark.parametrize("dump", [pickle.dumps, pickle._dumps])  # type: ignore[attr-defined]
def test_tables_that_python_pickled_are_read(tmp_path: Path, dump: Callable[..., bytes], count: int) -> None:
    """As 0.5 and 0.6 did: a dictionary of one pair, or one pair after a thousand, is written in another way than several."""
    ids = {f"id{n}": n + 1 for n in range(count)}
    table = {"dimensionality": 3, "total_elements_added": count, "id_to_label": ids, "last": {}, "max_seq_id": 7}
    for protocol in range(2, 6):
        (tmp_path / "index_metadata.pickle").write_bytes(dump(table, protocol))
        assert dict(id_table.labels(tmp_path, count)) == ids
        found = {key: value for member, key, value in id_table.scan(tmp_path / "index_metadata.pickle") if not member}
        assert found == {"dimensionality": 3, "total_elements_added": count, "max_seq_id": 7}


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    for planted in (Canary(canary), {"id_to_label": {"a": Canary(canary)}}, {"a": [Canary(canary)]}, {Canary(canary): 1}):
        content = pickle.dumps(planted, protocol)
        with pytest.raises(BrokenIndex):
            scan(tmp_path / "index_metadata.pickle", content)
        assert not canary.exists()
    pickle.loads(pickle.dumps(Canary(canary)))  # noqa: S301
    assert canary.exists(), "the canary sings when it is let out"


def test_an_object_between_the_pairs_of_a_real_table_is_refused(copy: Path, tmp_path: Path) -> None:
    path = copy / "index_metadata.pickle"
    content = path.read_bytes()
    canary = pickle.dumps(Canary(tmp_path / "canary"), 2)[2:-1]
    refused = 0
    for place in range(2, len(content), max(1, len(content) // 300)):
        try:
            scan(path, content[:place] + canary + content[place:])
        except BrokenIndex:
            refused += 1
        assert not (tmp_path / "canary").exists()
    assert refused > 250


@pytest.mark.parametrize(
    "planted",
    [
        {},
        {"id_to_label": {}},
        {"total_elements_added": "three"},
        {"total_elements_added": None},
        {"id_to_label": {"a": "b"}, "total_elements_added": 1},
        {"id_to_label": {"a": -5}, "total_elements_added": 1},
        {"id_to_label": {"a": 1 << 31}, "total_elements_added": 1},
        {"id_to_label": {"a": 1 << 62}, "total_elements_added": 1},
        {"id_to_label": {"a": 1 << 200}, "total_elements_added": 1},
        {"id_to_label": {"a": 1.5}, "total_elements_added": 1},
        {"id_to_label": {"a": {"b": 1}}, "total_elements_added": 1},
        {"id_to_label": 5, "total_elements_added": 1},
        {"id_to_label": {str(n): 1 for n in range(50)}, "total_elements_added": 1},
        [1, 2],
        "text",
        7,
        None,
    ],
)
def test_id_tables_of_another_shape_are_refused(copy: Path, planted: Any) -> None:
    count = hnsw.check_structure(copy)
    if isinstance(planted, dict) and planted.get("total_elements_added") == 1:
        planted["total_elements_added"] = count
    (copy / "index_metadata.pickle").write_bytes(pickle.dumps(planted, 2))
    tracemalloc.start()
    try:
        if planted == {"id_to_label": 5, "total_elements_added": count}:
            assert read(copy) == []
        elif isinstance(planted, dict) and planted.get("id_to_label") == {"a": {"b": 1}}:
            with pytest.raises(BrokenIndex):
                read(copy)
        else:
            with pytest.raises(BrokenIndex):
                read(copy)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_deeply_nested_table_takes_neither_time_nor_memory(tmp_path: Path) -> None:
    path = tmp_path / "index_metadata.pickle"
    path.write_bytes(b"\x80\x02" + b"}(K\x01" * 1_500_000 + b".")
    began = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(BrokenIndex, match="nested"):
            list(id_table.scan(path))
        assert tracemalloc.get_traced_memory()[1] < 2 * path.stat().st_size
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("name", hnsw.FILES)
def test_a_file_truncated_anywhere_is_broken(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    lengths = {*range(min(len(content), 120)), *range(0, len(content), max(1, len(content) // 150))}
    for length in sorted(lengths - {len(content)}):
        (copy / name).write_bytes(content[:length])
        if name == "link_lists.bin":
            survive(copy)  # links above level 0 carry no record
        else:
            assert not survive(copy), f"{name} with {length} of {len(content)} bytes"


@pytest.mark.parametrize("name", hnsw.FILES)
def test_a_file_that_goes_on_is_broken(copy: Path, name: str) -> None:
    with (copy / name).open("ab") as file:
        file.write(bytes(40))
    with pytest.raises(BrokenIndex) as problem:
        check_graph(copy)
        list(id_table.labels(copy))
    assert problem.value.file == ("length.bin" if name == "data_level0.bin" else name)


@pytest.mark.parametrize("name", hnsw.FILES)
def test_a_missing_file_is_broken(copy: Path, name: str) -> None:
    (copy / name).unlink()
    if name == "link_lists.bin":
        survive(copy)
    else:
        assert not survive(copy)


@pytest.mark.slow
def test_bits_flipped_in_a_real_id_table(copy: Path) -> None:
    path = copy / "index_metadata.pickle"
    content = path.read_bytes()
    began = time.monotonic()
    broken = 0
    for number in range(1500):
        flipped = bytearray(content)
        bit = number * 7919 % (len(content) * 8)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        broken += not survive(copy)
    assert broken > 100
    assert time.monotonic() - began < 60


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_scanned_or_refused(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pickle"
    for made in (content, b"\x80\x02}(" + content, b"\x80\x02}X\x01\x00\x00\x00a}(" + content):
        path.write_bytes(made)
        try:
            list(id_table.scan(path))
        except BrokenIndex:
            continue


HEADER = struct.Struct("<i6QiI3QdQ")
HUGE = [0, 1, 7, 8, 100, 1 << 20, 1 << 31, 1 << 40, (1 << 64) - 1]


@pytest.mark.parametrize("field", range(14))
@pytest.mark.slow
def test_a_header_with_one_number_changed(copy: Path, field: int) -> None:
    path = copy / "header.bin"
    good = HEADER.unpack(path.read_bytes())
    tracemalloc.start()
    try:
        for value in [*HUGE, *(int(good[field]) + n for n in (-4, -1, 1, 4))]:
            wrong = list(good)
            wrong[field] = value
            try:
                path.write_bytes(HEADER.pack(*wrong))
            except struct.error:
                continue
            survive(copy)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_header_of_zeros_is_broken_and_not_of_an_unknown_version(copy: Path) -> None:
    (copy / "header.bin").write_bytes(bytes(HEADER.size))
    with pytest.raises(BrokenIndex) as problem:
        hnsw.read_header(copy)
    assert not isinstance(problem.value, UnsupportedIndex)


def test_impossible_offsets_are_refused(copy: Path) -> None:
    path = copy / "header.bin"
    good = list(HEADER.unpack(path.read_bytes()))
    size, label, vector = good[4], good[5], good[6]
    for wrong in ((size, size, vector), (size, size - 4, vector), (size, label, label), (size, label, vector + 1)):
        path.write_bytes(HEADER.pack(*good[:4], *wrong, *good[7:]))
        with pytest.raises(BrokenIndex):
            read(copy)


def flipped(path: Path, offset: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))


def found_by(folder: Path) -> str:
    """The file in which the check of the graph finds a contradiction, "" for none."""
    try:
        check_graph(folder, cosine=True)
    except BrokenIndex as problem:
        return problem.file
    return ""


def level_0(folder: Path) -> list[tuple[int, list[int]]]:
    """The offset of each element of ``data_level0.bin``, and its links."""
    header = hnsw.read_header(folder)
    content = (folder / "data_level0.bin").read_bytes()
    assert header is not None
    starts = [n * header.size_per_element for n in range(header.count)]
    return [(at, [*struct.unpack_from(f"<{content[at]}I", content, at + 4)]) for at in starts]


def test_any_bit_of_a_link_that_leads_out_of_the_index_is_found(copy: Path) -> None:
    assert found_by(copy) == ""
    data = copy / "data_level0.bin"
    elements = level_0(copy)
    count = len(elements)
    tried = 0
    for number in range(0, count, 40):
        start, links = elements[number]
        for place, link in enumerate(links[:5]):
            for bit in range(32):
                if link ^ 1 << bit < count and link ^ 1 << bit != number:
                    continue  # another element that exists: not to be told from a right one
                offset = start + 4 + 4 * place + bit // 8
                flipped(data, offset, bit % 8)
                assert found_by(copy) == "data_level0.bin"
                flipped(data, offset, bit % 8)
                tried += 1
    assert tried > 100 and found_by(copy) == ""


def test_links_that_cannot_be_are_found(copy: Path) -> None:
    data, above, header = (copy / name for name in ("data_level0.bin", "link_lists.bin", "header.bin"))
    start, links = level_0(copy)[3]
    place = next(at for at, word in enumerate(np.fromfile(above, "<u4")) if word)
    wrong: list[tuple[Path, int, bytes]] = [
        (data, start + 4, struct.pack("<I", 3)),  # a link to itself
        (data, start, struct.pack("<H", 2 * len(links) + 99)),
        (data, start + 3, b"\x01"),
        (data, start + hnsw.read_header(copy).label_offset, data.read_bytes()[hnsw.read_header(copy).label_offset :][:8]),  # type: ignore[union-attr]
        (above, 4 * place, struct.pack("<I", 7)),
        (above, 4 * place, struct.pack("<I", 1 << 30)),
        (above, 4 * place + 4, struct.pack("<I", 500)),
        (above, 4 * place + 8, struct.pack("<I", 1 << 31)),
        (header, 52, struct.pack("<i", 60)),  # the highest level
        (header, 56, struct.pack("<I", 1 << 30)),  # the entry point
        (header, 60, struct.pack("<Q", 1 << 60)),
    ]
    for path, offset, content in wrong:
        kept = path.read_bytes()
        path.write_bytes(kept[:offset] + content + kept[offset + len(content) :])
        assert found_by(copy), (path.name, offset)
        path.write_bytes(kept)
    assert found_by(copy) == ""


def words_of(path: Path) -> npt.NDArray[np.uint32]:
    return np.fromfile(path, "<u4")


def without_links(copy: Path, chosen: Callable[[int], bool]) -> None:
    """Empty the lists at level 0 of the elements *chosen*."""
    data = bytearray((copy / "data_level0.bin").read_bytes())
    for number, (start, _) in enumerate(level_0(copy)):
        if chosen(number):
            data[start : start + 2] = b"\0\0"
    (copy / "data_level0.bin").write_bytes(data)


def test_elements_that_lost_their_links_are_found(copy: Path) -> None:
    """Nothing was deleted here. Where something was, an element may have been added that has no links, and none leads to it."""
    kept = {path: path.read_bytes() for path in copy.iterdir()}
    everything: Callable[[int], bool] = lambda number: True  # noqa: E731
    for chosen in (everything, lambda number: number == 7, lambda number: number % 2 == 0):
        without_links(copy, chosen)
        assert found_by(copy) == "data_level0.bin"
        (copy / "data_level0.bin").write_bytes(kept[copy / "data_level0.bin"])
    words, at, header = words_of(copy / "link_lists.bin"), 0, hnsw.read_header(copy)
    assert header is not None
    for _ in range(header.count):
        length, at = int(words[at]) // 4, at + 1
        words[at : at + length] = 0
        at += length
    (copy / "link_lists.bin").write_bytes(words.tobytes())
    assert found_by(copy) == "link_lists.bin"


def test_an_element_that_nothing_links_to_is_counted_and_not_damage(copy: Path) -> None:
    data = bytearray((copy / "data_level0.bin").read_bytes())
    elements = level_0(copy)
    header = hnsw.read_header(copy)
    assert header is not None
    above = np.flatnonzero(words_of(copy / "link_lists.bin"))
    hidden = next(n for n in range(20, header.count) if n != header.enter_point and n < above[0])
    for start, links in elements:
        others = [link for link in links if link != hidden]
        struct.pack_into("<H", data, start, len(others))
        struct.pack_into(f"<{len(others)}I", data, start + 4, *others)
    (copy / "data_level0.bin").write_bytes(data)
    before = check_graph(copy)
    assert before.unreached == 1 and before.count == header.count


def test_a_link_may_be_there_twice_and_not_thrice(copy: Path) -> None:
    """Chroma's threads do that: one writes a list that holds an element which another then adds."""
    start, links = level_0(copy)[3]
    data = bytearray((copy / "data_level0.bin").read_bytes())
    struct.pack_into("<I", data, start + 4, links[1])
    (copy / "data_level0.bin").write_bytes(data)
    assert found_by(copy) == ""
    struct.pack_into("<I", data, start + 12, links[1])
    (copy / "data_level0.bin").write_bytes(data)
    assert found_by(copy) == "data_level0.bin"


def test_lengths_that_do_not_fit_unit_vectors_are_found(copy: Path) -> None:
    header = hnsw.read_header(copy)
    assert header is not None
    content = (copy / "length.bin").read_bytes()
    for wrong in (0.0, float("nan"), -1.0):
        (copy / "length.bin").write_bytes(content[:40] + struct.pack("<f", wrong) + content[44:])
        assert found_by(copy) == "data_level0.bin"
    (copy / "length.bin").write_bytes(content)
    flipped(copy / "data_level0.bin", 9 * header.size_per_element + header.vector_offset + 3, 6)  # an exponent's high bit
    assert found_by(copy) == "data_level0.bin"


def test_links_that_end_too_early_are_found(copy: Path) -> None:
    above = copy / "link_lists.bin"
    content = above.read_bytes()
    for length in (0, 1, 4, len(content) // 2, len(content) - 1):
        above.write_bytes(content[:length])
        assert found_by(copy) == "link_lists.bin"
    above.unlink()
    assert found_by(copy) == "link_lists.bin"


def test_the_memory_of_the_check_is_bounded_for_any_header(copy: Path) -> None:
    path = copy / "header.bin"
    good = HEADER.unpack(path.read_bytes())
    check_graph(copy)
    tracemalloc.start()
    try:
        for field in range(14):
            for value in HUGE:
                wrong = [*good[:field], value, *good[field + 1 :]]
                try:
                    path.write_bytes(HEADER.pack(*wrong))
                except struct.error:
                    continue
                found_by(copy)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_vectors_are_read_as_stored(segment: Path) -> None:
    header = hnsw.read_header(segment)
    assert header is not None and header.dimension == 16
    for _, vector in read(segment)[:50]:
        assert abs(float(np.linalg.norm(np.frombuffer(vector, "<f4"))) - 1) < 1e-5  # unit vectors: a cosine collection
