"""The application's own check of its restored stores.

An application can judge a restored backup by two commands. Verifications by restore and drills run them, without a shell,
on the scratch copy of a sound backup:

- ``probe`` (``--probe``, ``BACKUP_DRILL_COMMAND``) decides by its exit status whether a drill passes;
- ``examine`` (``--examine``, ``BACKUP_EXAMINE_COMMAND``) prints one JSON object, which the proof keeps:
  ``{"state": "consistent", "findings": 0, "kinds": {}, "listed": []}`` for example.

Neither marks a backup as damaged: the restored bytes are those of the source, so what they find was in the source at the
cut, or is a fault of the command.

Words that are `FOLDER` or `INSTANT` are replaced. In the environment, ``REFBACKUP_RESTORED`` is the folder, and the
settings of the sources (``BACKUP_SQLITE``, ...) are the paths of the restored stores.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .config import EARLIER_NAMES, SOURCE_SETTINGS
from .errors import UsageError
from .runtime.context import Context
from .types import Backup

TIME_LIMIT = 900.0
"""Seconds after which a command is killed."""

FOLDER, INSTANT = "{folder}", "{instant}"
"""Words that stand for the folder of the restored stores, and for the instant of the cut in ISO 8601."""

_MOST_ANSWER = 1 << 20
_MOST_OUTPUT = 2000
_MOST_ERRORS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationCheck:
    """The commands of an application; an empty one is not run."""

    probe: str = ""
    examine: str = ""

    def run(self, backup: Backup, folder: Path, ctx: Context) -> dict[str, Any]:
        """Run the commands on the stores of *backup* restored in *folder*; the results by their names in a proof's ``checks``.

        ``probe``: ``{"ok", "status", "seconds", "said"}``. ``application``: ``{"status", "seconds", "answer"}``; if ``answer``
        is None, ``said`` has the error output or why the command could not be run.

        Raises `UsageError` if the probe cannot be run, and `Cancelled` after the command's processes were killed.
        """
        results = {}
        if self.probe:
            with ctx.phase("verify", "probe"):
                results["probe"] = _probe(self.probe, backup, folder, ctx)
        if self.examine:
            with ctx.phase("verify", "examine"):
                results["application"] = _examine(self.examine, backup, folder, ctx)
        return results


NO_CHECK = ApplicationCheck()
"""Runs nothing."""


def _probe(command: str, backup: Backup, folder: Path, ctx: Context) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out:
        try:
            status, seconds = _run(command, backup, folder, ctx, out, out)
        except (OSError, ValueError) as problem:
            raise UsageError(
                f"The probe could not be run: {problem}.",
                hint="Correct --probe or BACKUP_DRILL_COMMAND. No proof was recorded.",
            ) from None
        return {"ok": status == 0, "status": status, "seconds": seconds, "said": _end_of(out, _MOST_OUTPUT)}


def _examine(command: str, backup: Backup, folder: Path, ctx: Context) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            status, seconds = _run(command, backup, folder, ctx, out, err)
        except (OSError, ValueError) as problem:
            return {"status": None, "seconds": 0.0, "answer": None, "said": f"The command could not be run: {problem}."}
        out.seek(0)
        answer = None
        with contextlib.suppress(ValueError):
            answer = json.loads(out.read(_MOST_ANSWER + 1))
        if isinstance(answer, dict):
            return {"status": status, "seconds": seconds, "answer": answer}
        said = _end_of(err, _MOST_ERRORS) or f"The command exited with status {status} and printed no JSON object."
        return {"status": status, "seconds": seconds, "answer": None, "said": said}


def _run(command: str, backup: Backup, folder: Path, ctx: Context, out: IO[bytes], err: IO[bytes]) -> tuple[int, float]:
    """The exit status of *command*, and the seconds that it took. Raises ``OSError`` and ``ValueError`` if it cannot be run."""
    values = {FOLDER: str(folder), INSTANT: backup.manifest.time.isoformat()}
    words = [values.get(word, word) for word in shlex.split(command)]
    environment = {**os.environ, "REFBACKUP_RESTORED": str(folder)}
    for record in reversed(backup.manifest.sources):  # of several sources of a kind, the first
        for names in (SOURCE_SETTINGS, EARLIER_NAMES):
            environment[names[record.kind]] = str(folder / record.prefix)
    began = time.monotonic()
    child = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
    try:
        while child.poll() is None:
            ctx.check()
            if time.monotonic() - began > TIME_LIMIT:
                _kill(child)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)
    except BaseException:
        _kill(child)
        raise
    return child.returncode, round(time.monotonic() - began, 3)


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _end_of(file: IO[bytes], size: int) -> str:
    file.seek(max(0, file.seek(0, os.SEEK_END) - size))
    return file.read().decode("utf-8", "replace").strip()
