"""Digests and the comparison with Chroma's client raise no false alarm: not on any store that a real client made."""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backups.engine.check_stores import CLIENT_PROBER, PROBER
from backups.engine.chroma_files.digests import digest_collections
from backups.engine.chroma_files.errors import BrokenIndex
from backups.engine.chroma_files.records import as_client, stored_records
from backups.engine.chroma_files.tables import list_collections, open_at_rest
from backups.engine.chroma_files.vectors import stored_vectors
from backups.engine.runtime.child import Child
from tests.restore.stores import DIMENSION, Chroma, ChromaError, vector


class Probers:
    """The two children that a proof asks."""

    def __init__(self, files: Child, client: Child) -> None:
        self._to = {"digests": files, "chroma": client}

    def ask(self, do: str, *, timeout: float, directory: str) -> Any:
        return self._to[do].ask(do, timeout=timeout, directory=directory)


@pytest.fixture(scope="module")
def prober(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probers]:
    with Child(PROBER, only=tmp_path_factory.getbasetemp()) as files, Child(CLIENT_PROBER) as client:
        yield Probers(files, client)


def copied(chroma: Path, tmp_path: Path) -> Path:
    """A copy of a directory whose client is idle."""
    number = sum(1 for _ in tmp_path.glob("copy-*"))
    return Path(shutil.copytree(chroma, tmp_path / f"copy-{number}"))


def check(directory: Path, prober: Probers) -> dict[str, Any]:
    """No problem is found in a healthy copy, and opening it with the client changes no digest of another copy."""
    again = Path(shutil.copytree(directory, directory.with_name(directory.name + "-again")))
    before = prober.ask("digests", timeout=60, directory=str(directory))
    assert "problem" not in before, before
    opened = prober.ask("chroma", timeout=60, directory=str(directory))
    assert opened["problems"] == [], opened
    assert prober.ask("digests", timeout=60, directory=str(again)) == before
    return opened["collections"]


def read_files(directory: Path) -> dict[str, dict[str, Any]]:
    """All records as the files hold them, in the client's shape: name → id → vector, document, metadata."""
    database = open_at_rest(directory)
    try:
        found = {}
        for place in list_collections(database):
            vectors = dict(stored_vectors(directory, database, place))
            records = {name: as_client(values) for name, values in stored_records(database, place)}
            assert vectors.keys() == records.keys(), place.name
            found[place.name] = {
                name: (np.frombuffer(vectors[name], "<f4"), document, metadata)
                for name, (document, metadata) in records.items()
            }
        return found
    finally:
        database.close()


def same(mine: dict[str, Any], theirs: dict[str, Any], *, vectors: bool = True) -> None:
    """What the files hold is what the client returned."""
    assert mine.keys() == theirs.keys()
    for name, (stored, document, metadata) in mine.items():
        returned, their_document, their_metadata = theirs[name]
        assert not vectors or np.allclose(stored, np.array(returned, "<f4"), rtol=1e-5, atol=1e-6), name
        assert document == their_document, name
        assert metadata == (their_metadata or {}), name


WORDS = ["", "a", "naïve", "名前", "🦉" * 3, "x" * 500, "quote ' \" \\", "line\nline", "\u202eright", "nul\0l"]
KEYS = ["a", "key", "schlüssel", "with space", "a.b", "document", "id", "list"]


def a_value(chosen: random.Random) -> Any:
    return chosen.choice(
        [
            chosen.choice(WORDS),
            chosen.randint(-5, 5),
            chosen.choice([0, -1, (1 << 53) + 1, (1 << 62) + 1, -(1 << 63)]),
            chosen.choice([0.0, -0.0, 1.0, 0.1, -1e300, 5e-324, 1e16]),
            chosen.random(),
            True,
            False,
            [chosen.choice(WORDS) for _ in range(chosen.randint(1, 3))],
            [chosen.randint(-9, 9) for _ in range(chosen.randint(1, 4))],
            [chosen.random() for _ in range(chosen.randint(1, 3))],
            [True, False, True],
        ]
    )


