"""Runs that nobody watches: silence on success, a log file, a dead man's switch, and waiting for another run to end."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backups.engine.cli import main
from backups.engine.repository.folder import open_repository
from backups.engine.runtime import locks
from tests.control.receivers import Web, web_server
from tests.restore.stores import make_database

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as web:
        yield web


@pytest.fixture
def run(tmp_path: Path, capsys: Any) -> Run:
    """A repository and a database, and `refbackup` in this process: exit code, standard output and standard error."""
    make_database(tmp_path / "app.sqlite3", 10)
    assert main(["init", "--repo", str(tmp_path / "repo"), "--quiet"]) == 0

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([*map(str, arguments), "--repo", str(tmp_path / "repo")])
        return code, *capsys.readouterr()

    return run


CREATE = ("create", "--sqlite", "app.sqlite3", "--no-verify", "--quiet")


def test_quiet_is_silent_on_success_and_only_then(run: Run, tmp_path: Path) -> None:
    assert run(*CREATE) == (0, "", "")
    assert run("verify", "--quiet", "--json") == (0, "", "")
    assert run("prune", "--keep-last", 1, "--quiet") == (0, "", "")
    code, out, err = run("create", "--sqlite", "gone.sqlite3", "--quiet")
    assert code == 6 and out == "" and "gone.sqlite3" in err
    (tmp_path / "repo/backups/default").rename(tmp_path / "away")
    code, out, err = run("verify", "--all", "--quiet")
    assert code == 4 and "refbackup: " in err


def test_a_finding_is_printed_although_quiet(run: Run, tmp_path: Path) -> None:
    run(*CREATE)
    (data,) = (tmp_path / "repo").glob("backups/default/*/data.tar.zst")
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    code, out, _ = run("verify", "--quiet")
    assert code == 5 and "DAMAGED" in out


def test_the_switch_is_called_and_learns_of_a_failure(run: Run, web: Web) -> None:
    assert run(*CREATE, "--heartbeat", web.url("/ping/s3cr3t-token")) == (0, "", "")
    assert web.paths == ["/ping/s3cr3t-token"] and b"create on " in web.requests[0].body
    code, _, err = run("create", "--sqlite", "gone.sqlite3", "--quiet", "--heartbeat", web.url("/ping/s3cr3t-token?x=1"))
    assert code == 6 and "Warning" not in err
    assert web.paths[1:] == ["/ping/s3cr3t-token/fail?x=1"] and b"exit code 6" in web.requests[1].body


def test_create_alone_calls_the_switch_of_the_settings(run: Run, web: Web, monkeypatch: Any, tmp_path: Path) -> None:
    secret = tmp_path / "heartbeat"
    secret.write_text(web.url("/of-settings") + "\n")
    monkeypatch.setenv("BACKUP_HEARTBEAT_URL_FILE", str(secret))
    run("verify", "--all")
    run(*CREATE)
    run(*CREATE, "--heartbeat", web.url("/given"))
    assert web.paths == ["/of-settings", "/given"]


def test_a_switch_that_fails_is_said_and_fails_nothing(run: Run, web: Web) -> None:
    web.status = 500
    code, out, err = run(*CREATE, "--heartbeat", web.url())
    assert (code, out) == (0, "") and "was not accepted: status 500" in err and "s3cr3t" not in err
    code, _, err = run(*CREATE, "--heartbeat", "http://192.0.2.1/ping")  # TEST-NET-1: nothing is sent there
    assert code == 0 and "Not sent: 192.0.2.1 is another machine: use https." in err
    web.over.set()
    code, _, err = run(*CREATE, "--heartbeat", "http://127.0.0.1:1/ping")
    assert code == 0 and "cannot be reached" in err


@pytest.mark.parametrize("address", ["ftp://example.org/x", "https://me:pw@example.org/", "ping", "https:///x"])
def test_an_address_that_cannot_be_called_is_wrong_usage(run: Run, monkeypatch: Any, address: str) -> None:
    assert run(*CREATE, "--heartbeat", address)[0] == 2
    monkeypatch.setenv("BACKUP_HEARTBEAT_URL", address)
    code, _, err = run(*CREATE)
    assert code == 2 and "BACKUP_HEARTBEAT_URL: It " in err


def test_the_log_file_tells_what_was_done(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    run(*CREATE, "--log-file", log)
    run("create", "--sqlite", "app=gone\n.sqlite3", "--quiet", "--log-file", log)
    lines = log.read_text().splitlines()
    assert all(re.match(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ create\[{os.getpid()}\] \S", line) for line in lines)
    said = [line.split("] ", 1)[1] for line in lines]
    assert said[0] == "begins" and said.count("begins") == 2
    assert any("writers paused for" in line for line in said) and "ends with exit code 0" in said
    assert said[-1] == "ends with exit code 6"
    assert log.stat().st_mode & 0o777 == 0o600


def test_a_log_file_that_cannot_be_written_fails_nothing(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path / "gone/log.txt"):
        code, out, err = run(*CREATE, "--log-file", place)
        assert (code, out) == (0, "") and err.count("cannot be written") == 1


def test_prune_waits_for_a_backup_that_is_being_made(run: Run, tmp_path: Path) -> None:
    run(*CREATE)
    repository = open_repository(tmp_path / "repo")
    began, waited = threading.Event(), threading.Event()
    acquire = locks.acquire

    def noticed(*arguments: Any, **more: Any) -> bool:
        waited.set()
        return acquire(*arguments, **more)

    def hold() -> None:
        with repository.writing("create", datetime.now(UTC)):
            began.set()
            waited.wait(30)

    with pytest.MonkeyPatch.context() as patch:
        other = threading.Thread(target=hold)
        other.start()
        began.wait(30)
        assert run("prune", "--keep-last", 1)[0] == 7
        patch.setattr(locks, "acquire", noticed)
        assert run("prune", "--keep-last", 1, "--wait", 30)[0] == 0
        other.join()
