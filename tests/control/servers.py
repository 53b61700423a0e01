"""A real PostgreSQL and a real Redis, each for as long as a module's tests take."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PASSWORD = "not-to-be-seen-anywhere"


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    return found[-1].parent


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A server's socket folder; it has a user ``keeper`` with `PASSWORD`, and no databases yet."""
    binaries = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # short: the name of a socket has 107 characters at most
    more: dict[str, object] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        more = {"user": owner.pw_uid, "group": owner.pw_gid}
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **more}
    initialise = [binaries / "initdb", "-D", folder / "data", "-U", "keeper", "--auth=scram-sha-256", "--no-sync"]
    subprocess.run([*initialise, f"--pwfile={folder}/password"], check=True, **quiet)
    options = ["-c", "fsync=off", "-c", "listen_addresses=", "-k", folder]
    server = subprocess.Popen([binaries / "postgres", "-D", folder / "data", *options], **quiet)
    try:
        deadline = time.monotonic() + 20
        while subprocess.run([binaries / "pg_isready", "-q", "-h", folder], check=False).returncode:
            assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)
        yield str(folder)
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def make_database(folder: str, name: str) -> str:
    """Make a database, and return its address without the password."""
    import psycopg

    with psycopg.connect(host=folder, user="keeper", password=PASSWORD, dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return f"postgresql://keeper@/{name}?host={folder}"


class RedisServer:
    """A server with a password, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("Redis did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("no Redis is installed: apt-get install redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    try:
        yield server
    finally:
        server.stop()
