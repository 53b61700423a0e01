"""The commands in the documents work: those of each document run one after the other beside a small application."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, documents, name

pytestmark = pytest.mark.slow

NEEDED = ("bash", "sqlite3", "zstd", "tar", "sha256sum")
SETTINGS = re.compile(r"(BACKUP|REFSERVER|CHROMA|DJANGO)_")
Done = subprocess.CompletedProcess[str]


def runnable(page: Path) -> list[Block]:
    """The blocks of a document that are run."""
    return [block for block in blocks(page) if re.match(r"(run|run, twice|run, any status|setup|file: .+)$", block.marker)]


# DISASTER_RECOVERY.md is run part by part, each on a disaster of its own: tests/recovery/test_document.py
PAGES = [page for page in documents() if runnable(page) and page.name != "DISASTER_RECOVERY.md"]


def script(parts: list[Block]) -> str:
    """One script of all blocks. It says before each which line of the document it has come to."""
    lines = ["set -euo pipefail"]
    for block in parts:
        lines.append(f"echo '=== line {block.line}' >&2")
        if block.marker.startswith("file: "):
            lines += [f"cat > {block.marker.removeprefix('file: ')} <<'END_OF_FILE'", block.text + "END_OF_FILE"]
        elif block.marker == "run, any status":
            lines += ["set +e", block.text, "set -e"]
        else:
            lines += [block.text] * (2 if block.marker == "run, twice" else 1)
    return "\n".join(lines)


def run(page: Path, planted: Path, folder: Path) -> Done:
    """Run a document in *folder*: the application is in ``app/``, and again in ``var/data/`` with RefServer's names."""
    shutil.copytree(planted, folder / "app")
    data = shutil.copytree(planted, folder / "var" / "data")
    (data / "app.sqlite3").rename(data / "refserver.sqlite3")
    (data / "uploads").rename(data / "documents")
    environment = {key: value for key, value in os.environ.items() if not SETTINGS.match(key)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PROJECT"] = str(ROOT)
    return subprocess.run(
        ["bash", "-c", script(runnable(page))],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def runs(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Path, Future[Done]]]:
    """The runs of all documents, two at a time."""
    folders = {page: tmp_path_factory.mktemp(page.stem) for page in PAGES}
    pool = ThreadPoolExecutor(2)
    yield {page: pool.submit(run, page, planted, folder) for page, folder in folders.items()}
    pool.shutdown(cancel_futures=True)


@pytest.mark.skipif(not all(map(shutil.which, NEEDED)), reason=f"needs {', '.join(NEEDED)}")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_commands_of_a_document_run(page: Path, runs: dict[Path, Future[Done]]) -> None:
    done = runs[page].result()
    assert done.returncode == 0, f"{name(page)} failed after its last line below:\n{done.stderr}\n{done.stdout}"


def test_all_shell_in_the_documents_parses() -> None:
    for page in documents():
        for block in blocks(page):
            if block.language == "sh":
                done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{name(page)}:{block.line}: {done.stderr}"
