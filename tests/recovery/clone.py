"""A copy of the project as on an operator's machine: environment, real stores, a repository, and no settings."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")
KEPT = ("backups", "backups_consistency", "consistency", "refserver", "scripts", "docs", "templates")

State = tuple[int, int, int]
"""The number of papers in SQLite, records in Chroma, and documents in the folder; each added document changes all three."""

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Clone:
    """The copy in *root*; its stores are where a fresh clone has them."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "var" / "data" / "refserver.sqlite3"

    @property
    def chroma(self) -> Path:
        return self.root / "var" / "data" / "chroma"

    @property
    def files(self) -> Path:
        return self.root / "var" / "data" / "documents"

    @property
    def repository(self) -> Path:
        return self.root / "var" / "backups"

    @property
    def stores(self) -> list[str]:
        return [
            *("--sqlite", f"refserver={self.database}", "--chroma", f"chroma={self.chroma}"),
            *("--files", f"documents={self.files}"),
        ]

    def state(self) -> State:
        with (
            closing(sqlite3.connect(self.database)) as rows,
            closing(sqlite3.connect(self.chroma / "chroma.sqlite3")) as vectors,
        ):
            return (
                rows.execute("SELECT count(*) FROM library_paper").fetchone()[0],
                vectors.execute("SELECT count(*) FROM embeddings").fetchone()[0],
                sum(1 for path in self.files.rglob("*") if path.is_file()),
            )

    def environment(self, **more: str) -> dict[str, str]:
        """Almost empty, as after a login on a new machine."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.root), "REFSERVER_OPEN_LIBRARY": "yes"} | more

    def run(self, *command: str | Path, timeout: float = 120, **more: str) -> Done:
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.root,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def recover(self, *arguments: str | Path, **more: str) -> Done:
        """``scripts/disaster_recovery.sh``, without a terminal."""
        return self.run("scripts/disaster_recovery.sh", *arguments, **more)

    def check(self, *arguments: str | Path, **more: str) -> Done:
        """``scripts/check_backups.sh``."""
        return self.run("scripts/check_backups.sh", *arguments, **more)

    def refbackup(self, *arguments: str | Path) -> Done:
        done = self.run(".venv/bin/python", "-m", "backups.engine", *arguments)
        assert done.returncode == 0, done.stderr
        return done

    def ids(self) -> list[str]:
        """The backups, newest first."""
        return sorted((path.name for path in (self.repository / "backups" / "default").iterdir()), reverse=True)

    def report(self) -> str:
        """The newest report."""
        return max((self.root / "var" / "recovery").glob("*.txt")).read_text()


def copy_project(target: Path) -> Path:
    """The project's files, with the environment that runs the tests as ``.venv``."""
    for name in KEPT:
        shutil.copytree(ROOT / name, target / name, ignore=LEFT_OUT)
    for name in ("manage.py", "pyproject.toml", "README.md", "requirements.lock", "DISASTER_RECOVERY.md"):
        shutil.copy2(ROOT / name, target / name)
    (target / ".venv").symlink_to(sys.prefix)
    return target


def copy_of(template: Clone, target: Path) -> Clone:
    """A copy of a clone, to be broken."""
    shutil.copytree(template.root, target, symlinks=True)
    return Clone(target)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
