"""The readers of Chroma's files and of ids: what Chroma writes is read right, and what it does not write is refused."""

from __future__ import annotations

import pickle
import sqlite3
import struct
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backups.engine.chroma_files import id_table
from backups.engine.chroma_files.errors import BrokenIndex
from backups.engine.chroma_files.records import find_records
from backups.engine.chroma_files.tables import DATABASE, find_collection
from backups.engine.chroma_files.vectors import Vectors
from consistency.engine import rows
from consistency.engine.compare import Sorted, windows
from consistency.engine.errors import Mistake, StoreUnreadable
from consistency.engine.examine import Facts, classify
from consistency.engine.mapping import Column, Description
from tests.consistency.stores import DESCRIPTION, DIMENSION, MAPPING, Home, vector_of


def vectors(home: Home, at_rest: bool = True) -> tuple[sqlite3.Connection, Vectors]:
    home.close()
    database = rows.connect(home.chroma / DATABASE, at_rest=at_rest)
    return database, Vectors(home.chroma, database, partial(find_collection, database, "pages"), at_rest=at_rest)


def held(home: Home) -> dict[str, bytes | None]:
    database, reader = vectors(home)
    with closing(database), closing(reader):
        return {key: reader.one(place) for key, place in reader.stream().fetchall()}


def segment(home: Home) -> Path:
    return next(path.parent for path in home.chroma.glob("*/header.bin"))


def test_all_vectors_are_read_as_the_client_gives_them(home: Home) -> None:
    home.pages.delete(ids=["page-1", "page-79"])
    home.pages.update(ids=["page-2", "page-77"], embeddings=[[1.0] * DIMENSION, [2.0] * DIMENSION])
    home.pages.upsert(ids=["page-1", "new"], embeddings=[[3.0] * DIMENSION, [4.0] * DIMENSION])
    told = home.pages.get(include=["embeddings"])
    expected = {key: vector.astype("<f4").tobytes() for key, vector in zip(told["ids"], told["embeddings"], strict=True)}
    assert held(home) == expected


def test_records_are_read_as_the_client_gives_them(home: Home) -> None:
    home.pages.update(ids=["page-5"], metadatas=[{"many": ["a", "b"], "flag": False, "real": 0.1}])
    told = home.pages.get(ids=["page-5", "page-80"], include=["documents", "metadatas"])
    home.close()
    with closing(rows.connect(home.chroma / DATABASE, at_rest=True)) as database:
        collection = find_collection(database, "pages")
        assert collection is not None and not collection.cosine
        found = find_records(database, collection, ["page-5", "page-80", "nobody"])
    assert [found[key].document for key in told["ids"]] == told["documents"]
    assert [found[key].metadata for key in told["ids"]] == told["metadatas"]
    assert set(found) == {"page-5", "page-80"}


def test_cosine_vectors_have_their_original_length(home: Home, tmp_path: Path) -> None:
    hnsw = {"space": "cosine", "sync_threshold": 10, "batch_size": 5}
    home.pages  # noqa: B018 - opens the client
    turned = home._client.create_collection("turned", embedding_function=None, configuration={"hnsw": hnsw})
    turned.add(ids=[f"page-{n}" for n in range(1, 81)], embeddings=[5 * vector_of(n) for n in range(1, 81)])
    home.close()
    bare = replace(MAPPING, collection="turned", metadata=(), document=(), model=None)
    home.sql("UPDATE page SET vector = vector")
    database = sqlite3.connect(home.database)
    with closing(database), database:
        for n in range(1, 81):
            database.execute("UPDATE page SET vector = ? WHERE id = ?", ((5 * vector_of(n)).tobytes(), n))
    assert home.check(description=Description(mappings=(bare,)))[1] == []
    home.sql(f"UPDATE page SET vector = x'{(5.01 * vector_of(4)).astype('<f4').tobytes().hex()}' WHERE id = 4")
    assert [item.record for item in home.check(description=Description(mappings=(bare,)))[1]] == ["page-4"]


def test_places_follow_later_writes(home: Home) -> None:
    database, reader = vectors(home, at_rest=False)
    with closing(database), closing(reader):
        assert reader.is_current()
        home.add_vectors(500)
        home.pages.delete(ids=["page-1"])
        home.close()
        reader.refresh()
        assert set(reader.places_of(["page-500", "page-1", "page-2"])) == {"page-500", "page-2"}
        home.add_vectors(*range(501, 560))  # the index is rewritten
        home.close()
        assert not reader.is_current()
        reader.refresh()
        assert reader.is_current() and reader.count() == 80 - 1 + 60
        assert reader.one(reader.places_of(["page-559"])["page-559"]) == vector_of(559).tobytes()


