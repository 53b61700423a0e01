"""Stopping RefServer while a job runs: a real supervisor whose program ends at the second signal only, as the workers do."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from refserver.recovery import services, waiting
from refserver.recovery.locations import Locations

SERVE = """
import sys
from pathlib import Path
from backups.worker.supervisor import Program, hold, supervise
worker = Program(name="worker", command=[sys.executable, sys.argv[2]], environment={}, stop_within=30.0, drain_within=600.0)
with hold(Path(sys.argv[1])):
    supervise([worker], print)
"""
WORKER = """
import signal, subprocess, sys, time
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append(1))
job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", "-m", "backups.engine", "verify"])
while len(received) < 2:
    time.sleep(0.02)
job.kill()
"""


@pytest.mark.slow
def test_it_says_what_it_waits_for_and_interrupts_it_after_the_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "GRACE_SECONDS", 1.5)
    for name, text in (("serve.py", SERVE), ("worker.py", WORKER)):
        (tmp_path / name).write_text(text)
    run = tmp_path / "run"
    command = [sys.executable, str(tmp_path / "serve.py"), str(run / "serve.pid"), str(tmp_path / "worker.py")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as serve:
        try:
            while "verify" not in waiting.work_of(serve.pid):
                time.sleep(0.02)
            locations = Locations(paths={"REFSERVER_RUN_DIR": run}, values={})
            [found] = [one for one in services.running(locations) if isinstance(one, services.ServeProcess)]
            said: list[tuple[float, str]] = []
            began = time.monotonic()
            found.stop(lambda: None, lambda text: said.append((time.monotonic() - began, text)))
            assert time.monotonic() - began < 10
            assert serve.wait(5) == 0
        finally:
            serve.kill()
    assert said[0][0] < 1.0
    assert said[0][1].startswith("waiting for refbackup verify (process ")
    assert [text for _, text in said if text.startswith("after 1.5 s: interrupting refbackup verify")]
