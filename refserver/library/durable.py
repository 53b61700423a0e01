"""Files that are either there, whole and on the disk, or not there."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def write(file: Path, content: bytes) -> None:
    """Put *content* under the name *file*: written beside it, synced, renamed, and the folder synced.

    A crash leaves at most a hidden `.tmp` file beside it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{uuid4().hex}.tmp")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
