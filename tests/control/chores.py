"""Job types to disturb: small processes that do what their arguments say, and record each run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from django.conf import settings

from backups.jobs.arguments import Arguments
from backups.jobs.job_type import JobType

CHORE_PROGRAM = """
import json, os, signal, subprocess, sys, time
told = json.loads(sys.argv[1])
with open(told["marks"], "a") as marks:
    marks.write(os.environ["BACKUPS_JOB"] + "\\n")
if told["stubborn"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if told["grandchild"]:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    subprocess.Popen([sys.executable, "-c", deaf])
began = time.monotonic()
for number in range(told["lines"]):
    print(json.dumps({"event": "log", "line": f"line {number}"}), file=sys.stderr, flush=True)
while (elapsed := time.monotonic() - began) < told["seconds"]:
    time.sleep(0.02)
    if told["lines"]:
        print(json.dumps({"event": "log", "line": f"after {elapsed:.2f} s"}), file=sys.stderr, flush=True)
    print(json.dumps({"event": "progress", "phase": "toil", "done": int(elapsed * 100), "total": int(told["seconds"] * 100),
                      "rate": 100.0, "left": told["seconds"] - elapsed, "elapsed": elapsed, "finished": False}),
          file=sys.stderr, flush=True)
if told["odd"]:
    sys.stderr.write("nul \\0 and half \\udcff\\n".encode("utf-8", "surrogateescape").decode("latin-1"))
    print('{"name": "nul \\\\u0000 and half \\\\udcff", "number": NaN}')
else:
    print('{"done": true}')
"""


class ChoreArguments(Arguments):
    seconds: float = 0.0
    lines: int = 0
    stubborn: bool = False
    grandchild: bool = False
    odd: bool = False


def marks() -> Path:
    """The file in which every run of a chore leaves its job's id."""
    return Path(settings.BACKUPS["RUN_FOLDER"]) / "marks"


def _command(arguments: ChoreArguments, job: str) -> list[str]:
    told = arguments.model_dump() | {"marks": str(marks())}
    return [sys.executable, "-I", "-S", "-c", CHORE_PROGRAM, json.dumps(told)]


CHORE = JobType(name="chore", title="Chore", arguments=ChoreArguments, command=_command, attempts=2)
WRITING_CHORE = JobType(
    name="writing_chore", title="Chore that writes", arguments=ChoreArguments, command=_command, writes=True
)
SACRED_CHORE = JobType(
    name="sacred_chore", title="Chore that is not killed", arguments=ChoreArguments, command=_command, killable=False
)
