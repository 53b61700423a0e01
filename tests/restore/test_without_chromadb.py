"""Where chromadb is not installed: a proof says that no client opened Chroma, and no display of it claims more."""

from __future__ import annotations

from pathlib import Path

import pytest

from backups.admin import outcome
from backups.models import Job
from tests.restore.stores import ROOT, History, refbackup

WHY = "no client opened it: chromadb is not installed here"
SAID = f"chroma/vectors: its records were compared from its files, but {WHY}"


@pytest.fixture
def hidden(tmp_path: Path) -> str:
    """A PYTHONPATH on which ``import chromadb`` fails as it does where it is not installed."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "chromadb.py").write_text("raise ModuleNotFoundError('No module named chromadb')\n")
    return f"{folder}:{ROOT}"


@pytest.mark.slow
def test_a_restore_without_the_client_claims_no_more_than_was_done(mine: History, tmp_path: Path, hidden: str) -> None:
    repo = f"--repo={mine.folder / 'repository'}"
    done = refbackup("verify", repo, "--depth=restore", "--json", cwd=tmp_path, PYTHONPATH=hidden)
    (proof,) = done.json["results"]
    assert (done.code, proof["ok"], proof["depth"]) == (0, True, "restore")
    checks = proof["checks"]["chroma/vectors"]
    assert checks["chromadb"] is None
    assert {name: item["count"] for name, item in checks["collections"].items()} == {"indexed": 445, "logged": 445}
    text = refbackup("verify", repo, "--depth=restore", cwd=tmp_path, PYTHONPATH=hidden).out
    assert f"NOT CHECKED {SAID}" in text
    listed, shown = (refbackup(command, repo, *more, cwd=tmp_path) for command, more in (("list", ()), ("show", ("latest",))))
    assert "restore (partly)" in listed.out and f"NOT CHECKED {SAID}" in shown.out
    assert refbackup("list", repo, "--json", cwd=tmp_path).json["backups"][0]["unchecked"] == [SAID]
    (store,) = [
        store
        for store in outcome.result(Job(kind="verify", result=done.json)).found["results"][0]["stores"]
        if store.name == "vectors"
    ]
    assert store.checks == f"records compared, but {WHY}"


@pytest.mark.slow
def test_a_proof_with_the_client_replaces_one_without(mine: History, tmp_path: Path, hidden: str) -> None:
    repo = f"--repo={mine.folder / 'repository'}"
    refbackup("verify", repo, "--depth=restore", cwd=tmp_path, PYTHONPATH=hidden)
    assert refbackup("verify", repo, "--depth=restore", cwd=tmp_path).code == 0
    assert "restore (partly)" not in refbackup("list", repo, cwd=tmp_path).out
    assert "NOT CHECKED" not in refbackup("show", "latest", repo, cwd=tmp_path).out
