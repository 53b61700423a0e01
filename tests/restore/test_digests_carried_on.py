"""A digest that is carried on from the parent's, by what is new, is the one that reading everything gives."""

from __future__ import annotations

import random
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from backups.engine.chroma_files.digests import CollectionDigest, ParentDigest, digest_collections
from backups.engine.chroma_files.tables import Collection
from tests.restore.stores import DIMENSION, Chroma
from tests.restore.test_digests import act

pytestmark = pytest.mark.slow


def whole(directory: Path) -> dict[str, CollectionDigest]:
    found = {}
    for item in digest_collections(directory, {}):
        assert isinstance(item, CollectionDigest)
        found[item.collection.id] = item
    return found


def as_known(digest: CollectionDigest) -> ParentDigest:
    assert digest.indexed is not None
    names = {field.name for field in fields(ParentDigest)} - {"metadata_at", "vector_at"}
    place = digest.collection
    return ParentDigest(
        metadata_at=place.metadata_at, vector_at=place.vector_at, **{name: getattr(digest, name) for name in names}
    )


@pytest.mark.parametrize("seed", range(4))
def test_carried_digests_match_after_any_sequence_of_calls(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    live = tmp_path / "live"
    names = {f"{space}-{threshold}": (space, threshold) for space in ("l2", "cosine") for threshold in (3, 40)}
    carried = 0
    with Chroma(live) as chroma:
        for name, (space, threshold) in names.items():
            options = {"configuration": {"hnsw": {"space": space, "sync_threshold": threshold, "batch_size": 2}}}
            chroma.send("create", name, options=options)
            chroma.answer()
        known: dict[str, ParentDigest] = {}
        for turn in range(12):
            for _ in range(chosen.randint(0, 12)):
                act(chroma, chosen.choice(list(names)), chosen, [f"r{n}" for n in range(80)])
            for name in names:  # now and then nothing but new records, which is what carrying on is for
                fresh = [f"new-{turn}-{n}" for n in range(chosen.choice([0, 0, 4, 50]))]
                if fresh:
                    vectors = [[chosen.uniform(-1, 1) for _ in range(DIMENSION)] for _ in fresh]
                    act_add(chroma, name, fresh, vectors)
            copy = Path(shutil.copytree(live, tmp_path / f"copy-{turn}"))
            expected = whole(copy)
            for item in digest_collections(copy, known):
                place = item if isinstance(item, Collection) else item.collection
                wanted = expected[place.id]
                if isinstance(item, Collection):
                    before = known[place.id]
                    assert (before.records, before.indexed) == (wanted.records, wanted.indexed)
                else:
                    assert item == wanted
                    carried += 1
            known = {identifier: as_known(digest) for identifier, digest in expected.items()}
    assert carried > 10


def act_add(chroma: Chroma, name: str, ids: list[str], vectors: list[list[float]]) -> None:
    chroma.call(name, "add", ids=ids, embeddings=vectors, metadatas=[{"list": [1, 2], "a": "b"} for _ in ids])


def test_only_new_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above could pass by reading everything each time."""
    live = tmp_path / "live"
    with Chroma(live) as chroma:
        options = {"configuration": {"hnsw": {"sync_threshold": 10, "batch_size": 2}}}
        chroma.send("create", "many", options=options)
        chroma.answer()
        act_add(chroma, "many", [f"r{n}" for n in range(200)], [[n, 1.0, 2.0, 3.0] for n in range(200)])
        known = {identifier: as_known(digest) for identifier, digest in whole(live).items()}
        act_add(chroma, "many", [f"s{n}" for n in range(30)], [[n, 1.5, 2.0, 3.0] for n in range(30)])
        expected = whole(live)
        hashed = 0

        class Counting:
            def __init__(self, content: bytes) -> None:
                nonlocal hashed
                hashed += 1
                self._hash = real(content)

            def digest(self) -> bytes:
                return bytes(self._hash.digest())

        from backups.engine.chroma_files import digests

        real = digests.blake3
        monkeypatch.setattr(digests, "blake3", Counting)
        [found] = digest_collections(live, known)
        assert found == next(iter(expected.values()))
        assert hashed <= 2 * 30 + 30, "thirty records, their vectors, and the log after the index"
