"""The wheel: what it brings, and what it leaves alone beside an application."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import zipfile
from contextlib import closing
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.docs.conftest import planted
from tests.packaging.environments import build, clean, freeze, install, link_closure, new_environment, run_readme

__all__ = ["planted"]
pytestmark = pytest.mark.slow

NEEDED = {"blake3", "cryptography", "numpy", "pydantic", "python-dotenv", "rich", "zstandard"}
OLD = "1.0.20"
WRITE = """
import sys, chromadb
client = chromadb.PersistentClient(sys.argv[1], settings=chromadb.config.Settings(anonymized_telemetry=False))
notes = client.get_or_create_collection("notes", embedding_function=None)
ids = [f"n{n}" for n in range(50)]
notes.upsert(ids=ids, embeddings=[[n, 1.0, 2.0] for n in range(50)], documents=ids)
print(chromadb.__version__, notes.count(), notes.query(query_embeddings=[[3.0, 1.0, 2.0]], n_results=1)["ids"][0][0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and what it needs, and nothing else."""
    python = new_environment(tmp_path_factory.mktemp("bare") / "venv")
    link_closure(python, NEEDED)
    done = install(python, "--no-deps", "--offline", str(wheel))
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an application that uses an older chromadb."""
    python = new_environment(tmp_path_factory.mktemp("application") / "venv")
    if install(python, f"chromadb=={OLD}").returncode:
        pytest.skip("this machine reaches no package index")
    return python


def migrations(directory: Path) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{directory}/chroma.sqlite3?mode=ro", uri=True)) as database:
        return dict(database.execute("SELECT dir, max(version) FROM migrations GROUP BY dir"))


def test_the_wheel_needs_seven_packages(wheel: Path, bare: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (place,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        about = message_from_bytes(archive.read(place))
    wanted = [Requirement(line) for line in about.get_all("Requires-Dist", [])]
    assert {one.name for one in wanted if one.marker is None} == NEEDED
    assert {"chroma", "django", "hosts", "refserver"} <= set(about.get_all("Provides-Extra", []))
    (chroma,) = (one for one in wanted if one.marker is not None and one.marker.evaluate({"extra": "chroma"}))
    assert chroma.name == "chromadb" and OLD in chroma.specifier and "2.0" in chroma.specifier  # whichever is there stays
    assert not {"django", "chromadb", "chromadb-client"} & freeze(bare).keys()


def test_the_readme_runs_from_a_bare_environment(bare: Path, planted: Path, tmp_path: Path) -> None:
    said = run_readme(bare, planted, tmp_path)
    assert "proof: restore (partly)" in said
    assert "NOT CHECKED chroma/chroma: " in said and "no client opened it: chromadb is not installed here" in said


def test_an_application_keeps_its_chromadb(wheel: Path, application: Path, planted: Path, tmp_path: Path) -> None:
    """Installed into its environment, which the README advises against, the wheel adds packages and changes none."""
    before = freeze(application)
    assert before["chromadb"] == OLD
    done = install(application, f"{wheel}[chroma]")
    assert done.returncode == 0, done.stderr
    assert before.items() <= freeze(application).items()


def test_data_of_an_older_chromadb_is_proven_by_it(bare: Path, application: Path, planted: Path, tmp_path: Path) -> None:
    """`refbackup` in an environment of its own backs up what the application's chromadb wrote, and changes nothing of it."""
    vectors = tmp_path / "vectors"

    def write(directory: Path) -> str:
        done = subprocess.run([application, "-c", WRITE, directory], capture_output=True, text=True, check=True, cwd=tmp_path)
        return done.stdout.strip()

    def refbackup(*arguments: str | Path) -> dict:
        command = [bare.with_name("refbackup"), *arguments, "--repo", tmp_path / "repository", "--json", "--progress", "none"]
        environment = clean(bare, BACKUP_CHROMA_PYTHON=str(application))
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    assert write(vectors) == f"{OLD} 50 n3"
    before = migrations(vectors)
    refbackup("init")
    made = refbackup("create", "--chroma", vectors)
    assert (made["verification"], made["unchecked"]) == ("restore", [])
    proof = refbackup("show", "latest")["proofs"][-1]
    assert proof["checks"]["chroma/vectors"]["chromadb"] == OLD
    assert migrations(vectors) == before, "the live directory is as the application left it"
    refbackup("restore", "latest", "--to", tmp_path / "restored")
    assert migrations(tmp_path / "restored/chroma/vectors") == before and write(tmp_path / "restored/chroma/vectors")

    # A directory of a later version, which that client cannot open, is not damaged because of it
    made = refbackup("create", "--set", "later", "--chroma", planted / "chroma")
    assert made["verification"] == "restore" and made["problems"] == []
    assert re.fullmatch(rf"chroma/chroma: .*: chromadb {OLD} is older than the one that wrote it", made["unchecked"][0])
