"""`scripts/disaster_recovery.sh`: restores, faults at each step, and machines without an environment."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from backups.engine.repository.folder import open_repository
from refserver.recovery.__main__ import main
from tests.recovery.clone import ROOT, Clone, copy_project, free_port

pytestmark = pytest.mark.slow

FULL, NEWEST, LIVE = (65, 130, 65), (66, 132, 66), (67, 134, 67)
"""What the full backup holds, the incremental one, and the stores."""

SERVICE = """
import http.server, os, signal, sys
from pathlib import Path
from backups.worker.supervisor import hold
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ["MARK"].encode())
    def log_message(self, *_): pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with hold(Path("var/run/serve.pid")):
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Answer).serve_forever()
"""
"""A substitute for `manage.py serve`, which takes seconds to start: it holds the same pid file in the same way."""

FAULTS = """
import os, sys
from pathlib import Path
fault = Path(__file__).with_name("fault")
if "restore" in sys.orig_argv and {"--in-place", "--finish"} & set(sys.orig_argv) and fault.exists():
    os.environ["REFBACKUP_FAULT"] = fault.read_text()
    if "lasting" not in os.environ:
        fault.unlink()
"""
"""Plants a fault in the first run of the engine only."""


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """All files except the logs of databases, which readers create and remove."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if not path.is_dir() and not path.name.endswith(("-shm", "-wal"))
    }


@contextmanager
def service(clone: Clone, port: int, *, mark: str = "first") -> Iterator[None]:
    """A running service; whatever runs in its place is stopped at the end."""
    (clone.root / "service.py").write_text(SERVICE)
    command = [sys.executable, "service.py", "--port", str(port)]
    environment = clone.environment(MARK=mark, PYTHONPATH=str(clone.root))
    with subprocess.Popen(command, cwd=clone.root, env=environment, start_new_session=True) as process:
        try:
            answer(port)
            yield
        finally:
            with suppress(OSError, ValueError):
                os.kill(int((clone.root / "var/run/serve.pid").read_text()), signal.SIGTERM)
            process.terminate()


def answer(port: int, path: str = "healthz") -> str:
    for _ in range(200):
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5) as response:
            return str(response.read().decode())
        time.sleep(0.05)
    raise AssertionError("it does not answer")


def test_list_and_argument_errors(clone: Clone, capsys: pytest.CaptureFixture[str]) -> None:
    newest, full = clone.ids()
    listed = clone.recover("--list")
    assert listed.returncode == 0
    assert listed.stdout.index(newest) < listed.stdout.index(full)
    assert clone.recover("--help").stdout.startswith("Restores the data from a backup")
    day = f"{full[:4]}-{full[4:6]}-{full[6:8]}"
    repository = ("--repo", str(clone.repository))
    assert main(["--list", "--date", day, *repository]) == 0
    assert full in capsys.readouterr().out
    assert main(["--list", "--date", "2999-01", *repository]) == 0
    assert f"newest before it: {newest}" in capsys.readouterr().out
    for arguments, code in (
        ((), 2),
        (("--latest", "--list"), 2),
        (("--list", "--date", "yesterday"), 2),
        (("--list", "--date", "2026-13"), 2),
        (("--list", "--yes"), 2),
        (("--latest", "--date", day), 2),
        (("--backup-id", ""), 2),
        (("--lat",), 2),
        (("--latest", "--only", "everything", "--yes"), 2),
        (("--backup-id", "2001", "--yes"), 4),
        (("--list", "--repo", "nowhere"), 3),
        (("--list", "--repo", "s3://bucket"), 2),
    ):
        assert main([*repository, *arguments]) == code, arguments
        assert "  -> " in capsys.readouterr().err


def test_no_terminal_is_refused_and_a_dry_run_changes_nothing(clone: Clone) -> None:
    before = tree(clone.root)
    done = clone.recover("--latest")
    assert done.returncode == 1
    assert "no terminal" in done.stderr
    dry = clone.recover("--latest", "--dry-run", "--yes")
    assert dry.returncode == 0
    assert "Nothing was changed" in dry.stdout or "nothing was changed" in dry.stdout
    assert "safety backup" in dry.stdout
    assert tree(clone.root) == before


