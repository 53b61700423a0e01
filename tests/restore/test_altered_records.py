"""Digests tell what a backup holds, and that records differ from the parent's although Chroma has not written them."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backups.engine.chroma_files.digests import CollectionDigest, ParentDigest, digest_collections
from backups.engine.chroma_files.hnsw import read_header
from backups.engine.create import Request, create_backup
from backups.engine.repository.folder import initialise
from backups.engine.runtime.context import Context
from backups.engine.types import Backup, BackupKind, Depth, Source, SourceKind
from tests.restore.stores import DIMENSION, Chroma, refbackup
from tests.restore.test_digests import act


def digests(directory: Path, parents: dict[str, ParentDigest], *, carry_on: bool = False) -> dict[str, CollectionDigest]:
    return {item.collection.id: item for item in digest_collections(directory, parents, carry_on=carry_on)}


def as_known(digest: CollectionDigest) -> ParentDigest:
    assert digest.indexed is not None
    names = {field.name for field in fields(ParentDigest)} - {"metadata_at", "vector_at"}
    place = digest.collection
    return ParentDigest(
        metadata_at=place.metadata_at, vector_at=place.vector_at, **{name: getattr(digest, name) for name in names}
    )


def add(chroma: Chroma, name: str, ids: list[str], chosen: random.Random) -> None:
    vectors = [[chosen.uniform(-1, 1) for _ in range(DIMENSION)] for _ in ids]
    chroma.call(name, "add", ids=ids, embeddings=vectors, metadatas=[{"list": [1, 2], "a": "b"} for _ in ids])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_chroma_writes_counts_as_altered_and_digests_carried_on_are_the_same(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    live = tmp_path / "live"
    names = {f"{space}-{threshold}": (space, threshold) for space in ("l2", "cosine") for threshold in (3, 40)}
    with Chroma(live) as chroma:
        for name, (space, threshold) in names.items():
            chroma.create(name, space=space, threshold=threshold, hnsw={"batch_size": 2})
        known: dict[str, ParentDigest] = {}
        for turn in range(12):
            for _ in range(chosen.randint(0, 12)):
                act(chroma, chosen.choice(list(names)), chosen, [f"r{n}" for n in range(80)])
            for name in names:
                if fresh := [f"new-{turn}-{n}" for n in range(chosen.choice([0, 0, 4, 50]))]:
                    add(chroma, name, fresh, chosen)
            copy = Path(shutil.copytree(live, tmp_path / f"copy-{turn}"))
            expected = digests(copy, {})
            assert digests(copy, known) == expected
            assert digests(copy, known, carry_on=True) == expected
            known = {identifier: as_known(digest) for identifier, digest in expected.items()}


@pytest.fixture
def live(tmp_path: Path) -> Path:
    """Forty records, thirty of them in the index."""
    place = tmp_path / "vectors"
    with Chroma(place) as chroma:
        chroma.create("notes", threshold=30, hnsw={"batch_size": 2})
        add(chroma, "notes", [f"r{n}" for n in range(30)], random.Random(1))
        add(chroma, "notes", [f"s{n}" for n in range(10)], random.Random(2))
    return place


def edit_a_value(place: Path) -> None:
    with closing(sqlite3.connect(place / "chroma.sqlite3")) as database, database:
        database.execute("UPDATE embedding_metadata SET string_value = 'edited' WHERE id = 3 AND key = 'a'")


def flip_a_vector(place: Path) -> None:
    segment = next(place.glob("*/header.bin")).parent
    header = read_header(segment)
    assert header is not None
    with (segment / "data_level0.bin").open("r+b") as file:
        file.seek(4 * header.size_per_element + header.vector_offset)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


ALTERATIONS = [edit_a_value, flip_a_vector]


@pytest.mark.slow
@pytest.mark.parametrize("alter", ALTERATIONS)
@pytest.mark.parametrize("writes", [0, 5, 40])
def test_records_altered_behind_chromas_back_are_digested_as_they_are(
    live: Path, alter: Callable[[Path], None], writes: int
) -> None:
    known = {identifier: as_known(digest) for identifier, digest in digests(live, {}).items()}
    alter(live)
    if writes:
        with Chroma(live) as chroma:
            add(chroma, "notes", [f"t{n}" for n in range(writes)], random.Random(3))
    (found,) = digests(live, known).values()
    (whole,) = digests(live, {}).values()
    assert found.altered and not whole.altered
    assert replace(found, altered=False) == whole


@pytest.mark.slow
@pytest.mark.parametrize("alter", ALTERATIONS)
def test_altered_records_make_at_most_one_backup_damaged_and_the_next_says_so(
    live: Path, tmp_path: Path, alter: Callable[[Path], None]
) -> None:
    repository = initialise(tmp_path / "repository", datetime.now(UTC))
    source = Source(kind=SourceKind.CHROMA, name="vectors", path=live)

    def backup(kind: BackupKind, *, safety: bool = False) -> Backup:
        time.sleep(0.02)
        request = Request(sources=(source,), kind=kind, verify=Depth.RESTORE, safety=safety)
        return create_backup(repository, request, Context()).backup

    first = backup(BackupKind.FULL)
    alter(live)
    safety = backup(BackupKind.INCREMENTAL, safety=True)
    made = backup(BackupKind.INCREMENTAL)
    if alter is edit_a_value:  # the digest carried on is wrong, which makes the next backup read everything
        assert made.verification == "damaged"
        made = backup(BackupKind.INCREMENTAL)
    for one in (safety, made):
        assert (one.manifest.parent, one.verification) == (first.id, "restore")
        assert [line for line in one.manifest.log if line.startswith("ALTERED chroma/vectors: records of notes differ")]
    target = tmp_path / "restored"
    assert refbackup("restore", made.id, "--repo", repository.folder, "--to", target, cwd=tmp_path).code == 0
    assert digests(target / "chroma/vectors", {}) == digests(live, {})
    again = backup(BackupKind.INCREMENTAL)
    assert not [line for line in again.manifest.log if line.startswith("ALTERED")], "said once"
