"""The commands in the documents work: those of each document run as one session beside a small application."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, Block, blocks, documents, name

NEEDED = ("bash", "sqlite3", "zstd", "tar", "sha256sum")
SECRET = re.compile(r"(BACKUP|REFSERVER|CHROMA|DJANGO)_")


def session(page: Path) -> list[Block]:
    """The blocks of a document that take part in its session."""
    return [block for block in blocks(page) if block.marker in ("run", "setup") or block.marker.startswith("file: ")]


def script(parts: list[Block]) -> str:
    """One script of all blocks. It says before each which line of the document it has come to."""
    lines = ["set -euo pipefail"]
    for block in parts:
        lines.append(f"echo '=== line {block.line}' >&2")
        if block.marker.startswith("file: "):
            lines += [f"cat > {block.marker.removeprefix('file: ')} <<'END_OF_FILE'", block.text + "END_OF_FILE"]
        else:
            lines.append(block.text)
    return "\n".join(lines)


@pytest.mark.parametrize("page", [page for page in documents() if session(page)], ids=name)
def test_the_commands_of_a_document_run(page: Path, planted: Path, tmp_path: Path) -> None:
    missing = [program for program in NEEDED if not shutil.which(program)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    shutil.copytree(planted, tmp_path / "app")
    (tmp_path / "var").mkdir()
    shutil.copytree(planted, tmp_path / "var" / "data")
    (tmp_path / "var" / "data" / "app.sqlite3").rename(tmp_path / "var" / "data" / "refserver.sqlite3")
    (tmp_path / "var" / "data" / "uploads").rename(tmp_path / "var" / "data" / "documents")
    environment = {key: value for key, value in os.environ.items() if not SECRET.match(key)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PROJECT"] = str(ROOT)
    done = subprocess.run(
        ["bash", "-c", script(session(page))],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{name(page)} failed after its last line below:\n{done.stderr}\n{done.stdout}"


def test_all_shell_in_the_documents_parses() -> None:
    for page in documents():
        for block in blocks(page):
            if block.language == "sh":
                done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{name(page)}:{block.line}: {done.stderr}"
