"""`manage.py serve` and its supervisor, in processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from backups.worker.supervisor import AlreadyRunning, hold
from tests.library.places import ROOT, Places

SUPERVISE = """
import sys
from pathlib import Path
from backups.worker import supervisor
supervisor._FIRST_PAUSE = 0.05
folder, *names = sys.argv[1:]
programs = [
    supervisor.Program(
        name=name, command=[sys.executable, f"{folder}/{name}.py"], environment={"FOLDER": folder},
        stop_within=1.0
    )
    for name in names
]
sys.exit(0 if supervisor.supervise(programs, lambda text: print(text, flush=True)) else 1)
"""


@contextmanager
def running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(40)


def until(process: subprocess.Popen[str], text: str) -> str:
    """Read the process's output up to a line that contains *text*; return that line."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} did not come: {lines}")


def supervised(folder: Path, **programs: str) -> list[str]:
    for name, code in programs.items():
        (folder / f"{name}.py").write_text(code)
    return [sys.executable, "-c", SUPERVISE, str(folder), *programs]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_dead_child_is_restarted_with_growing_pauses(tmp_path):
    with running(supervised(tmp_path, short="raise SystemExit(3)"), environment()) as process:
        assert "with exit code 3; restarting in 0.05 s" in until(process, "ended unexpectedly")
        assert "in 0.1 s" in until(process, "ended unexpectedly")
        process.send_signal(signal.SIGINT)
        until(process, "SIGINT received, stopping")
        assert process.wait(10) == 0


def test_only_the_child_is_signalled_and_may_finish(tmp_path):
    patient = """
import os, signal, subprocess, sys, time
LATER = "import sys, time; time.sleep(0.5); open(sys.argv[1], 'w')"
assert os.getsid(0) == os.getpid()                        # a session of its own
worker = subprocess.Popen([sys.executable, "-c", LATER, os.environ["FOLDER"] + "/done"])
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
print("ready", flush=True)
while not asked:
    time.sleep(0.01)
sys.exit(worker.wait())                                   # the worker was not signalled
"""
    with running(supervised(tmp_path, patient=patient), environment()) as process:
        until(process, "ready")
        process.terminate()
        until(process, "patient stopped")
        assert process.wait(10) == 0
    assert (tmp_path / "done").exists()


def test_a_child_that_ignores_sigterm_is_killed(tmp_path):
    deaf = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
    with running(supervised(tmp_path, deaf=deaf), environment()) as process:
        until(process, "ready")
        process.terminate()
        until(process, "deaf did not stop within 1 s; killing it")
        assert process.wait(10) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="uses Linux's parent death signal")
def test_children_stop_when_the_supervisor_is_killed(tmp_path):
    child = "import os, time\nprint('I am', os.getpid(), flush=True)\ntime.sleep(60)"
    with running(supervised(tmp_path, child=child), environment()) as process:
        pid = int(until(process, "I am ").split()[-1])
        process.kill()
        process.wait(10)
    with suppress(ProcessLookupError):
        for _ in range(200):
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
                break
            time.sleep(0.02)
        else:
            pytest.fail("the child outlived its supervisor")


def test_the_pid_file_names_the_running_process(tmp_path):
    file = tmp_path / "run" / "serve.pid"
    with hold(file):
        assert file.read_text() == f"{os.getpid()}\n"
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()} "):
            hold(file)
    hold(file).close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch(address: str) -> bytes:
    for _ in range(200):
        with (
            suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(address, timeout=60) as response,  # the port is open before the web server is ready
        ):
            return response.read()
        time.sleep(0.05)
    raise AssertionError(f"{address} did not answer")


@pytest.mark.slow
def test_serve_starts_answers_and_stops(sample_library: Places):
    port = free_port()
    sample_library.manage("collectstatic", "--no-input", "--verbosity", "0")
    command = [sys.executable, "manage.py", "serve", "--port", str(port)]
    with running(command, sample_library.environment) as process:
        until(process, "web started")
        page = fetch(f"http://127.0.0.1:{port}/?q=attention").decode()
        assert "Attention Is All You Need" in page
        style = page.split('rel="stylesheet" href="')[1].split('"')[0]
        assert b"--accent" in fetch(f"http://127.0.0.1:{port}{style}")
        assert style != "/static/library/library.css"  # named by its content
        again = sample_library.manage("serve", "--port", str(free_port()))
        assert (again.returncode, "already running as process" in again.stderr) == (1, True)
        process.terminate()
        assert "web stopped" in until(process, "web stopped")
        assert process.wait(20) == 0


@pytest.mark.slow
def test_a_port_in_use_is_reported_at_once(library: Places):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = library.manage("serve", "--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert "another program uses it" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_an_administrator_is_created_once(library: Places):
    first, second = library.manage("make_admin"), library.manage("make_admin")
    assert "shown only once" in first.stdout
    assert second.stdout.split() == ["Administrator", "admin", "(existing)"]


@pytest.mark.slow
def test_locations_can_be_evaluated_by_a_shell(library: Places):
    lines = library.manage("locations", "--shell").stdout
    shown = subprocess.run(["sh", "-c", f'{lines}\necho "$CHROMA_PATH"'], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(library.chroma)