def test_it_restores_and_reports(clone: Clone) -> None:
    done = clone.recover("--latest", "--yes")
    assert done.returncode == 0, done.stderr
    assert clone.state() == NEWEST
    report = clone.report()
    for words in ("The data is NEW", "integrity_check ok", "papers 66", clone.ids()[1], "To go back"):
        assert words in report
    [file] = (clone.root / "var/recovery").glob("*.txt")
    assert file.stat().st_mode & 0o777 == 0o600
    assert re.search(r"To go back +\S+/scripts/disaster_recovery.sh --backup-id " + clone.ids()[0], report)


def test_one_store_alone_and_into_a_folder(clone: Clone, tmp_path: Path) -> None:
    before = tree(clone.root / "var/data")
    full = clone.ids()[1]
    done = clone.recover("--backup-id", full, "--only", "sqlite", "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sqlite"]
    again = clone.recover("--backup-id", full, "--to", tmp_path / "out")
    assert again.returncode == 2
    assert "Nothing was written" in again.stdout
    assert tree(clone.root / "var/data") == before
    assert clone.recover("--backup-id", full, "--only", "files", "--yes").returncode == 0
    assert clone.state() == (LIVE[0], LIVE[1], FULL[2])


@contextmanager
def terminal(clone: Clone, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The script on a new terminal."""
    ours, theirs = pty.openpty()
    command = ["scripts/disaster_recovery.sh", *arguments]
    with subprocess.Popen(
        command, cwd=clone.root, env=clone.environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            process.kill() if process.poll() is None else None
            os.close(ours)


def read_until(ours: int, wanted: str, seconds: float = 60) -> str:
    said = ""
    deadline = time.monotonic() + seconds
    while wanted not in said:
        assert time.monotonic() < deadline, said
        if select.select([ours], [], [], 1)[0]:
            try:
                said += os.read(ours, 4096).decode()
            except OSError:
                break
    return said


@pytest.mark.parametrize(("typed", "code", "state"), [("y", 1, LIVE), ("\x03", 9, LIVE)])
def test_on_a_terminal_only_the_id_confirms(clone: Clone, typed: str, code: int, state: tuple[int, int, int]) -> None:
    with terminal(clone, "--latest") as (process, ours):
        said = read_until(ours, "anything else to stop: ")
        assert "[Y/n]" not in said
        if typed == "\x03":
            while process.poll() is None:  # Python sees a signal late that comes just before it waits for a line
                os.kill(process.pid, signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(15)
        else:
            os.write(ours, typed.encode() + b"\n")
        said = read_until(ours, "never said")
        assert process.wait(30) == code, said
    assert clone.state() == state


def test_a_real_server_is_stopped_and_started_as_it_was(clone: Clone) -> None:
    port = free_port()
    assert clone.run(".venv/bin/python", "manage.py", "migrate", "--database", "control", "-v0").returncode == 0
    command = [".venv/bin/python", "manage.py", "serve", "--port", str(port)]
    environment = clone.environment(REFSERVER_ALLOWED_HOSTS="127.0.0.1")
    pid_file = clone.root / "var/run/serve.pid"
    server = subprocess.Popen(command, cwd=clone.root, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        answer(port)
        first = int(pid_file.read_text())
        done = clone.recover("--latest", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.wait(5) == 0
        second = int(pid_file.read_text())
        assert second != first
        assert "alive" in answer(port)
        assert Path(f"/proc/{second}/environ").read_bytes().count(b"REFSERVER_ALLOWED_HOSTS=127.0.0.1\0") == 1
        assert f"Stopping manage.py serve (process {first})" in done.stdout
        assert f"http://127.0.0.1:{port}/ answers" in done.stdout
        assert not (clone.root / "var/recovery/stopped.json").exists()
        assert clone.state() == NEWEST
    finally:
        server.kill()
        with suppress(OSError, ValueError):
            last = int(pid_file.read_text())
            os.kill(last, signal.SIGTERM)
            for _ in range(400):
                os.kill(last, 0)
                time.sleep(0.1)


@pytest.mark.parametrize(
    ("fault", "code", "state", "words"),
    [
        ("restore-write:kill", 1, LIVE, "The data is OLD"),
        ("restore-write:full", 8, LIVE, "The data is OLD"),
        ("in-place-folder:kill", 0, NEWEST, "Ending it"),
        ("in-place-exchanged:full", 1, LIVE, "The data is OLD"),
    ],
)
def test_after_a_fault_the_data_is_old_or_new_and_the_service_runs(
    clone: Clone, fault: str, code: int, state: tuple[int, int, int], words: str
) -> None:
    (clone.root / "sitecustomize.py").write_text(FAULTS)
    (clone.root / "fault").write_text(fault)
    port = free_port()
    with service(clone, port, mark="as it was"):
        done = clone.recover("--latest", "--yes")
        assert done.returncode == code, done.stdout
        assert answer(port) == "as it was"
    assert not (clone.root / "fault").exists()
    assert words in done.stdout
    assert clone.state() == state
    assert not list((clone.root / "var/data").glob(".refbackup-restore.*"))
    if state == NEWEST:  # the first safety backup holds the old stores, the second the half exchanged ones
        kept = [name for name in clone.ids() if f"Safety backup  {name}" in done.stdout]
        assert kept == [clone.ids()[1]]


def test_a_damaged_newest_backup_is_marked_and_the_next_sound_one_restored_with_one_stop(clone: Clone) -> None:
    for number, name in enumerate(("data.tar.zst", "manifest.json")):
        (clone.files / f"more-{number}.txt").write_bytes(os.urandom(100_000))
        clone.refbackup("create", "--repo", clone.repository, "--kind", "incremental", "--no-verify", *clone.stores)
        broken = clone.repository / "backups/default" / clone.ids()[0] / name
        content = bytearray(broken.read_bytes())
        content[len(content) // 2 if number == 0 else content.index(b'"host": "') + 9] ^= 1
        broken.write_bytes(content)
    port = free_port()
    with service(clone, port):
        done = clone.recover("--latest", "--yes")
        assert done.returncode == 0, done.stdout + done.stderr
        assert answer(port) == "first"
    assert clone.state() == NEWEST
    assert done.stdout.count("Stopping manage.py serve") == 1
    before, _, _ = done.stdout.partition("Stopping manage.py serve")
    assert "It is marked as damaged" in before
    assert clone.recover("--list").stdout.count("DAMAGED") >= 1
    again = clone.recover("--latest", "--yes")
    assert again.returncode == 0 and "It is marked as damaged" not in again.stdout
    assert "is newer, but damaged, and is skipped" in again.stdout


def test_a_mixed_restore_leaves_the_service_stopped_for_the_next_recovery(clone: Clone) -> None:
    (clone.root / "sitecustomize.py").write_text(FAULTS)
    (clone.root / "fault").write_text("in-place-folder:kill")
    port = free_port()
    with service(clone, port):
        done = clone.recover("--latest", "--yes", lasting="yes")
        assert done.returncode == 1
        assert "MIXED" in done.stdout
        assert "Not started" in done.stdout
        with pytest.raises(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)
        (clone.root / "fault").unlink()
        started = clone.run(".venv/bin/python", "manage.py", "locations")
        assert started.returncode == 1 and "(refserver.E001)" in started.stderr
        assert "A restore was interrupted" in started.stderr
        served = clone.run(".venv/bin/python", "-c", "import refserver.wsgi")
        assert served.returncode == 3 and "--finish" in served.stderr
        assert clone.recover("--look").returncode == 1
        refused = clone.recover("--latest", "--yes")
        assert refused.returncode == 1 and "--finish" in refused.stderr
        planned = clone.recover("--undo", "--dry-run")
        assert planned.returncode == 0 and "Nothing was changed" not in planned.stderr
        done = clone.recover("--undo", "--yes")
        assert done.returncode == 0, done.stdout
        assert "An earlier recovery did not finish and left" in done.stdout and "The data is OLD" in done.stdout
        assert answer(port) == "first"
    assert clone.state() == LIVE
    assert clone.recover("--finish", "--yes").returncode == 1


@pytest.mark.parametrize("at", ["Making a safety backup", "Checking the live stores"])
def test_a_killed_recovery_is_named_and_what_it_stopped_is_started(clone: Clone, at: str) -> None:
    port = free_port()
    newest = clone.ids()[0]
    with service(clone, port):
        with subprocess.Popen(
            ["scripts/disaster_recovery.sh", "--latest", "--yes"],
            cwd=clone.root,
            env=clone.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if at in line:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
        looked = clone.recover("--look")
        assert looked.returncode == 1
        assert f"PROBLEM  The recovery of {newest}, begun at " in looked.stdout
        assert "left manage.py serve" in looked.stdout and "disaster_recovery.sh --finish starts it" in looked.stdout
        if at == "Checking the live stores":
            safety = next(item.id for item in open_repository(clone.repository).backups("default") if item.manifest.safety)
            assert f"--backup-id {safety} brings back the data from before it" in looked.stdout
        undo = clone.recover("--undo", "--yes")
        assert undo.returncode == 1 and "--look names the safety backup" in undo.stderr
        planned = clone.recover("--finish", "--dry-run")
        assert planned.returncode == 0 and "Nothing was changed" in planned.stdout
        finished = clone.recover("--finish")
        assert finished.returncode == 0 and "Starting manage.py serve" in finished.stdout, finished.stdout
        assert answer(port) == "first"
        assert "was killed" not in clone.recover("--look").stdout
    assert clone.recover("--finish", "--yes").returncode == 1, "nothing is left to do"


def test_an_undo_where_nothing_existed_moves_the_new_stores_aside(clone: Clone) -> None:
    (clone.root / "sitecustomize.py").write_text(FAULTS)
    (clone.root / "fault").write_text("in-place-checked:kill")
    shutil.rmtree(clone.root / "var/data")
    assert "MIXED" in clone.recover("--latest", "--yes", lasting="yes").stdout
    (clone.root / "fault").unlink()
    planned = clone.recover("--undo", "--dry-run")
    assert planned.returncode == 0 and "none of its stores existed" in planned.stdout, planned.stderr
    assert f"move {clone.root}/var/data/refserver.sqlite3 aside" in planned.stdout and "safety backup" not in planned.stdout
    undone = clone.recover("--undo", "--yes")
    assert undone.returncode == 0 and "The data is OLD" in undone.stdout, undone.stdout
    kept = sorted(
        path.name.partition(".before-")[0] for path in (clone.root / "var/data").iterdir() if ".gate" not in path.name
    )
    assert kept == ["chroma", "documents", "refserver.sqlite3"]
    assert undone.stdout.count("Moved aside ") == 3


@pytest.mark.parametrize(
    ("number", "when"), [(signal.SIGINT, "Stopping"), (signal.SIGTERM, "held up"), (signal.SIGHUP, "Staging")]
)
def test_a_signal_stops_it_safely(clone: Clone, number: signal.Signals, when: str) -> None:
    port = free_port()
    with service(clone, port):
        with subprocess.Popen(
            ["scripts/disaster_recovery.sh", "--latest", "--yes"],
            cwd=clone.root,
            env=clone.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            said = ""
            for line in process.stdout:
                said += line
                if when in line:
                    process.send_signal(number)
                    break
            said += process.stdout.read()
        assert answer(port) == "first"
    state = {9: LIVE, 0: NEWEST}[process.returncode]
    assert clone.state() == state, said
    assert ("The data is OLD" if state == LIVE else "The data is NEW") in said
    assert f"{number.name}: stopping" in said


def test_after_a_kill_the_next_recovery_starts_the_stopped_service(clone: Clone) -> None:
    port = free_port()
    with service(clone, port):
        with subprocess.Popen(
            ["scripts/disaster_recovery.sh", "--latest", "--yes"],
            cwd=clone.root,
            env=clone.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            for line in process.stdout:
                if "Making a safety backup" in line:
                    process.kill()
                    break
        stopped = clone.root / "var/recovery/stopped.json"
        assert stopped.stat().st_mode & 0o777 == 0o600
        time.sleep(0.5)  # its child notices and cleans up
        assert clone.state() in (LIVE, NEWEST)
        done = clone.recover("--latest", "--yes")
        assert done.returncode == 0, done.stdout
        assert answer(port) == "first"
        assert not stopped.exists()
    assert clone.state() == NEWEST


def test_an_open_store_is_refused_unless_yes_is_given(clone: Clone) -> None:
    with closing(sqlite3.connect(clone.database)) as reader:
        reader.execute("SELECT count(*) FROM library_paper").fetchone()
        # the script must name this process
        with terminal(clone, "--latest") as (process, ours):
            read_until(ours, "anything else to stop: ")
            os.write(ours, f"{clone.ids()[0]}\n".encode())
            said = read_until(ours, "never said")
            assert process.wait(30) == 6
        assert f"process {os.getpid()}" in said
        assert clone.state() == LIVE
        done = clone.recover("--latest", "--yes")
        assert done.returncode == 0, done.stdout
        assert "Continuing because of --yes" in done.stdout
        assert reader.execute("SELECT count(*) FROM library_paper").fetchone() == (NEWEST[0],)


def test_a_broken_store_is_moved_aside_and_put_back_if_the_restore_fails(clone: Clone) -> None:
    for path in clone.database.parent.glob("refserver.sqlite3*"):
        path.unlink()
    clone.database.mkdir()
    (clone.database / "what").write_text("not a database")
    (clone.root / "sitecustomize.py").write_text(FAULTS)
    (clone.root / "fault").write_text("in-place-exchanged:full")
    lasting = clone.recover("--latest", "--yes", lasting="yes")
    assert lasting.returncode == 1
    assert "moved aside" in lasting.stdout
    assert "The data is OLD" in lasting.stdout
    assert (clone.database / "what").exists()
    assert not list(clone.database.parent.glob("*.before-*"))
    (clone.root / "fault").unlink()
    done = clone.recover("--latest", "--yes")
    assert done.returncode == 0, done.stdout
    assert clone.state() == NEWEST
    [aside] = clone.database.parent.glob("refserver.sqlite3.before-*")
    assert (aside / "what").read_text() == "not a database"
    assert f"{clone.database} -> {aside}" in clone.report()


def test_backups_of_another_application_are_restored_into_folders_only(clone: Clone, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("a")
    clone.refbackup("create", "--repo", clone.repository, "--set", "other", "--files", f"documents={other}", "--no-verify")
    done = clone.recover("--latest", "--set", "other", "--yes")
    assert done.returncode == 2
    assert "not this application's" in done.stderr
    assert clone.recover("--latest", "--set", "other", "--to", tmp_path / "out").returncode == 0
    assert clone.state() == LIVE


def test_the_control_database_is_restored_from_its_own_set(clone: Clone) -> None:
    control = clone.root / "var/control.sqlite3"
    clone.refbackup("create", "--repo", clone.repository, "--set", "control", "--sqlite", f"control={control}", "--no-verify")
    control.write_bytes(b"lost")
    done = clone.recover("--latest", "--set", "control", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    with closing(sqlite3.connect(control)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert clone.state() == LIVE


def test_locations_are_those_of_django(clone: Clone) -> None:
    (clone.root / ".env").write_text(
        "REFSERVER_DATABASE=\"elsewhere/db.sqlite3\"\nexport CHROMA_PATH='vectors' # beside\nREFSERVER_FILES=~/docs\n"
        "BACKUP_REPOSITORY=../backups\nREFSERVER_RUN_DIR=\n"
    )
    told = json.loads(clone.run(".venv/bin/python", "manage.py", "locations", "--json").stdout)
    code = (
        "import json; from refserver.recovery.locations import read_locations\n"
        "print(json.dumps({name: str(path) for name, path in read_locations().paths.items()}))"
    )
    found = json.loads(clone.run(".venv/bin/python", "-c", code).stdout)
    assert found == {name: told[name] for name in found}


UNIT = """#!/usr/bin/env bash
# A systemctl that knows one unit: its state is a file beside it.
state=$(cat "$(dirname "$0")/state")
case $1 in
    show)
        if [[ " $* " == *Environment* ]]; then
            printf 'LoadState=loaded\\nEnvironmentFiles=%s (ignore_errors=no)\\n' "$FILE"
            printf 'Environment=REFSERVER_DATABASE=%s "CHROMA_PATH=%s"\\n' "$DATABASE" "$CHROMA"
        else
            printf 'LoadState=loaded\\nActiveState=%s\\n' "$state"
        fi ;;
    --no-ask-password) printf '%s\\n' "$2" >> "$(dirname "$0")/calls"
        case $2 in stop) echo inactive ;; start) echo active ;; esac > "$(dirname "$0")/state" ;;
