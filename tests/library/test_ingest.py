"""`manage.py ingest`: each file is reported, a failure does not stop the others, and sets the exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from refserver.library.models import PageEmbedding, Paper
from refserver.library.search import search
from tests.library.pdf import encrypted, make_pdf


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with good, broken, hidden and foreign files."""
    root = tmp_path / "documents"
    (root / "deep" / ".git").mkdir(parents=True)
    (root / "whales.pdf").write_bytes(make_pdf("Whales sing", "They dive", title="On Whales"))
    (root / "deep" / "bees.md").write_text("# Bees\n\nBees dance to tell where flowers are.")
    (root / "deep" / "same.md").write_text("# Bees\n\nBees dance to tell where flowers are.")
    (root / "deep" / ".git" / "config.txt").write_text("hidden")
    (root / ".hidden.txt").write_text("hidden")
    (root / "picture.png").write_bytes(b"\x89PNG")
    (root / "broken.pdf").write_bytes(b"%PDF-1.4 torn")
    (root / "locked.pdf").write_bytes(encrypted(make_pdf("x"), "secret"))
    (root / "empty.txt").touch()
    (root / "elsewhere.txt").symlink_to("/etc/hostname")
    return root


@pytest.mark.slow
def test_a_folder_is_read_and_every_file_reported(library, folder):
    result = library.manage("ingest", folder, folder / "no-such.txt", "--json")
    assert result.returncode == 1
    summary = json.loads(result.stdout)
    assert {name: summary[name] for name in ("added", "duplicate", "skipped", "failed")} == {
        "added": 2,
        "duplicate": 1,
        "skipped": 1,
        "failed": 4,
    }
    outcomes = {Path(entry["path"]).name: (entry["outcome"], entry["reason"]) for entry in summary["results"]}
    assert outcomes["same.md"] == (
        "duplicate",
        "the library already has this document: “Bees” (paper 2)",
    ) or (outcomes["bees.md"][0] == "duplicate")
    assert "encrypted" in outcomes["locked.pdf"][1]
    assert outcomes["empty.txt"] == ("failed", "it is empty")
    assert outcomes["no-such.txt"] == ("failed", "it cannot be read: No such file or directory")
    assert not {"config.txt", ".hidden.txt", "elsewhere.txt"} & outcomes.keys()
    assert len(result.stderr.splitlines()) == 8
    # this process searches what the other one ingested
    assert [hit.paper.title for hit in search("dancing bees", 5)] == ["Bees"]
    assert [(hit.paper.title, hit.page) for hit in search("dive", 5)] == [("On Whales", 2)]


@pytest.mark.slow
def test_success_is_exit_code_0_and_a_second_run_finds_duplicates(library, folder):
    for outcome in ("added", "duplicate"):
        result = library.manage("ingest", folder / "whales.pdf")
        assert (result.returncode, f"1 {outcome}" in result.stdout) == (0, True), result.stderr
    assert (Paper.objects.count(), PageEmbedding.objects.count()) == (1, 2)


@pytest.mark.slow
def test_a_missing_model_is_a_clear_error(library, folder, tmp_path):
    (tmp_path / "home").mkdir()
    environment = {"REFSERVER_EMBEDDING": "chroma", "HOME": str(tmp_path / "home")}
    result = subprocess.run(
        [sys.executable, "manage.py", "ingest", str(folder / "whales.pdf")],
        env=library.environment | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "set REFSERVER_EMBEDDING=hashing" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "home").rglob("*.gz"))