def some_metadata(chosen: random.Random, *, remove: bool) -> dict[str, Any] | None:
    if chosen.random() < 0.15:
        return None
    made = {key: a_value(chosen) for key in chosen.sample(KEYS, chosen.randint(1, 4))}
    for key in list(made):
        if remove and chosen.random() < 0.4:
            made[key] = None
    return made


def act(chroma: Chroma, name: str, chosen: random.Random, known: list[str]) -> None:
    """One random call, which the client may refuse."""
    ids = chosen.sample(known, chosen.choice([1, 1, 2, 5, 13]))
    action = chosen.choices(["add", "upsert", "update", "delete", "everything"], [4, 5, 4, 3, 0.1])[0]
    if action == "everything":
        chroma.call(name, "delete", ids=known)
        return
    if action == "delete":
        chroma.call(name, "delete", ids=ids)
        return
    arguments: dict[str, Any] = {"ids": ids}
    if action != "update" or chosen.random() < 0.5:
        scale = chosen.choice([1.0, 1.0, 1e-3, 50.0])
        arguments["embeddings"] = [[scale * chosen.uniform(-1, 1) for _ in range(DIMENSION)] for _ in ids]
    if chosen.random() < 0.7:
        arguments["documents"] = [chosen.choice([*WORDS, None]) for _ in ids]
    if chosen.random() < 0.8:
        arguments["metadatas"] = [some_metadata(chosen, remove=action != "add") for _ in ids]
    try:
        chroma.call(name, action, **arguments)
    except ChromaError:
        return  # refused by the client: nothing is stored


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_digests_match_after_any_sequence_of_calls(tmp_path: Path, prober: Probers, seed: int) -> None:
    chosen = random.Random(seed)
    spaces = {
        f"{space}-{threshold}": (space, threshold)
        for space, threshold in [("l2", 7), ("cosine", 10), ("ip", 23), ("cosine", 1000)]
    }
    known = [f"{word}{n}" for n in range(40) for word in ("id-", "ü", "名 ")]
    indexed = logged = 0
    with Chroma(tmp_path / "chroma") as chroma:
        for name, (space, threshold) in spaces.items():
            chroma.create(name, space=space, threshold=threshold)
        chroma.create("empty")
        for _ in range(3):
            for _ in range(45):
                act(chroma, chosen.choice([*spaces]), chosen, known)
            copy = copied(tmp_path / "chroma", tmp_path)
            files = read_files(copy)
            for name in spaces:
                # A client that ran on may answer with a vector that it forgets when it is closed (a call that adds ids which
                # exist, in the log of another); vectors are compared with those of a client that opens the copy, by `check`
                same(files[name], chroma.all(name), vectors=False)
            assert files["empty"] == {}
            database = open_at_rest(copy)
            for place in list_collections(database):
                indexed += place.vector_at > 0
                logged += place.metadata_at > place.vector_at
            database.close()
            counted = check(copy, prober)
            assert {name: counted[name]["count"] for name in spaces} == {name: len(files[name]) for name in spaces}
    assert indexed > 3 and logged > 3, "both the index and the log were used"


