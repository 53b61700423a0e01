"""What a recovery did: shown on the screen, and kept in a file."""

import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from backups.engine.cli.text import runnable as engine_runnable
from backups.engine.runtime import durable

from .locations import ROOT


class Report:
    """Lines on standard output and, once `keep` was called, in a file as well.

    A lost terminal or a full disk ends the output there, never the recovery.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._file: TextIO | None = None
        self._screen: TextIO | None = sys.stdout
        self._lines: list[str] = []

    def write(self, text: str = "") -> None:
        """Write *text* and a line end."""
        self._lines.append(text)
        if self._screen is not None:
            try:
                print(text, file=self._screen, flush=True)
            except OSError:
                self._screen = None
        self._write_to_file(text)

    def step(self, text: str) -> None:
        """Write the title of a step, with the time."""
        self.write(f"\n==> {datetime.now(UTC):%H:%M:%SZ} {text}")

    def keep(self, folder: Path) -> None:
        """Write everything so far, and what follows, into a new file in *folder* that only its owner may read."""
        if self.path is not None:
            return
        path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}.txt"
        try:
            durable.make_folder(folder)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._file = os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape")
        except OSError as problem:
            self.write(f"The report cannot be kept in a file: {problem}.")
            return
        self.path = path
        for line in self._lines:
            self._write_to_file(line)

    def close(self) -> None:
        """Close the file, and name it."""
        if self._file is not None:
            self.write(f"\nReport         {self.path}")
            if self._file is not None:
                self._file.close()

    def _write_to_file(self, text: str) -> None:
        if self._file is None:
            return
        try:
            self._file.write(f"{text}\n")
            self._file.flush()
        except OSError:
            self._file = None


def runnable(text: str, repository: Path | None) -> str:
    """*text* with the commands in it as they can be typed here."""
    script = f"{ROOT}/scripts/disaster_recovery.sh"
    text = text.replace("refbackup restore latest --in-place", f"{script} --latest")
    text = re.sub(r"refbackup restore [^`\n]*?(--finish|--undo)\b", rf"{script} \1", text)  # the script knows the stores
    return engine_runnable(text, f"{ROOT}/.venv/bin/refbackup", str(repository or ""))