esac
"""


def test_a_systemd_unit_is_stopped_and_started_and_names_the_stores(clone: Clone, tmp_path: Path) -> None:
    """The stores are where the unit says, not at the default paths."""
    data = tmp_path / "lib"
    (clone.root / "var/data").rename(data)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(UNIT)
    (tools / "systemctl").chmod(0o755)
    (tools / "state").write_text("active\n")
    settings = tmp_path / "refserver.env"
    settings.write_text(f"REFSERVER_FILES={data / 'documents'}\n")
    done = clone.recover(
        "--latest",
        "--yes",
        PATH=f"{tools}:{os.environ['PATH']}",
        FILE=str(settings),
        DATABASE=str(data / "refserver.sqlite3"),
        CHROMA=str(data / "chroma"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tools / "calls").read_text().split() == ["stop", "start"]
    assert not (clone.root / "var/data").exists()
    data.rename(clone.root / "var/data")
    assert clone.state() == NEWEST


# Without an environment


def tools(folder: Path, *names: str) -> str:
    """A PATH with only these programs."""
    folder.mkdir()
    for name in names:
        found = shutil.which(name)
        assert found, name
        (folder / name).symlink_to(found)
    return str(folder)


CORE = (
    "bash",
    "env",
    "dirname",
    "basename",
    "cut",
    "cat",
    "sed",
    "tail",
    "date",
    "mkdir",
    "mv",
    "cp",
    "id",
    "timeout",
    "flock",
)
UNPACK = ("sha256sum", "zstd", "tar")


@pytest.mark.parametrize("python", [False, True], ids=["no Python", "no packages"])
def test_without_packages_it_prints_commands_that_work(clone: Clone, tmp_path: Path, python: bool) -> None:
    (clone.root / ".venv").unlink()
    if python:
        # A Python of the PATH, and an index that holds nothing.
        base = Path(sys.base_prefix, "bin")
        empty = tmp_path / "index"
        empty.mkdir()
        more = {
            "PATH": f"{tools(tmp_path / 'tools', *CORE, *UNPACK)}:{base}",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(empty),
        }
    else:
        more = {"PATH": tools(tmp_path / "tools", *CORE, *UNPACK)}
    for path in (clone.database, clone.database.with_name("refserver.sqlite3-wal")):
        if path.exists():
            path.write_bytes(b"broken")
    done = clone.recover("--latest", "--yes", **more)
    assert done.returncode == 1
    assert "the packages cannot be installed" in done.stderr
    assert "1 newer incremental backups need the engine" in done.stderr
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", textwrap.dedent(done.stdout)],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert clone.state() == FULL
    [aside] = clone.database.parent.glob("refserver.sqlite3.before-*[0-9]Z")
    assert aside.read_bytes() == b"broken"


def test_a_new_machine_needs_only_the_repository(template: Clone, tmp_path: Path) -> None:
    """Only a copy of the repository is left. The lock is empty and the packages come from PYTHONPATH, because installing them
    would take minutes; the rest is as on a new machine."""
    fresh = Clone(copy_project(tmp_path / "fresh"))
    (fresh.root / ".venv").unlink()
    (fresh.root / "requirements.lock").write_text("")
    shutil.copytree(template.repository, tmp_path / "copied")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    link = fresh.root / "sitecustomize.py"
    link.write_text(f"import site; site.addsitedir({packages!r})\n")
    done = fresh.recover(
        "--latest",
        "--yes",
        "--repo",
        tmp_path / "copied",
        PYTHONPATH=packages,
        PIP_NO_BUILD_ISOLATION="0",
        PATH=f"{Path(sys.base_prefix, 'bin')}:{os.environ['PATH']}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Making it from requirements.lock" in done.stderr
    assert (fresh.root / ".venv/bin/python").exists()
    assert fresh.state() == NEWEST
    assert fresh.database.parent.stat().st_mode & 0o777 == 0o700


def test_shellcheck_finds_nothing() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck")
    names = ["disaster_recovery.sh", "check_backups.sh"]
    done = subprocess.run(
        ["shellcheck", "-x", *(f"scripts/{name}" for name in names)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_on_a_terminal_it_offers_to_end_an_interrupted_restore(clone: Clone) -> None:
    arguments = ("restore", "latest", "--in-place", "--yes", "--repo", clone.repository, *clone.stores)
    killed = clone.run(".venv/bin/python", "-m", "backups.engine", *arguments, REFBACKUP_FAULT="in-place-folder:kill")
    assert killed.returncode == -signal.SIGKILL
    looked = clone.recover("--look")
    assert f"{clone.root}/scripts/disaster_recovery.sh --finish" in looked.stdout
    checked = clone.run(".venv/bin/python", "manage.py", "check_consistency")
    assert checked.returncode == 1
    assert "section “A restore was interrupted”" in checked.stderr
    with terminal(clone, "--latest") as (process, ours):
        read_until(ours, "Type finish to complete that restore")
        os.write(ours, b"finish\n")
        read_until(ours, "Type the backup's id to continue")
        os.write(ours, f"{clone.ids()[1]}\n".encode())  # the newest is the safety backup
        said = read_until(ours, "never said")
        assert process.wait(30) == 0, said
    assert clone.state() == NEWEST
