"""`scripts/serve.sh` in a fresh copy of the project."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.library.places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def fresh_copy(target: Path) -> Path:
    """The files in git, without what this machine added."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        place = target / name
        if (ROOT / name).exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / name).read_bytes())
            place.chmod((ROOT / name).stat().st_mode)
    return target


def serve(copy: Path, port: int) -> subprocess.Popen[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("REFSERVER_", "CHROMA_", "BACKUP_", "DJANGO_", "COV", "VIRTUAL_ENV", "PYTHONPATH"))
    }
    return subprocess.Popen(
        ["scripts/serve.sh", "--port", str(port)], cwd=copy, env=environment, text=True, stdout=subprocess.PIPE
    )


def wait_until_it_answers(port: int, server: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        assert server.poll() is None, server.stdout.read() if server.stdout else ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("serve.sh did not come up")


def stop(server: subprocess.Popen[str]) -> str:
    server.send_signal(signal.SIGINT)
    said, _ = server.communicate(timeout=60)
    assert server.returncode == 0
    return said


def test_the_first_run_installs_and_backs_up_and_the_second_only_starts(tmp_path):
    copy = fresh_copy(tmp_path / "copy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = serve(copy, port)
    wait_until_it_answers(port, server)
    second = serve(copy, port)
    refused, _ = second.communicate(timeout=120)
    assert second.returncode == 1 and "Preparing the databases" not in refused
    said = stop(server)
    assert "password" in said
    assert "proof: restore" in said
    assert f"http://127.0.0.1:{port}/" in said and f"http://127.0.0.1:{port}/admin/backup/" in said
    assert "made; see them under Plans" in said and "WARNING" not in said
    with sqlite3.connect(copy / "var/control.sqlite3") as control:
        assert control.execute("SELECT count(*) FROM backups_indexedbackup").fetchone() == (1,)
        assert control.execute("SELECT count(*) FROM backups_plan").fetchone()[0] >= 5
    listed = subprocess.run(
        [copy / ".venv/bin/refbackup", "list", "--repo", copy / "var/backups", "--json"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=True,
    )
    [backup] = json.loads(listed.stdout)["backups"]
    assert (backup["kind"], backup["verification"]) == ("full", "restore")
    assert stat.S_IMODE((copy / "var/signing_key").stat().st_mode) == 0o600
    assert (copy / "var/backups/backups/default/journal.jsonl").exists(), "the first backup is signed"

    server = serve(copy, port)
    wait_until_it_answers(port, server)
    again = stop(server)
    assert "password" not in again
    assert "Making and verifying" not in again and "see them under Plans" not in again