@pytest.mark.parametrize("name", ["header.bin", "data_level0.bin", "index_metadata.pickle"])
@pytest.mark.parametrize("damage", ["missing", "short", "empty"])
def test_inconsistent_index_files_are_refused(home: Home, name: str, damage: str) -> None:
    file = segment(home) / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[: len(content) // 2] if damage == "short" else b"")
    if (name, damage) == ("index_metadata.pickle", "missing"):
        assert len(held(home)) < 80  # as before the first sync: the log alone counts
        return
    assert found_in_index(home) == ["error"]


def found_in_index(home: Home) -> list[str]:
    """The severity of each finding, all of which say that the index is broken."""
    outcome, findings = home.check()
    assert {item.kind for item in findings} == {"broken_index"} and outcome.state == "inconsistent"
    assert [(item.record, item.sqlite) for item in findings] == [("pages", {"rows": 80})]
    return [str(item.severity) for item in findings]


def test_a_link_that_leads_nowhere_is_found(home: Home) -> None:
    home.check()
    home.close()
    with (segment(home) / "data_level0.bin").open("r+b") as file:
        file.seek(7)
        file.write(b"\x80")
    found_in_index(home)
    assert "links that cannot be" in home.check()[1][0].message


def test_an_index_of_another_version_is_refused(home: Home) -> None:
    header = segment(home) / "header.bin"
    header.write_bytes(struct.pack("<i", 2) + header.read_bytes()[4:])
    with pytest.raises(StoreUnreadable, match="format version 2"):
        home.check()


def test_nothing_in_an_id_table_is_executed(home: Home) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    table = segment(home) / id_table.PICKLE
    count = struct.unpack_from("<Q", (segment(home) / "header.bin").read_bytes(), 20)[0]
    content = {"total_elements_added": count, "id_to_label": {"a": Payload()}}
    table.write_bytes(pickle.dumps(content, protocol=2))
    found_in_index(home)
    assert "does not write" in home.check()[1][0].message


def table_of(members: dict[str, int]) -> bytes:
    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()

    head = b"\x80\x03}(" + text("dimensionality") + b"N" + text("total_elements_added") + b"J" + struct.pack("<i", len(members))
    items = [text(key) + b"J" + struct.pack("<i", label) for key, label in members.items()]
    body = b"".join(b"(" + b"".join(items[at : at + 1000]) + b"u" for at in range(0, len(items), 1000))
    return head + text("id_to_label") + b"}" + body + text("label_to_id") + b"}u."


@given(st.dictionaries(st.text(max_size=2000), st.integers(0, 2**31 - 1), max_size=30))
@pytest.mark.slow
def test_the_scanner_reads_what_pickle_reads(tmp_path_factory: pytest.TempPathFactory, members: dict[str, int]) -> None:
    members = {key.encode("utf-8", "replace").decode(): label for key, label in members.items()}
    folder = tmp_path_factory.mktemp("table")
    (folder / id_table.PICKLE).write_bytes(table_of(members))
    assert pickle.loads(table_of(members))["id_to_label"] == members  # noqa: S301 - made just above
    assert dict(id_table.labels(folder, len(members))) == members


def test_the_scanner_reads_long_tables_and_long_ids(tmp_path: Path) -> None:
    members = {("x" * (n % 7) * 1000) + str(n): n for n in range(5000)}
    (tmp_path / id_table.PICKLE).write_bytes(table_of(members))
    assert dict(id_table.labels(tmp_path, 5000)) == members
    few = {str(n): n for n in range(50)}
    whole = table_of(few)
    for cut in range(30, len(whole)):
        (tmp_path / id_table.PICKLE).write_bytes(whole[:-cut] + b".")
        with pytest.raises(BrokenIndex):
            dict(id_table.labels(tmp_path, 50))


def test_tables_of_a_later_chroma_are_refused(home: Home) -> None:
    home.inside_chroma("INSERT INTO migrations VALUES ('metadb', 99, 'x', 'x', 'x')")
    with pytest.raises(StoreUnreadable, match="metadb 99"):
        home.check()


def test_a_file_that_is_not_a_database_is_a_clear_error(home: Home) -> None:
    home.close()
    home.database.rename(home.database.with_suffix(".away"))
    with pytest.raises(StoreUnreadable, match="no database at"):
        home.check()
    (home.chroma / DATABASE).write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(StoreUnreadable, match=r"cannot be read|not a Chroma database"):
        home.check()


def test_an_empty_directory_holds_no_records(home: Home) -> None:
    outcome, _ = home.check(description=Description(mappings=(replace(MAPPING, chroma="chroma"),)))
    assert outcome.mappings["pages"].records == 80
    home.close()
    for path in sorted(home.chroma.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert home.check()[0].tally.kinds["missing_in_chromadb"] == 80


ids = st.lists(st.text("abc", max_size=3), max_size=40).map(sorted)


@given(st.lists(ids, min_size=2, max_size=3), st.integers(1, 6), st.integers(1, 6))
def test_windows_hold_every_id_exactly_once(streams: list[list[str]], page: int, size: int) -> None:
    pages = [iter([[(key,) for key in stream[at : at + page]] for at in range(0, len(stream), page)]) for stream in streams]
    seen: list[list[str]] = [[] for _ in streams]
    last = ""
    for parts in windows([Sorted(one) for one in pages], size):
        assert any(parts)
        assert min(part[0][0] for part in parts if part) >= last
        last = max(part[-1][0] for part in parts if part)
        for side, part in zip(seen, parts, strict=True):
            side += [key for (key,) in part]
    assert seen == streams


@given(st.integers(-(2**63), 2**63 - 1), st.text(max_size=20))
def test_ids_are_split_into_their_parts(number: int, text: str) -> None:
    columns = Column(name="n", type="integer"), Column(name="t", type="text")
    mapping = replace(MAPPING, id=("a{", columns[0], "/", columns[1], ")"))
    assert mapping.parts_of(f"a{{{number}/{text})") == (number, text)
    assert mapping.parts_of(f"a{{0{number}/{text})") in (None, (number, text)) or number == 0


def test_descriptions_round_trip_as_json() -> None:
    assert Description.from_json(DESCRIPTION.as_json()) == DESCRIPTION
    with pytest.raises(Mistake, match="version 2"):
        Description.from_json({"version": 2})
    with pytest.raises(Mistake, match="cannot be read"):
        Description.from_json({"version": 1, "mappings": [{}]})
    assert classify(MAPPING, None, Facts(id="x", row=None, record=None), None) == []
    assert np.float32(1).tobytes() == b"\x00\x00\x80?"  # the readers rest on it
