"""Runs the recipe of `docs/how-to/back-up-your-application.md` with several versions of chromadb: ``make gate-versions``.

Each version is installed from the package index into an environment of its own, which takes too long for the suite. Two
processes use one directory through the recipe's class, while `refbackup` of this environment backs it up and restores it in
place; both must always see what was last written or restored. Name versions as arguments to try others.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.docs.pages import ROOT, blocks

VERSIONS = ("1.0.0", "1.3.0", "1.5.0", "1.5.9")
APPLICATION = """
import sys
from pathlib import Path
from vectors import Vectors

vectors = Vectors(Path(sys.argv[1]).resolve())
for line in sys.stdin:
    if line.strip() == "count":
        with vectors.reading() as client:
            print(client.get_collection("notes", embedding_function=None).count(), flush=True)
    else:
        with vectors.writing() as client:
            notes = client.get_or_create_collection("notes", embedding_function=None)
            notes.add(ids=[line.strip()], embeddings=[[1.0, 2.0, 3.0]])
            print(notes.count(), flush=True)
"""


def install(version: str, folder: Path) -> Path:
    """The interpreter of a new environment with that version of chromadb. Exits with 1 if the index cannot be reached."""
    uv = [sys.executable, "-m", "uv"]
    python = folder / "bin/python"
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    done = subprocess.run([*uv, "pip", "install", "--quiet", "--python", str(python), f"chromadb=={version}"], check=False)
    if done.returncode:
        sys.exit(f"chromadb {version} cannot be installed from the package index, so nothing was tried with it.")
    return python


@contextlib.contextmanager
def application(python: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "ANONYMIZED_TELEMETRY": "False"}
    arguments = [str(python), str(folder / "application.py"), str(folder / "chroma")]
    with subprocess.Popen(
        arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def ask(process: subprocess.Popen[str], line: str) -> int:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(line + "\n")
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"the application ended at {line!r} with status {process.wait()}")
    return int(answer)


def refbackup(folder: Path, *arguments: str) -> None:
    where = ["--repo", str(folder / "repository")]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BACKUP_")}
    command = [sys.executable, "-m", "backups.engine", *arguments, *where]
    subprocess.run(command, cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)}, check=True, stdout=subprocess.DEVNULL)


def play(python: Path, folder: Path) -> None:
    """Write, back up, write, restore in place, write: with both processes open all the time."""
    page = ROOT / "docs/how-to/back-up-your-application.md"
    (recipe,) = [block.text for block in blocks(page) if block.marker == "file: vectors.py"]
    (folder / "vectors.py").write_text(recipe)
    (folder / "application.py").write_text(APPLICATION)
    refbackup(folder, "init")
    with application(python, folder) as one, application(python, folder) as other:

        def both(expected: int) -> None:
            seen = ask(one, "count"), ask(other, "count")
            if seen != (expected, expected):
                sys.exit(f"the two processes see {seen} records instead of {expected}")

        ask(one, "first")
        ask(other, "second")
        both(2)
        refbackup(folder, "create", "--progress", "none", "--chroma", str(folder / "chroma"))
        ask(one, "third")
        both(3)
        refbackup(folder, "restore", "latest", "--progress", "none", "--in-place", "--yes")
        both(2)
        ask(other, "fourth")
        both(3)


def main() -> None:
    """Try each version; the first that fails ends the run."""
    for version in sys.argv[1:] or VERSIONS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            play(install(version, folder / "environment"), folder)
        print(f"chromadb {version}: right, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
