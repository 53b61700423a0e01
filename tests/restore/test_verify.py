"""Proof by restoring: what is stored faithfully and is wrong all the same is found, recorded and shown."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backups.engine import check_stores, verify
from backups.engine.cli import main
from backups.engine.errors import Cancelled, NoSpace
from backups.engine.types import Depth, Source, SourceKind
from tests.restore.stores import Chroma, History, back_up, context, make_database, tree_of, vector, verified


def rewrite_manifest(history: History, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest and its checksum, as an attacker would."""
    path = history.place(number) / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    content = json.dumps(manifest).encode()
    path.write_bytes(content)
    sums = path.with_name("SHA256SUMS")
    data, _ = sums.read_text().splitlines()
    sums.write_text(f"{data}\n{hashlib.sha256(content).hexdigest()}  manifest.json\n")


def run(capsys: Any, *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main([*map(str, arguments), "--json", "--progress=none"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("number", [0, 3])
@pytest.mark.slow
def test_a_sound_backup_gets_a_proof_and_is_not_changed(mine: History, capsys: Any, number: int) -> None:
    before = {
        path: what for path, what in tree_of(mine.repository.folder).items() if path.startswith("backups") and what[0] == "file"
    }
    code, answer = run(capsys, "verify", mine.ids[number], "--depth=restore", "--repo", mine.repository.folder)
    assert code == 0 and answer["ok"]
    (result,) = answer["results"]
    assert result["problems"] == [] and result["checks"]["sqlite/app.sqlite3"]["integrity_check"] == "ok"
    assert set(result["checks"]["chroma/vectors"]["collections"]) == {"indexed", "logged"}
    after = tree_of(mine.repository.folder)
    assert {path: after[path] for path in before} == before
    assert not [*(mine.repository.folder / "scratch").iterdir()]
    code, answer = run(capsys, "list", "--repo", mine.repository.folder)
    item = next(item for item in answer["backups"] if item["id"] == mine.ids[number])
    assert item["verification"] == "restore" and item["verified_at"]


@pytest.mark.parametrize("digest", ["count", "indexed", "recent", "records"])
@pytest.mark.slow
def test_a_collection_that_differs_from_the_source_is_found(mine: History, capsys: Any, digest: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        (chroma,) = (source for source in manifest["sources"] if source["kind"] == "chroma")
        collection = next(item for item in chroma["collections"] if item["name"] == "indexed")
        held = collection["digest"]
        held[digest] = 7 if digest == "count" else "0" * 64

    rewrite_manifest(mine, 3, change)
    assert verified(mine.repository, mine.backup(3), "hashes").ok, "its bytes are unchanged"
    code, answer = run(capsys, "verify", mine.ids[3], "--depth=restore", "--repo", mine.repository.folder)
    assert code == 5
    (problem,) = answer["results"][0]["problems"]
    assert (problem["code"], problem["source"], problem["file"]) == ("chroma_content", "vectors", "chroma/vectors")
    assert "indexed" in problem["message"]
    code, answer = run(capsys, "show", mine.ids[3], "--repo", mine.repository.folder)
    assert answer["verification"] == "damaged" and answer["proofs"][-1]["ok"] is False
    main(["show", mine.ids[3], "--repo", str(mine.repository.folder)])
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "side"), [("missing", "backup"), ("another", "manifest")])
@pytest.mark.slow
def test_a_collection_that_only_backup_or_manifest_has_is_found(mine: History, change: str, side: str) -> None:
    def rewrite(manifest: dict[str, Any]) -> None:
        (chroma,) = (source for source in manifest["sources"] if source["kind"] == "chroma")
        if change == "missing":
            chroma["collections"].pop()
        else:
            chroma["collections"].append(chroma["collections"][0] | {"id": "another", "name": "another"})

    rewrite_manifest(mine, 0, rewrite)
    proof = verified(mine.repository, mine.backup(0), "restore")
    assert [problem.code for problem in proof.problems] == ["chroma_content"]
    assert f"only in the {side}" in proof.problems[0].message


def damage_pages(path: Path) -> None:
    """Write nonsense into pages of a table, as a dying disk does; the file still opens."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        for page in (40, 41, 60):
            file.seek(page * 4096)
            file.write(b"\xa5" * 2000)


def test_damaged_pages_of_the_source_are_attributed_to_it(mine: History, tmp_path: Path, capsys: Any) -> None:
    database = tmp_path / "app.sqlite3"
    make_database(database, 500)
    damage_pages(database)
    backup = back_up(mine.repository, (Source(kind=SourceKind.SQLITE, name="app", path=database),), set="sick")
    assert verified(mine.repository, backup, "hashes").ok
    code, answer = run(capsys, "verify", backup.id, "--depth=restore", "--set=sick", "--repo", mine.repository.folder)
    assert code == 5
    assert {problem["code"] for problem in answer["results"][0]["problems"]} == {"sqlite_integrity"}
    proof = mine.repository.load("sick", backup.id).proof
    assert proof is not None and proof.blames_source


@pytest.mark.slow
def test_a_broken_page_of_an_index_of_chroma_sqlite3_is_found(history: History, mine: History, tmp_path: Path) -> None:
    """Every filter query fails by it, and no record is read through it."""
    directory = tmp_path / "vectors"
    shutil.copytree(history.live.chroma, directory)
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as database:
        (root,) = database.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'embedding_metadata_string_value'"
        ).fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with (directory / "chroma.sqlite3").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * 200)
    backup = back_up(mine.repository, (Source(kind=SourceKind.CHROMA, name="vectors", path=directory),), set="odd")
    proof = verified(mine.repository, backup, "restore")
    assert {problem.code for problem in proof.problems} == {"chroma_structure"} and proof.blames_source
    assert {problem.file for problem in proof.problems} == {"chroma/vectors/chroma.sqlite3"}


@pytest.mark.slow
def test_a_chroma_that_its_client_cannot_open_is_found(mine: History, tmp_path: Path) -> None:
    """All its files can be read and fit each other; the client refuses tables that were changed behind its back."""
    directory = tmp_path / "vectors"
    with Chroma(directory) as chroma:
        chroma.create("things", threshold=5)
        chroma.call("things", "add", ids=[f"n{n}" for n in range(7)], embeddings=[vector(n) for n in range(7)])
    with closing(sqlite3.connect(directory / "chroma.sqlite3")) as database:
        database.execute("UPDATE migrations SET hash = 'another' WHERE dir = 'metadb' AND version = 2")
        database.commit()
    backup = back_up(mine.repository, (Source(kind=SourceKind.CHROMA, name="vectors", path=directory),), set="odd")
    assert not backup.damaged and verified(mine.repository, backup, "hashes").ok
    (problem,) = verified(mine.repository, backup, "restore").problems
    assert (problem.code, problem.source) == ("chroma_content", "vectors") and "cannot open" in problem.message


def test_a_prober_that_dies_or_hangs_is_a_finding(mine: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dying.py").write_text("import sys, os; sys.stdin.readline(); os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(check_stores, "PROBER", "dying")
    proof = verified(mine.repository, mine.backup(0), "restore")
    assert [problem.code for problem in proof.problems] == ["unopenable", "unopenable"]
    assert "SIGKILL" in proof.problems[0].message


def test_a_cancelled_verification_or_one_without_space_records_no_proof(mine: History, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = iter(range(1000))
    ctx = context(should_cancel=lambda: next(asked) > 5)
    with pytest.raises(Cancelled):
        verify.verify_backup(mine.repository, mine.backup(0), Depth.RESTORE, ctx)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(NoSpace):
        verify.verify_backup(mine.repository, mine.backup(0), Depth.RESTORE, context())
    assert mine.backup(0).proofs == () and not [*(mine.repository.folder / "scratch").glob("*")]


@pytest.mark.slow
def test_a_drill_is_recorded_with_its_timings(mine: History, capsys: Any) -> None:
    code, answer = run(capsys, "drill", mine.ids[1], "--repo", mine.repository.folder)
    assert code == 0 and answer["results"][0]["checks"]["restore_seconds"] > 0
    proof = mine.backup(1).proof
    assert proof is not None and proof.drill and proof.depth is Depth.RESTORE


def test_the_newest_proof_counts(mine: History) -> None:
    data = mine.place(3) / "data.tar.zst"
    content = data.read_bytes()
    assert verified(mine.repository, mine.backup(3), "hashes").ok
    data.write_bytes(content[:-1])
    assert not verified(mine.repository, mine.backup(3), "hashes").ok
    assert mine.backup(3).damaged and mine.backup(3).verification == "damaged"
    data.write_bytes(content)
    assert verified(mine.repository, mine.backup(3), "hashes").ok
    assert not mine.backup(3).damaged and len(mine.backup(3).proofs) == 3
