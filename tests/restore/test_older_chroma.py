"""Directories that earlier versions of Chroma made, as they are after an upgrade: sound. One that 0.x works with is refused."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
import sys
import time
import types
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from backups.engine.check_stores import CLIENT_PROBER, PROBER
from backups.engine.chroma_files import id_table
from backups.engine.chroma_files.errors import BrokenIndex
from backups.engine.chroma_files.tables import find_collection, open_at_rest
from backups.engine.runtime.child import Child
from tests.restore.stores import Chroma, refbackup, vector

CLASS_MODULE = "chromadb.segment.impl.vector.local_persistent_hnsw"
OLD = {
    "space": "cosine", "ef_construction": 100, "ef_search": 100, "max_neighbors": 16, "resize_factor": 1.2,
    "sync_threshold": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("older") / "chroma"
    with Chroma(place) as chroma:
        chroma.create("notes", space="cosine", threshold=20)
        for first in (0, 20, 40):
            names = [f"n{n}" for n in range(first, min(first + 20, 45))]
            chroma.call("notes", "add", ids=names, embeddings=[vector(n) for n in names])
    return place


@pytest.fixture
def directory(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "chroma"))


def configure(directory: Path, config: object, metadata: dict[str, object] | None = None) -> None:
    """Store the settings of the collection as an earlier version did."""
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as database, database:
        database.execute("UPDATE collections SET schema_str = NULL, config_json_str = ?", (json.dumps(config),))
        for key, value in (metadata or {}).items():
            column = "str_value" if isinstance(value, str) else "int_value"
            (identifier,) = database.execute("SELECT id FROM collections").fetchone()
            database.execute(
                f"INSERT INTO collection_metadata (collection_id, key, {column}) VALUES (?, ?, ?)", (identifier, key, value)
            )


def pickle_as_object(directory: Path, name: str = "PersistentData") -> None:
    """Write the id table as 0.5 and 0.6 did: an object, whose texts are written once and referred to after that."""
    modules = {".".join(CLASS_MODULE.split(".")[: n + 1]): None for n in range(5)}
    made = type(name, (), {"__module__": CLASS_MODULE})
    kept = {part: sys.modules.get(part) for part in modules}
    try:
        for part in modules:
            sys.modules[part] = types.ModuleType(part)
        setattr(sys.modules[CLASS_MODULE], name, made)
        for table in directory.glob("*/index_metadata.pickle"):
            data = made()
            data.__dict__.update(pickle.loads(table.read_bytes()))  # noqa: S301 - the test's own file
            table.write_bytes(pickle.dumps(data, pickle.HIGHEST_PROTOCOL))
    finally:
        for part, module in kept.items():
            del sys.modules[part]
            if module is not None:
                sys.modules[part] = module


SETTINGS: dict[str, tuple[object, dict[str, object], tuple[str, int]]] = {
    "1.0 to 1.2": ({"vector_index": {"hnsw": OLD}, "embedding_function": {"type": "legacy"}}, {}, ("cosine", 20)),
    "flat": ({"hnsw": OLD}, {}, ("cosine", 20)),
    "0.x": (
        {"hnsw_configuration": {"space": "l2", "sync_threshold": 1000}},
        {"hnsw:space": "cosine", "hnsw:sync_threshold": 30},
        ("cosine", 30),
    ),
    "defaults and metadata": (
        {"vector_index": {"hnsw": OLD | {"space": "l2", "sync_threshold": 1000}}}, {"hnsw:space": "ip"}, ("ip", 1000),
    ),
    "nothing": ({}, {}, ("l2", 1000)),
}  # fmt: skip
"""What a version stored, in the configuration and in the metadata, and what that means."""


@pytest.mark.parametrize("version", SETTINGS)
def test_settings_are_read_where_each_version_keeps_them(directory: Path, version: str) -> None:
    config, metadata, meant = SETTINGS[version]
    configure(directory, config, metadata)
    with closing(open_at_rest(directory)) as database:
        collection = find_collection(database, "notes")
    assert collection is not None and (collection.space, collection.sync_threshold) == meant


def upgraded_from_1(directory: Path) -> None:
    configure(directory, SETTINGS["1.0 to 1.2"][0])


@pytest.mark.parametrize("age", [upgraded_from_1, pickle_as_object], ids=["1.0 to 1.2", "0.5 and 0.6"])
@pytest.mark.slow
def test_an_upgraded_directory_is_read_as_chroma_reads_it(directory: Path, age: Callable[[Path], None]) -> None:
    with Child(PROBER, only=directory) as prober, Child(CLIENT_PROBER) as client:
        before = prober.ask("digests", timeout=60, directory=str(directory))
        age(directory)
        assert prober.ask("digests", timeout=60, directory=str(directory)) == before
        assert client.ask("chroma", timeout=60, directory=str(directory))["problems"] == []


def test_an_object_of_another_class_is_refused(directory: Path) -> None:
    pickle_as_object(directory, "Persistent")
    (segment,) = (table.parent for table in directory.glob("*/index_metadata.pickle"))
    with pytest.raises(BrokenIndex, match=r"local_persistent_hnsw\.Persistent"):
        list(id_table.labels(segment))


def test_a_directory_in_use_by_0_x_is_refused_at_once(directory: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as database, database:
        database.execute("DELETE FROM migrations WHERE dir = 'metadb' AND version > 4")
    assert refbackup("init", "--repo", tmp_path / "repo", cwd=tmp_path).code == 0
    began = time.monotonic()
    ended = refbackup("create", "--repo", tmp_path / "repo", "--chroma", directory, "--json", cwd=tmp_path)
    assert ended.code == 6 and time.monotonic() - began < 15
    assert "chromadb 0.x" in ended.json["error"]["message"] and "Upgrade" in ended.json["error"]["hint"]
