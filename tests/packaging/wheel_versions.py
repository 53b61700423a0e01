"""Runs the README's commands from the wheel with each Python from 3.11 that is installed here: ``make wheel-versions``.

The packages come from the package index, which takes too long for the suite. Name versions or interpreters as
arguments to try others.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.docs.conftest import plant
from tests.packaging.environments import UV, build, install, new_environment, run_readme

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = ("", "[chroma]", "[django]", "[chroma,django,hosts]", "[refserver,hosts]")


def find(version: str) -> str:
    """The interpreter of that version, or at that path; "" if there is none here."""
    done = subprocess.run(
        [*UV, "python", "find", "--no-python-downloads", version], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wheel-versions.") as name:
        folder = Path(name)
        wheel = build(folder)
        for version in sys.argv[1:] or VERSIONS:
            place = folder / version.strip("/").replace("/", "-")
            place.mkdir()
            if not (found := find(version)):
                print(f"Python {version}: there is none here, so nothing was tried")
                continue
            for number, extra in enumerate(EXTRAS):
                python = new_environment(place / f"with-{number}", found)
                done = install(python, f"{wheel}{extra}")
                if done.returncode:
                    sys.exit(f"Python {version}: refserver-backups{extra} cannot be installed:\n{done.stderr}")
                if extra in ("", "[chroma]"):
                    (place / f"app-{number}").mkdir()
                    plant(place / f"planted-{number}", sys.executable)
                    said = run_readme(python, place / f"planted-{number}", place / f"app-{number}")
                    if ("restore (partly)" in said) == bool(extra):
                        sys.exit(f"Python {version}, refserver-backups{extra}:\n{said}")
            print(f"Python {version}: installed with each extra, and the README's commands ran")


if __name__ == "__main__":
    main()