@pytest.mark.slow
def test_ids_added_and_deleted_around_a_sync(tmp_path: Path, prober: Probers) -> None:
    """Deleted before, after and across a sync, added again, updated before they exist."""
    with Chroma(tmp_path / "chroma") as chroma:
        chroma.create("col", space="cosine", threshold=10)
        names = [f"n{n}" for n in range(10)]
        chroma.call("col", "add", ids=names, embeddings=[vector(n) for n in names])  # synced
        chroma.call("col", "delete", ids=["n0", "n1", "n2"])
        chroma.call("col", "add", ids=["n0"], embeddings=[vector("again")])
        chroma.call("col", "add", ids=["n3"], embeddings=[vector("ignored")])
        chroma.call("col", "update", ids=["n1"], embeddings=[vector("ignored too")])
        chroma.call("col", "update", ids=["n4"], metadatas=[{"a": 1}])
        chroma.call("col", "update", ids=["n5"], embeddings=[vector("changed")])
        copy = copied(tmp_path / "chroma", tmp_path)
        same(read_files(copy)["col"], chroma.all("col"))
        assert sorted(read_files(copy)["col"]) == ["n0", *(f"n{n}" for n in range(3, 10))]
        check(copy, prober)
        chroma.call("col", "upsert", ids=names, embeddings=[vector((n, 2)) for n in names])  # synced again
        chroma.call("col", "delete", ids=names)
        copy = copied(tmp_path / "chroma", tmp_path)
        assert read_files(copy)["col"] == {} == chroma.all("col")
        check(copy, prober)
        chroma.call("col", "add", ids=["n1"], embeddings=[vector("last")])
        copy = copied(tmp_path / "chroma", tmp_path)
        same(read_files(copy)["col"], chroma.all("col"))
        assert check(copy, prober)["col"] == {"count": 1, "searched": 1}


@pytest.mark.slow
def test_an_emptied_and_partly_refilled_index(tmp_path: Path, prober: Probers) -> None:
    """Its files keep the size that they once had, and the client begins a new index in them."""
    for rounds in range(3):
        with Chroma(tmp_path / "chroma") as chroma:
            if not rounds:
                chroma.create("col", threshold=10)
            names = [f"n{n}" for n in range((300, 20, 150)[rounds])]
            chroma.call("col", "add", ids=names, embeddings=[vector((n, rounds)) for n in names])
            copy = copied(tmp_path / "chroma", tmp_path)
            same(read_files(copy)["col"], chroma.all("col"))
            check(copy, prober)
            chroma.call("col", "delete", ids=names)
        with Chroma(tmp_path / "chroma") as chroma:
            assert chroma.call("col", "count") == 0 and chroma.all("col") == {}
            check(copied(tmp_path / "chroma", tmp_path), prober)
            chroma.call("col", "add", ids=["few"], embeddings=[vector("few")])
            copy = copied(tmp_path / "chroma", tmp_path)
            same(read_files(copy)["col"], chroma.all("col"))
            check(copy, prober)
            chroma.call("col", "delete", ids=["few"])


@pytest.mark.slow
def test_collections_of_one_name_in_several_databases_and_tenants(tmp_path: Path, prober: Probers) -> None:
    with Chroma(tmp_path / "chroma") as chroma:
        chroma.create("same")
        chroma.call("same", "add", ids=["default"], embeddings=[vector("default")])
        chroma.ask("database", "second")
        chroma.ask("database", "third", tenant="other")
        for tenant, database in ((None, "second"), ("other", "third")):
            chroma.create("same", tenant=tenant, database=database)
            chroma.ask(
                "add", "same", tenant=tenant, database=database, arguments={"ids": [database], "embeddings": [vector(database)]}
            )
        opened = check(copied(tmp_path / "chroma", tmp_path), prober)
    assert sorted(opened) == ["other/third/same", "same", "second/same"]
    assert all(found == {"count": 1, "searched": 1} for found in opened.values())


@pytest.mark.slow
def test_a_badly_connected_index_is_not_damage(tmp_path: Path, prober: Probers) -> None:
    """Few links and most elements deleted: Chroma may find fewer neighbours than requested, and then fails."""
    chosen = random.Random(5)
    with Chroma(tmp_path / "chroma") as chroma:
        chroma.create("thin", threshold=50, hnsw={"max_neighbors": 2, "ef_construction": 2, "ef_search": 1})
        names = [f"n{n}" for n in range(600)]
        for first in range(0, 600, 100):
            some = names[first : first + 100]
            chroma.call("thin", "add", ids=some, embeddings=[vector(n) for n in some])
        chroma.call("thin", "delete", ids=chosen.sample(names, 580))
        check(copied(tmp_path / "chroma", tmp_path), prober)


