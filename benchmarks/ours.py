"""Ours: the ``refbackup`` command, driven as anyone would, in a child process."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from .measure import CommandFailed, Cost, run, size_of

NAME = "refbackup"

_ROOT = Path(__file__).parent.parent
_SETTINGS = ("BACKUP_REPOSITORY", "REFSERVER_DATABASE", "CHROMA_PATH", "REFSERVER_FILES")


class Ours:
    """A repository of ours in *folder*, which is emptied; see `peers.Contestant`."""

    def __init__(self, folder: Path, *, watch_memory: bool = False) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder = folder
        self._watch_memory = watch_memory
        self.repository = folder / "repository"
        self.prepare()

    def prepare(self) -> None:
        """Make an empty repository."""
        self.call("init")

    def backup(self, source: Path, *, read_all: bool = False) -> Cost:
        """Make an incremental backup, a full one if it is the first.

        *read_all* is for the caller to bring about, with a new mtime.
        """
        return self.create(source)

    def create(self, *sources: Path, kind: str = "incremental") -> Cost:
        """Back up SQLite files and Chroma directories, without verifying."""
        options = []
        for source in sources:
            options += ["--chroma" if source.is_dir() else "--sqlite", str(source)]
        return self.call("create", "--kind", kind, *options, "--no-verify")

    def restore(self, into: Path) -> Cost:
        """Restore the newest backup below *into*."""
        return self.call("restore", "latest", "--to", str(into))

    def verify(self) -> Cost:
        """Check every stored byte of all backups against its hash."""
        return self.call("verify", "--all", "--depth", "hashes")

    def list(self) -> Cost:
        """List all backups."""
        return self.call("list")

    def stored(self) -> int:
        """The bytes of the repository."""
        return size_of(self.repository)

    def bookkeeping(self, backup_id: str) -> int | None:
        """The bytes of a backup that are no content: all files but the archive, and the archive's table."""
        folders = list(self.repository.glob(f"backups/*/{backup_id}"))
        if len(folders) != 1:
            return None
        manifest = json.loads((folders[0] / "manifest.json").read_text())
        table = manifest.get("data", {}).get("table_bytes", 0)
        return size_of(folders[0]) - size_of(folders[0] / "data.tar.zst") + int(table)

    def call(self, command: str, *arguments: str) -> Cost:
        """Run a command of ``refbackup`` with ``--json``. Raises `CommandFailed`."""
        return run(
            [
                *(sys.executable, "-m", "backups.engine", command, *arguments),
                *("--repo", str(self.repository), "--json"),
            ],
            cwd=self._folder,
            env={"PYTHONPATH": str(_ROOT), **dict.fromkeys(_SETTINGS)},
            watch_memory=self._watch_memory,
        )


def report(cost: Cost) -> dict[str, Any]:
    """The JSON object that a command printed; raises `CommandFailed` if it printed none."""
    try:
        found: dict[str, Any] = json.loads(cost.output)
    except ValueError as error:
        raise CommandFailed([NAME], 0, f"no JSON object: {cost.output[:200]}") from error
    return found


def start_up() -> Cost | None:
    """What the command costs when it does nothing, None while it does not run at all."""
    try:
        return run([sys.executable, "-m", "backups.engine", "--help"], cwd=_ROOT)
    except CommandFailed:
        return None
