"""The process that opens restored stores can do little, even if what it opens takes it over."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backups.engine.check_stores import PROBER
from backups.engine.errors import EngineError
from backups.engine.runtime.child import Child
from tests.restore.stores import ROOT, make_database

ATTEMPTS = """
import json, os, socket, sqlite3, subprocess, sys
from pathlib import Path
from backups.engine.runtime.sandbox import confine

folder, outside = Path(sys.argv[1]), Path(sys.argv[2])
kernel = confine(folder)
SCRIPT = "PRAGMA journal_mode = WAL; CREATE TABLE t (x)"

def attempt(what):
    try:
        what()
    except OSError as problem:
        return type(problem).__name__
    return "done"

print(json.dumps({"kernel": kernel.name, "files": {
    "read outside": attempt(outside.read_text),
    "list outside": attempt(lambda: os.listdir(outside.parent)),
    "write outside": attempt(lambda: outside.write_text("changed")),
    "remove outside": attempt(outside.unlink),
    "read the parent's memory": attempt(lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()),
}, "calls": {
    "connect": attempt(socket.socket),
    "run a program": attempt(lambda: subprocess.run(["/bin/true"])),
    "stop its parent": attempt(lambda: os.kill(os.getppid(), 0)),
}, "needed": {
    "write inside": attempt(lambda: (folder / "new").write_text("x")),
    "open a database": attempt(lambda: sqlite3.connect(folder / "a.sqlite3").executescript(SCRIPT)),
    "load numpy": attempt(lambda: __import__("numpy")),
}}))
"""


def test_a_confined_process_reaches_only_its_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "secret"
    inside.mkdir()
    outside.write_text("secret")
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, str(inside), str(outside)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert set(found["needed"].values()) == {"done"}, found
    if found["kernel"] is None or "FILES" not in found["kernel"] or "CALLS" not in found["kernel"]:
        pytest.skip(f"this kernel enforces only {found['kernel']}")
    assert set(found["files"].values()) == {"PermissionError"}, found
    assert set(found["calls"].values()) == {"PermissionError"}, found
    assert outside.read_text() == "secret"


def test_the_prober_opens_no_store_elsewhere_and_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFSERVER_SECRET_KEY", "secret")
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
        make_database(tmp_path / name / "app.sqlite3", 3)
    with Child(PROBER, only=tmp_path / "inside") as child:
        assert child.ask("sqlite", timeout=60, path=str(tmp_path / "inside/app.sqlite3"))["damage"] == []
        assert b"REFSERVER" not in Path(f"/proc/{child.pid}/environ").read_bytes()
        status = Path(f"/proc/{child.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        if "Seccomp:\t2" not in status:
            pytest.skip("this kernel has no seccomp")
        with pytest.raises(EngineError, match="unable to open database file"):
            child.ask("sqlite", timeout=60, path=str(tmp_path / "outside/app.sqlite3"))
    assert os.listdir(tmp_path / "outside") == ["app.sqlite3"]


def test_packages_installed_beside_the_engine_can_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "packages").mkdir()
    (tmp_path / "inside").mkdir()
    (tmp_path / "packages/beside.py").write_text("")
    shutil.copytree(ROOT / "backups/engine", tmp_path / "packages/backups/engine", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "backups/__init__.py", tmp_path / "packages/backups")
    script = (
        "import sys; from pathlib import Path; from backups.engine.runtime.sandbox import confine; confine(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-P", "-c", f"{script}; import beside", str(tmp_path / "inside")]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "packages")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
