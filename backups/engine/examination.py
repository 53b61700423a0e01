"""What the application itself says of its restored stores: its own command, run on the scratch copy of a proof.

The command prints one JSON object, such as ``{"state": "consistent", "findings": 0, "kinds": {}, "listed": []}``, which the
proof keeps as it is. A backup is proven against its source byte by byte, so whatever the command finds was in the source at
that instant: it makes no backup damaged.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .runtime.context import Context
from .types import Backup

SECONDS = 900.0
"""How long the command may take."""

FOLDER, INSTANT = "{folder}", "{instant}"
"""Words of the command that stand for the folder of the restored stores, and for the backup's instant in ISO 8601."""

_LONGEST_ANSWER = 1 << 20
_LONGEST_WORDS = 500


def examine(command: str, backup: Backup, folder: Path, ctx: Context) -> dict[str, Any]:
    """Run *command*, without a shell, on the stores in *folder*: ``{"status", "seconds", "answer"}``.

    ``answer`` is None where it gave none, and ``said`` then tells what it wrote instead, or why it could not be run. Raises
    `Cancelled`; the command's processes are gone then.
    """
    known = {FOLDER: str(folder), INSTANT: backup.manifest.time.isoformat()}
    words = [known.get(word, word) for word in shlex.split(command)]
    began = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        except OSError as problem:
            return {"status": None, "seconds": 0.0, "answer": None, "said": f"It could not be run: {problem}."}
        try:
            status = _wait(child, ctx, began)
        except BaseException:
            _kill(child)
            raise
        out.seek(0)
        answer = _answer(out.read(_LONGEST_ANSWER + 1))
        told: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 3), "answer": answer}
        if answer is None:
            err.seek(max(0, err.seek(0, os.SEEK_END) - _LONGEST_WORDS))
            said = err.read().decode("utf-8", "replace").strip()
            told["said"] = said or f"It ended with status {status} and gave no answer."
    return told


def _answer(written: bytes) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        found = json.loads(written)
        if isinstance(found, dict):
            return found
    return None


def _wait(child: subprocess.Popen[bytes], ctx: Context, began: float) -> int:
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(0.1)
        ctx.check()
        if time.monotonic() - began > SECONDS:
            _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
