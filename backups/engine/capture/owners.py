"""Which processes have a file open, so that an error can name them. Linux only; elsewhere none are found."""

from __future__ import annotations

import os
from pathlib import Path


def owners(path: Path, *, parent: bool = False) -> str:
    """The processes that have *path* open: ``"process 123 (gunicorn), process 456 (python3)"``; may be empty.

    Without this process, and without its parent, which for a child of the engine is the engine, unless *parent* is true.
    """
    try:
        wanted = path.stat()
    except OSError:
        return ""
    own = {os.getpid()} if parent else {os.getpid(), os.getppid()}
    found = []
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        if int(process.name) in own:
            continue
        if _has_open(process, wanted):
            try:
                name = (process / "comm").read_text().strip()
            except OSError:
                continue
            found.append(f"process {process.name} ({name})")
    return ", ".join(found)


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            open_file = descriptor.stat()
        except OSError:
            continue
        if (open_file.st_dev, open_file.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False