@pytest.mark.slow
def test_a_sync_threshold_lowered_below_the_log(tmp_path: Path, prober: Probers) -> None:
    """The client rewrites the index as soon as it opens such a store."""
    with Chroma(tmp_path / "chroma") as chroma:
        chroma.create("col", threshold=500)
        names = [f"n{n}" for n in range(300)]
        chroma.call("col", "add", ids=names, embeddings=[vector(n) for n in names])
        chroma.call("col", "modify", configuration={"hnsw": {"sync_threshold": 20, "batch_size": 10}})
        copy = copied(tmp_path / "chroma", tmp_path)
        same(read_files(copy)["col"], chroma.all("col"))
        check(copy, prober)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("threshold", [5, 1000])
def test_vectors_at_the_edges_of_float32(tmp_path: Path, prober: Probers, space: str, threshold: int) -> None:
    tiny, huge, flat = 1.2e-38, 1e18, 0.0
    rows = {
        "zero": [flat] * DIMENSION,
        "tiny": [tiny] * DIMENSION,
        "denormal": [1e-45] * DIMENSION,
        "huge": [huge] * DIMENSION,
        "mixed": [huge, tiny] * (DIMENSION // 2),
        "minus": [-0.0] * DIMENSION,
        "one": [1.0] + [0.0] * (DIMENSION - 1),
    }
    with Chroma(tmp_path / "chroma") as chroma:
        chroma.create("col", space=space, threshold=threshold)
        chroma.call("col", "add", ids=[*rows], embeddings=[*rows.values()])
        check(copied(tmp_path / "chroma", tmp_path), prober)


@pytest.mark.slow
def test_empty_and_missing_collections(tmp_path: Path, prober: Probers) -> None:
    with Chroma(tmp_path / "chroma") as chroma:
        chroma.create("dropped")
        chroma.ask("drop", "dropped")
        assert check(copied(tmp_path / "chroma", tmp_path), prober) == {}
        chroma.create("never")
        chroma.create("emptied", threshold=3)
        chroma.call("emptied", "add", ids=["a", "b", "col", "d"], embeddings=[vector(n) for n in range(4)])
        chroma.call("emptied", "delete", ids=["a", "b", "col", "d"])
        opened = check(copied(tmp_path / "chroma", tmp_path), prober)
    assert {name: found["count"] for name, found in opened.items()} == {"never": 0, "emptied": 0}


@pytest.mark.slow
def test_more_records_than_one_call_returns(tmp_path: Path, prober: Probers) -> None:
    with Chroma(tmp_path / "chroma") as chroma:
        chroma.create("many", threshold=1000)
        chosen = np.random.default_rng(1)
        for first in range(0, 2600, 1300):
            chroma.call(
                "many",
                "add",
                ids=[f"n{n}" for n in range(first, first + 1300)],
                embeddings=chosen.random((1300, 4)).tolist(),
                documents=[str(n) for n in range(1300)],
            )
        assert check(copied(tmp_path / "chroma", tmp_path), prober)["many"]["count"] == 2600


# True alarms: each digest guards its part


def digests(directory: Path) -> Any:
    (found,) = digest_collections(directory, {})
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A cosine collection with 20 records in the index and 5 in the log."""
    place = tmp_path_factory.mktemp("digests") / "chroma"
    with Chroma(place) as chroma:
        chroma.create("col", space="cosine", threshold=20)
        for first, last in ((0, 20), (20, 25)):
            names = [f"n{n}" for n in range(first, last)]
            chroma.call(
                "col",
                "add",
                ids=names,
                embeddings=[vector(n) for n in names],
                documents=names,
                metadatas=[{"n": n} for n in names],
            )
    return place


@pytest.mark.slow
def test_a_change_of_any_indexed_vector_is_found(store: Path, tmp_path: Path, prober: Probers) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    good = digests(copy)
    data = next(copy.glob("*/data_level0.bin"))
    header = struct.unpack("<i6QiI3QdQ", (data.parent / "header.bin").read_bytes())
    count, size, start = header[3], header[4], header[6]
    content = data.read_bytes()
    for element in range(count):
        # neither the last bits, which multiplying by the length may hide, nor the first: the vector would not have the length 1
        place = element * size + start + 4 * (element * 7 % DIMENSION) + 1
        flipped = bytearray(content)
        flipped[place] ^= 1 << element % 7
        data.write_bytes(flipped)
        bad = digests(copy)
        assert bad.indexed != good.indexed and (bad.recent, bad.records) == (good.recent, good.records)
    lengths = data.with_name("length.bin")
    data.write_bytes(content)
    flipped = bytearray(lengths.read_bytes())
    flipped[10] ^= 4
    lengths.write_bytes(flipped)
    assert digests(copy).indexed != good.indexed


@pytest.mark.parametrize(
    ("statement", "part"),
    [
        ("UPDATE embedding_metadata SET string_value = 'x' WHERE id = 7 AND key = 'n'", "records"),
        ("UPDATE embedding_metadata SET string_value = 'x' WHERE id = 7 AND key = 'chroma:document'", "records"),
        ("DELETE FROM embedding_metadata WHERE id = 7 AND key = 'n'", "records"),
        ("UPDATE embedding_metadata SET key = 'm' WHERE id = 7 AND key = 'n'", "records"),
        ("INSERT INTO embedding_metadata_array (id, key, string_value) VALUES (7, 'l', 'x')", "records"),
        ("DELETE FROM embeddings WHERE id = 7", "records count"),
        ("DELETE FROM embeddings_queue WHERE seq_id = (SELECT max(seq_id) FROM embeddings_queue)", "recent"),
        (
            "UPDATE embeddings_queue SET vector = zeroblob(9) WHERE seq_id = (SELECT max(seq_id) FROM embeddings_queue)",
            "recent",
        ),
        ("UPDATE embeddings_queue SET operation = 3 WHERE seq_id = (SELECT max(seq_id) FROM embeddings_queue)", "recent"),
        ("UPDATE embeddings_queue SET id = 'n1' WHERE seq_id = (SELECT max(seq_id) FROM embeddings_queue)", "recent"),
    ],
)
@pytest.mark.slow
def test_any_change_of_a_row_is_found(store: Path, tmp_path: Path, statement: str, part: str) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    good = digests(copy)
    with closing(sqlite3.connect(copy / "chroma.sqlite3")) as database:
        assert database.execute(statement).rowcount == 1
        database.commit()
    bad = digests(copy)
    changed = {name for name in ("count", "indexed", "recent", "records") if getattr(bad, name) != getattr(good, name)}
    assert changed == set(part.split())


@pytest.mark.slow
def test_a_record_with_an_id_that_the_index_does_not_have_is_found(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    with closing(sqlite3.connect(copy / "chroma.sqlite3")) as database, database:
        database.execute("UPDATE embeddings SET embedding_id = 'other' WHERE id = 7")
    with pytest.raises(BrokenIndex, match="20 records of col are older than its index, which holds 19"):
        digests(copy)


@pytest.mark.slow
def test_a_client_that_returns_wrong_records_is_found(store: Path, tmp_path: Path, prober: Probers) -> None:
    """The log says one thing, the metadata another: only the client's answers show it."""
    copy = Path(shutil.copytree(store, tmp_path / "copy"))
    with closing(sqlite3.connect(copy / "chroma.sqlite3")) as database:
        database.execute("UPDATE embeddings SET embedding_id = 'nobody' WHERE embedding_id = 'n24'")
        database.commit()
    problems = prober.ask("chroma", timeout=60, directory=str(copy))["problems"]
    assert problems
